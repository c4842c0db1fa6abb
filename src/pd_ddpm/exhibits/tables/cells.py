"""Shared code of all tables: statistics of one column, and the text of cells."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from pd_ddpm.evaluation.metrics import EMPTY_MASK_POLICY
from pd_ddpm.evaluation.statistics import CASE, mean_interval, num_trainings

# The four metrics in the paper's tables -> headings.
PAPER_METRICS = {"dice": "Dice", "hd95_mm": "HD95 [mm]", "jaccard": "Jaccard", "lesion_f1": "F1"}
LOWER_IS_BETTER = {"hd95_mm"}

NO_BREAK_SPACE = "\u00a0"

METRICS_NOTE = (
    "Metrics follow the WMH challenge: whole 3D cases, in millimetres, on the grid of the scan; F1 counts lesions. "
    "Higher is better for Dice, Jaccard and F1, lower for HD95."
)
PAPER_VALUES_NOTE = "Mean ± standard deviation over test cases; [in brackets: what the paper prints for its own data]."
NO_PAPER_VALUES_NOTE = "Mean ± standard deviation over test cases. The values that the paper prints are not known here."


def summary(values: pd.Series, name: str) -> dict[str, float]:
    """Return mean and standard deviation (n - 1) over cases and the 95 % interval of the mean.

    Args:
        values: one value per training and case, with these two levels in the index.
        name: name of the mean in the result; the others are `name_sd`, `name_low` and `name_high`.
    """
    low, high = mean_interval(values)
    cases = values.groupby(CASE).mean()
    return {name: cases.mean(), f"{name}_sd": cases.std(ddof=1), f"{name}_low": low, f"{name}_high": high}


def counts_and_cost(rows: pd.DataFrame) -> dict[str, float]:
    """Return the numbers of cases, trainings and members of a method, and its cost of a case and of a slice, NaN if not known.

    Args:
        rows: scores of the method, one row per training and case, with these two levels in the index.
    """
    cases = rows.groupby(CASE).mean(numeric_only=True)
    return {
        **missing_classes(cases),
        "cases": len(cases),
        "trainings": num_trainings(rows["dice"]),
        "cases_without_hd95": int(cases["hd95_mm"].isna().sum()),
        "samples": int(cases["samples"].max()),
        "network_evaluations": np.round(cases["network_evaluations"].mean()),
        "seconds_per_case": cases["seconds"].mean(),
    }


def missing_classes(cases: pd.DataFrame) -> dict[str, float]:
    """Return how many classes of all cases lack a Dice or an HD95, the mean over trainings; empty if there are no classes."""
    columns = [column for column in ("classes_without_dice", "classes_without_hd95") if column in cases]
    return {column: round(float(cases[column].sum()), 2) for column in columns}


def interval_note(trainings: int) -> str:
    """Return a note on what the 95 % intervals cover, for this number of trainings."""
    if trainings < 2:
        return (
            "95 % intervals: Student's t over cases. Each network was trained once, so the intervals are for this training. "
            "Another training may change a method by more."
        )
    return (
        f"95 % intervals: Student's t over {trainings} trainings and their cases. They cover what other trainings and other "
        "cases would change. A training is a split with the mean of its seeds or, with one split only, a seed."
    )


def printed_values(printed: pd.DataFrame, exhibit: str) -> pd.Series:
    """Return the values in one table or figure of the paper, indexed by (row, metric)."""
    return printed[printed["exhibit"] == exhibit].set_index(["row", "metric"])["value"]


def number(value: float, digits: int, signed: bool = False) -> str:
    """Return the text of a number, with a true minus sign; "undefined" for NaN.

    Args:
        value: the number.
        digits: decimals.
        signed: whether positive numbers get a plus sign.
    """
    if pd.isna(value):
        return "undefined"
    return f"{value:{'+' if signed else ''}.{digits}f}".replace("-", "−")


def cost_cell(value: float, digits: int = 0) -> str:
    """Return the text of a cost, with this many decimals; "not known" for NaN."""
    return "not known" if pd.isna(value) else f"{value:.{digits}f}"


def mean_and_deviation(row: Mapping[str, float], name: str, digits: int = 3) -> str:
    """Return "mean ± standard deviation [paper's value]", without the parts that are missing in the row.

    Args:
        row: columns `name`, `name_sd` and, if the paper has this row, `name_paper`.
        name: column of the mean.
        digits: decimals.
    """
    deviation, paper = row[f"{name}_sd"], row.get(f"{name}_paper", np.nan)
    text = number(row[name], digits)
    if not pd.isna(deviation):
        text += f" ± {deviation:.{digits}f}"
    return text if pd.isna(paper) else f"{text} [{paper:.3f}]"


def effect_and_interval(row: Mapping[str, float], name: str, digits: int = 3) -> str:
    """Return "difference (low to high)" with signs, without the interval if it is missing.

    Args:
        row: columns `name`, `name_low` and `name_high`.
        name: column of the difference.
        digits: decimals.
    """
    text = number(row[name], digits, signed=True)
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    if pd.isna(low):
        return text
    return f"{text} {interval(number(low, digits, signed=True), number(high, digits, signed=True))}"


def interval(low: str, high: str) -> str:
    """Return "(low to high)" without a line break."""
    return f"({low}{NO_BREAK_SPACE}to{NO_BREAK_SPACE}{high})"


def p_value(p: float) -> str:
    """Return a p-value as journals print it; empty for NaN."""
    if pd.isna(p):
        return ""
    text = "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"
    return text.replace(" ", NO_BREAK_SPACE)


def decimals(metric: str) -> int:
    """Return the number of decimals of a metric."""
    return 2 if metric.endswith("_mm") else 3


def missing_hd95_note(table: pd.DataFrame, name: str) -> str:
    """Return a note that counts, for each row (named in column `name`), the cases missing from the mean of HD95."""
    missing = table[table["cases_without_hd95"] > 0]
    listed = ", ".join(f"{row[name]} {row['cases_without_hd95']}" for _, row in missing.iterrows()) or "none"
    return f"Number of cases whose HD95 is undefined and left out of its mean: {listed}. {EMPTY_MASK_POLICY}"


def best_rows(values: pd.Series) -> list[int]:
    """Return the positions of the rows with the best value of a metric, whose name the series has; none if there is one row."""
    if values.notna().sum() < 2:
        return []
    best = values.min() if values.name in LOWER_IS_BETTER else values.max()
    return np.flatnonzero(values == best).tolist()
