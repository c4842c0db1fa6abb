"""Table 2 of PD-DDPM: effect of the quality of the pre-segmentation on PD-DDPM."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from pd_ddpm.evaluation.scores import by_training, select_method
from pd_ddpm.evaluation.statistics import CASE, mean_interval, mean_over_cases, num_trainings, paired_differences
from pd_ddpm.exhibits.document import Document, Part
from pd_ddpm.exhibits.tables.cells import (
    METRICS_NOTE,
    PAPER_METRICS,
    PAPER_VALUES_NOTE,
    best_rows,
    decimals,
    effect_and_interval,
    interval_note,
    mean_and_deviation,
    missing_classes,
    missing_hd95_note,
    printed_values,
    summary,
)
from pd_ddpm.exhibits.tables.class_scores import MEANS_NOTE


@dataclass(frozen=True)
class Table2Row:
    """One pre-segmentation in Table 2.

    Attributes:
        label: name of the row.
        method: PD-DDPM method that starts from the pre-segmentation.
        presegmentation: method that makes the pre-segmentation; None is the empty mask.
        printed_row: row in the paper's Table 2, if it has one.
    """

    label: str
    method: str
    presegmentation: str | None
    printed_row: str | None


def presegmentation_dice(cases: pd.DataFrame, method: str, presegmentation: str | None) -> pd.Series:
    """Return the Dice of a pre-segmentation by training and case, for the cases of the method that starts from it.

    Args:
        cases: rows of `by_training`.
        method: method that starts from the pre-segmentation.
        presegmentation: method that makes it. None is the empty mask, with Dice 1 if the ground truth is empty and 0 if not.
    """
    method_cases = select_method(cases, method)
    if presegmentation is None:
        return (method_cases["reference_voxels"] == 0).astype(float).rename("dice")
    dice = select_method(cases, presegmentation)["dice"]
    return dice[dice.index.isin(method_cases.index)]


def table2(scores: pd.DataFrame, rows: Sequence[Table2Row], printed: pd.DataFrame) -> pd.DataFrame:
    """Return Table 2 of PD-DDPM: one row per pre-segmentation.

    Args:
        scores: score rows of PD-DDPM's methods and of the pre-segmentations.
        rows: rows in the order of the table.
        printed: values printed in the paper.

    Returns:
        The Dice of the pre-segmentation on the same test cases (`presegmentation_dice`) and the scores of PD-DDPM, each with
        the standard deviation over cases (n - 1, `*_sd`), the 95 % interval (`*_low`, `*_high`) and the paper's
        value (`*_paper`). `gain` is the Dice of PD-DDPM minus that of its pre-segmentation, paired.

    Raises:
        ValueError: a method has no score.
    """
    cases = by_training(scores)
    paper = printed_values(printed, "table2")
    table = []
    for row in rows:
        result = select_method(cases, row.method)
        start_dice = presegmentation_dice(cases, row.method, row.presegmentation)
        gain = paired_differences(result["dice"], start_dice)
        low, high = mean_interval(gain)
        columns = {"presegmentation": row.label, "method": row.method}
        metrics = {"presegmentation_dice": start_dice, **{metric: result[metric] for metric in PAPER_METRICS}}
        for name, values in metrics.items():
            columns |= summary(values, name) | {f"{name}_paper": paper.get((row.printed_row, name), np.nan)}
        columns |= {"gain": mean_over_cases(gain), "gain_low": low, "gain_high": high}
        by_case = result.groupby(CASE).mean(numeric_only=True)
        columns |= missing_classes(by_case)
        columns |= {"cases": len(by_case), "trainings": num_trainings(result["dice"])}
        table.append(columns | {"cases_without_hd95": int(by_case["hd95_mm"].isna().sum())})
    return pd.DataFrame(table)


def table2_document(table: pd.DataFrame, caption_note: str) -> Document:
    """Return the document of Table 2, from the rows of `table2` and a note on dataset and scale."""
    cells = pd.DataFrame({"Pre-segmentation": table["presegmentation"]})
    rows = [row for _, row in table.iterrows()]
    cells["Its own Dice"] = [mean_and_deviation(row, "presegmentation_dice") for row in rows]
    headings = PAPER_METRICS | {"dice": f"PD-DDPM: {PAPER_METRICS['dice']}"}
    for metric, heading in headings.items():
        cells[heading] = [mean_and_deviation(row, metric, decimals(metric)) for row in rows]
    cells["Gain in Dice (95 %)"] = [effect_and_interval(row, "gain") for row in rows]
    cells["Cases"] = table["cases"]
    notes = [
        PAPER_VALUES_NOTE,
        "Its own Dice: Dice of the pre-segmentation itself on the same test cases. The empty mask has Dice 1 if the reference "
        "is empty, and 0 otherwise. The paper does not say how its weaker pre-segmentations were made.",
        f"Gain: Dice of PD-DDPM minus Dice of its pre-segmentation, paired. {interval_note(int(table['trainings'].min()))}",
        METRICS_NOTE,
        MEANS_NOTE if "classes_without_dice" in table else missing_hd95_note(table, "presegmentation"),
    ]
    title = "Table 2: PD-DDPM from pre-segmentations of different quality"
    best = {heading: best_rows(table[metric]) for metric, heading in headings.items()}
    return Document(title, caption_note, [Part("Scores", cells, notes, best=best)])
