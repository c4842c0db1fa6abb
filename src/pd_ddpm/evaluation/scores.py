"""Per-case scores: reading them, and counting each case once."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd


def read_scores(files: Sequence[str | Path]) -> pd.DataFrame:
    """All rows of these csv files; they carry their data set, method, split, seed and case, which stays text."""
    return pd.concat([pd.read_csv(file, dtype={"case": str, "subset": str}) for file in files], ignore_index=True)


def average_over_seeds(scores: pd.DataFrame) -> pd.DataFrame:
    """One row per method and case: the mean over seeds, so that a case counts once however often it was run."""
    return scores.groupby(["method", "case"], as_index=False).mean(numeric_only=True)


def select_method(cases: pd.DataFrame, method: str) -> pd.DataFrame:
    """The rows of one method in `average_over_seeds`, by case; raises ValueError if there is none."""
    rows = cases[cases["method"] == method].set_index("case")
    if rows.empty:
        raise ValueError(f"there is no score of {method}, only of {', '.join(sorted(set(cases['method'])))}; score it first")
    return rows
