"""Table 4 of Fu et al. 2024: how far the result of a chain depends on its noise, step by step."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from pd_ddpm.evaluation.statistics import CASE, TRAINING, mean_interval, mean_over_cases, num_trainings
from pd_ddpm.exhibits.document import Document, Part
from pd_ddpm.exhibits.tables.cells import decimals, interval_note, number, printed_values

HEADINGS = {"dice": "Dice", "hd95_mm": "HD95 [mm]"}


def table4(scores: pd.DataFrame, printed: pd.DataFrame) -> pd.DataFrame:
    """Return the mean spread over seeds of each chain at each step.

    Args:
        scores: rows of `step_scores`.
        printed: values that the paper prints for the data set.

    Returns:
        One row per label and step: for each metric the mean over cases of the largest difference between members
        (`dice_spread`, `hd95_mm_spread`) with its 95 % interval (`*_low`, `*_high`), the number of cases without it
        (`*_missing`) and the paper's value (`*_paper`); cases and trainings.
    """
    paper, rows = printed_values(printed, "table4"), []
    for (label, step), group in scores.groupby(["label", "step"], sort=False):
        row = {"label": label, "step": step}
        indexed = group.set_index([TRAINING, CASE])
        for metric in HEADINGS:
            name = f"{metric}_spread"
            low, high = mean_interval(indexed[name])
            row |= {name: mean_over_cases(indexed[name]), f"{name}_low": low, f"{name}_high": high}
            row[f"{name}_missing"] = int(indexed[name].groupby(CASE).mean().isna().sum())
            row[f"{name}_paper"] = paper.get((label, f"{metric}_step_{step}"), np.nan)
        rows.append(row | {"cases": group[CASE].nunique(), "trainings": num_trainings(indexed["dice"])})
    return pd.DataFrame(rows)


def table4_document(table: pd.DataFrame, caption_note: str, num_members: int) -> Document:
    """Return the document of Table 4.

    Args:
        table: rows of `table4`.
        caption_note: dataset and scale.
        num_members: seeds of each chain.
    """
    parts = [Part(f"Mean largest difference in {HEADINGS['dice']}", _cells(table, "dice"))]
    parts.append(
        Part(f"Mean largest difference in {HEADINGS['hd95_mm']}", _cells(table, "hd95_mm"), _notes(table, num_members))
    )
    title = "Table 4: differences between seeds of sampling, step by step"
    return Document(title, caption_note, parts)


def _cells(table: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Return one row per method with a cell for each step, the paper's value in brackets."""
    rows = []
    for label, steps in table.groupby("label", sort=False):
        cells = {"Method": label}
        for _, row in steps.iterrows():
            text, paper = number(row[f"{metric}_spread"], decimals(metric) + 1), row[f"{metric}_spread_paper"]
            cells[f"Step {row['step']}"] = text if pd.isna(paper) else f"{text} [{number(paper, 4)}]"
        rows.append(cells)
    return pd.DataFrame(rows).fillna("")


def _notes(table: pd.DataFrame, num_members: int) -> Sequence[str]:
    missing = int(table["hd95_mm_spread_missing"].max())
    return [
        f"For each case, the largest minus the smallest value over {num_members} chains with different noise; mean over "
        f"{int(table['cases'].max())} cases. [In brackets: the value that the paper prints for its own data.]",
        f"{interval_note(int(table['trainings'].max()))} They are in the CSV file.",
        f"HD95 is undefined where a mask is empty. Cases without a difference in HD95, at most: {missing}.",
    ]
