"""Table 4 of Fu et al. 2024: how far the result of a chain depends on its noise, step by step."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from pd_ddpm.evaluation.statistics import CASE, TRAINING, mean_interval, mean_over_cases, num_trainings
from pd_ddpm.exhibits.document import Document, Part
from pd_ddpm.exhibits.tables.cells import decimals, interval_note, number, printed_values

HEADINGS = {"dice": "Dice", "hd95_mm": "HD95 [mm]"}


def table4(scores: pd.DataFrame, printed: pd.DataFrame, printed_row: str | None) -> pd.DataFrame:
    """Return the mean spread over seeds of each chain at each step.

    Args:
        scores: rows of `step_scores`.
        printed: values printed in the papers.
        printed_row: data set of Table 4 of Fu et al. that is shown next to it; None: none.

    Returns:
        One row per label and step: for each metric the mean over cases of the largest difference between members
        (`dice_spread`, `hd95_mm_spread`) with its 95 % interval (`*_low`, `*_high`), the number of cases without it
        (`*_missing`) and the paper's value (`*_paper`); cases and trainings.
    """
    paper, rows = printed_values(printed, "recycling_table4"), []
    for (label, step), group in scores.groupby(["label", "step"], sort=False):
        row = {"label": label, "step": step}
        indexed = group.set_index([TRAINING, CASE])
        for metric in HEADINGS:
            name = f"{metric}_spread"
            low, high = mean_interval(indexed[name])
            row |= {name: mean_over_cases(indexed[name]), f"{name}_low": low, f"{name}_high": high}
            row[f"{name}_missing"] = int(indexed[name].groupby(CASE).mean().isna().sum())
            row[f"{name}_paper"] = paper.get((printed_row, f"{metric}_step_{step}"), np.nan)
        rows.append(row | {"cases": group[CASE].nunique(), "trainings": num_trainings(indexed["dice"])})
    return pd.DataFrame(rows)


def table4_document(table: pd.DataFrame, caption_note: str, num_members: int, printed_row: str | None) -> Document:
    """Return the document of Table 4.

    Args:
        table: rows of `table4`.
        caption_note: dataset and scale.
        num_members: seeds of each chain.
        printed_row: data set of the paper's table.
    """
    parts = [_part(table, metric, heading, printed_row) for metric, heading in HEADINGS.items()]
    parts[-1] = Part(parts[-1].heading, parts[-1].table, [*_notes(table, num_members, printed_row)])
    title = "Table 4: differences between seeds of sampling, step by step"
    return Document(title, caption_note, parts)


def _part(table: pd.DataFrame, metric: str, heading: str, printed_row: str | None) -> Part:
    name, digits = f"{metric}_spread", decimals(metric) + 1
    cells = table.pivot(index="label", columns="step", values=name).loc[table["label"].unique()]
    cells = cells.map(lambda value: number(value, digits)).rename(columns=lambda step: f"Step {step}")
    cells = cells.reset_index().rename(columns={"label": "Method"})
    first = table[table["label"] == table["label"].iloc[0]]
    if not first[f"{name}_paper"].isna().all():
        values = [number(value, 4) for value in first[f"{name}_paper"]]
        cells.loc[len(cells)] = [f"[paper, {printed_row}]", *values]
    return Part(f"Mean largest difference in {heading}", cells)


def _notes(table: pd.DataFrame, num_members: int, printed_row: str | None) -> Sequence[str]:
    missing = int(table["hd95_mm_spread_missing"].max())
    notes = [
        f"For each case, the largest minus the smallest value over {num_members} chains with different noise; mean over "
        f"{int(table['cases'].max())} cases.",
        f"{interval_note(int(table['trainings'].max()))} They are in the CSV file.",
        f"HD95 is undefined where a mask is empty. Cases without a difference in HD95, at most: {missing}.",
    ]
    return notes if printed_row is None else [*notes, "Dice of the paper is that of its own data set, not of this one."]
