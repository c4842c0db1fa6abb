"""Table 2 of PD-DDPM: what the quality of the pre-segmentation does to PD-DDPM."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from pd_ddpm.evaluation.scores import average_over_seeds, select_method
from pd_ddpm.evaluation.statistics import bootstrap_interval, paired_differences
from pd_ddpm.exhibits.document import Document, Part
from pd_ddpm.exhibits.tables.cells import (
    METRICS_NOTE,
    PAPER_METRICS,
    SHOWN_NOTE,
    decimals,
    effect_and_interval,
    mean_and_deviation,
    missing_hd95_note,
    printed_values,
    summary,
)

# Label, PD-DDPM's method, its pre-segmentation's method (None: no lesion anywhere), the row that the paper prints (or None).
Row = tuple[str, str, str | None, str | None]


def presegmentation_dice(cases: pd.DataFrame, method: str, presegmentation: str | None) -> pd.Series:
    """Dice by case of what `method` starts from, for the cases of `method`; `cases` come from `average_over_seeds`.

    The empty mask (None) has Dice 1 where the reference is empty, too, and 0 elsewhere.
    """
    started = select_method(cases, method)
    if presegmentation is None:
        return (started["reference_voxels"] == 0).astype(float).rename("dice")
    dice = select_method(cases, presegmentation)["dice"]
    return dice[dice.index.isin(started.index)]


def table2(scores: pd.DataFrame, rows: Sequence[Row], printed: pd.DataFrame) -> pd.DataFrame:
    """Table 2 of PD-DDPM: a row per pre-segmentation, in the order given.

    `presegmentation_dice` is the Dice that the pre-segmentation has on the same test cases, then PD-DDPM's scores, all with
    standard deviation over cases (n - 1), 95 % bootstrap interval and `*_paper`; `gain` is PD-DDPM's Dice minus its own
    pre-segmentation's, paired. Raises ValueError if a method has no score.
    """
    cases = average_over_seeds(scores)
    paper = printed_values(printed, "table2")
    table = []
    for label, method, presegmentation, printed_row in rows:
        reached = select_method(cases, method)
        before = presegmentation_dice(cases, method, presegmentation)
        gain = paired_differences(reached["dice"], before)
        low, high = bootstrap_interval(gain)
        row = {"presegmentation": label, "method": method}
        for name, values in {"presegmentation_dice": before, **{metric: reached[metric] for metric in PAPER_METRICS}}.items():
            row |= summary(values, name) | {f"{name}_paper": paper.get((printed_row, name), np.nan)}
        row |= {"gain": gain.mean(), "gain_low": low, "gain_high": high, "cases": len(reached)}
        table.append(row | {"cases_without_hd95": int(reached["hd95_mm"].isna().sum())})
    return pd.DataFrame(table)


def table2_document(table: pd.DataFrame, remark: str) -> Document:
    """Table 2 for reading."""
    shown = pd.DataFrame({"Pre-segmentation": table["presegmentation"]})
    rows = [row for _, row in table.iterrows()]
    shown["Its own Dice"] = [mean_and_deviation(row, "presegmentation_dice") for row in rows]
    for metric, heading in PAPER_METRICS.items():
        shown[f"PD-DDPM: {heading}" if metric == "dice" else heading] = [
            mean_and_deviation(row, metric, decimals(metric)) for row in rows
        ]
    shown["Gain in Dice (95 %)"] = [effect_and_interval(row, "gain") for row in rows]
    shown["Cases"] = table["cases"]
    notes = [
        SHOWN_NOTE,
        "Its own Dice: what the pre-segmentation itself reaches on the same test cases; the empty mask has Dice 1 where the "
        "reference is empty and 0 elsewhere. The paper does not say how its weaker pre-segmentations were made.",
        "Gain: PD-DDPM's Dice minus its pre-segmentation's, paired, with the 95 % percentile bootstrap interval over cases "
        "(too narrow for fewer than about 20 cases).",
        METRICS_NOTE,
        missing_hd95_note(table, "presegmentation"),
    ]
    return Document("Table 2: PD-DDPM from pre-segmentations of different quality", remark, [Part("Scores", shown, notes)])
