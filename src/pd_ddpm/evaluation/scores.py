"""Read the scores of cases, complete them, and average them over seeds and trainings."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from pd_ddpm.evaluation.statistics import CASE, TRAINING
from pd_ddpm.runtime.sealed_tables import read_sealed_csv

CLASS = "class"  # column of the scores of several classes
MEAN = "mean"  # its value in the rows of the means over classes
CLASS_POLICY = (
    "A class that neither the reference nor the prediction has is left out of the mean over classes. One that only one of them "
    "has counts with Dice 0 and Jaccard 0, and its HD95 is undefined. Undefined values are left out of means and counted."
)

# Dice of a case's ground truth through a coarser working grid and back; only if a grid is configured.
GRID_DICE = ("grid_dice_soft", "grid_dice_hard")


def with_grid_dice(rows: pd.DataFrame, grid_dice: str | Path | None) -> pd.DataFrame:
    """Return score or ensemble rows with the columns `GRID_DICE` of their cases.

    Args:
        rows: rows with a column `case`.
        grid_dice: table of `grid_dice_table`; None leaves the rows unchanged.
    """
    if grid_dice is None:
        return rows
    table = read_sealed_csv(grid_dice)
    return rows.merge(table[["case", *GRID_DICE]], on="case", how="left", validate="many_to_one")


def read_scores(files: Sequence[str | Path]) -> pd.DataFrame:
    """Read one row per method, run and case of these CSV files; of several classes the row of their mean.

    Names of cases and subsets stay text, also if they consist of digits.
    """
    rows = _read_rows(files)
    return rows[rows[CLASS] == MEAN].drop(columns=CLASS).reset_index(drop=True) if CLASS in rows else rows


def read_class_scores(files: Sequence[str | Path]) -> pd.DataFrame:
    """Read the rows of the single classes, in the order of the classes; empty if the files have no classes."""
    rows = _read_rows(files)
    return rows[rows[CLASS] != MEAN].reset_index(drop=True) if CLASS in rows else rows.iloc[:0].assign(**{CLASS: ""})


def _read_rows(files: Sequence[str | Path]) -> pd.DataFrame:
    return pd.concat([read_sealed_csv(file) for file in files], ignore_index=True) if files else pd.DataFrame()


def average_over_seeds(scores: pd.DataFrame) -> pd.DataFrame:
    """Return one row per method and case, the mean over splits and seeds, so that each case counts once."""
    return scores.groupby(["method", CASE], as_index=False).mean(numeric_only=True)


def name_trainings(scores: pd.DataFrame) -> pd.DataFrame:
    """Return the rows with a column `training`: the split, or the seed if there is only one split.

    Networks of one split have the same training and test cases, whatever their seed. They therefore count as one training, with
    the mean of the seeds. In one split, seeds are all that differs between trainings.
    """
    return scores.assign(**{TRAINING: scores["split" if scores["split"].nunique() > 1 else "seed"]})


def by_training(scores: pd.DataFrame) -> pd.DataFrame:
    """Return one row per method, training and case (see `name_trainings`)."""
    return name_trainings(scores).groupby(["method", TRAINING, CASE], as_index=False).mean(numeric_only=True)


def select_method(cases: pd.DataFrame, method: str) -> pd.DataFrame:
    """Return the rows of one method, indexed by case, or by training and case.

    Args:
        cases: table from `average_over_seeds` or `by_training`.
        method: name of the method.

    Raises:
        ValueError: the table has no row of the method.
    """
    rows = cases[cases["method"] == method].set_index([TRAINING, CASE] if TRAINING in cases else CASE)
    if rows.empty:
        raise ValueError(f"{method}: has no scores, unlike {', '.join(sorted(set(cases['method'])))}. Score the method first.")
    return rows
