"""Read the scores of cases and average them over seeds."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd


def read_scores(files: Sequence[str | Path]) -> pd.DataFrame:
    """Read all rows of these CSV files. Names of cases and subsets stay text, also if they consist of digits."""
    return pd.concat([pd.read_csv(file, dtype={"case": str, "subset": str}) for file in files], ignore_index=True)


def average_over_seeds(scores: pd.DataFrame) -> pd.DataFrame:
    """Return one row per method and case, the mean over seeds, so that each case counts once."""
    return scores.groupby(["method", "case"], as_index=False).mean(numeric_only=True)


def select_method(cases: pd.DataFrame, method: str) -> pd.DataFrame:
    """Return the rows of one method, indexed by case.

    Args:
        cases: table from `average_over_seeds`.
        method: name of the method.

    Raises:
        ValueError: the table has no row of the method.
    """
    rows = cases[cases["method"] == method].set_index("case")
    if rows.empty:
        raise ValueError(f"{method}: has no scores, unlike {', '.join(sorted(set(cases['method'])))}. Score the method first.")
    return rows
