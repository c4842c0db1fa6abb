"""What all tables do alike: the numbers of one column, and how they are written."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from pd_ddpm.evaluation.metrics import EMPTY_MASK_POLICY
from pd_ddpm.evaluation.statistics import bootstrap_interval

# The four metrics that the paper prints, with their headings.
PAPER_METRICS = {"dice": "Dice", "hd95_mm": "HD95 [mm]", "jaccard": "Jaccard", "lesion_f1": "F1"}

UNBROKEN = "\u00a0"  # a space at which no line breaks

METRICS_NOTE = (
    "Metrics are the WMH challenge's, on the whole 3D case in millimetres on the scan's own grid; F1 is that of lesions. "
    "Higher is better for Dice, Jaccard and F1, lower for HD95."
)
SHOWN_NOTE = "Mean ± standard deviation over test cases; [in brackets: what the paper prints for the WMH challenge data]."


def summary(values: pd.Series, name: str) -> dict[str, float]:
    """Mean, standard deviation (n - 1) and 95 % bootstrap interval over cases: `name`, `name_sd`, `name_low`, `name_high`."""
    low, high = bootstrap_interval(values)
    return {name: values.mean(), f"{name}_sd": values.std(ddof=1), f"{name}_low": low, f"{name}_high": high}


def printed_values(printed: pd.DataFrame, exhibit: str) -> pd.Series:
    """What the papers print in one exhibit, by (row, metric)."""
    return printed[printed["exhibit"] == exhibit].set_index(["row", "metric"])["value"]


def number(value: float, digits: int, signed: bool = False) -> str:
    """A number with so many decimals and a true minus sign; "undefined" where there is none."""
    if pd.isna(value):
        return "undefined"
    return f"{value:{'+' if signed else ''}.{digits}f}".replace("-", "−")


def mean_and_deviation(row: Mapping[str, float], name: str, digits: int = 3) -> str:
    """Mean ± standard deviation [the paper's value]; a single case has no deviation, other methods no paper's value."""
    deviation, paper = row[f"{name}_sd"], row.get(f"{name}_paper", np.nan)
    shown = number(row[name], digits)
    if not pd.isna(deviation):
        shown += f" ± {deviation:.{digits}f}"
    return shown if pd.isna(paper) else f"{shown} [{paper:.3f}]"


def effect_and_interval(row: Mapping[str, float], name: str, digits: int = 3) -> str:
    """A signed difference (low to high); a single case has no interval."""
    shown = number(row[name], digits, signed=True)
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    if pd.isna(low):
        return shown
    return f"{shown} {interval(number(low, digits, signed=True), number(high, digits, signed=True))}"


def interval(low: str, high: str) -> str:
    """Two ends in parentheses, without a place where a line could break."""
    return f"({low}{UNBROKEN}to{UNBROKEN}{high})"


def p_value(p: float) -> str:
    """A p-value as journals print it; empty where there is none."""
    if pd.isna(p):
        return ""
    shown = "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"
    return shown.replace(" ", UNBROKEN)


def decimals(metric: str) -> int:
    """How many decimals a metric is shown with."""
    return 2 if metric.endswith("_mm") else 3


def missing_hd95_note(table: pd.DataFrame, name: str) -> str:
    """For which rows (named in column `name`) how many cases are not in the mean of HD95, and why."""
    missing = table[table["cases_without_hd95"] > 0]
    listed = ", ".join(f"{row[name]} {row['cases_without_hd95']}" for _, row in missing.iterrows()) or "none"
    return f"Cases whose HD95 is undefined and left out of its mean: {listed}. {EMPTY_MASK_POLICY}"
