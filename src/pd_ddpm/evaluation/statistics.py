"""What a few cases say about a mean and about a difference between two methods.

The unit is the case. Values that are NaN (an undefined HD95) are left out.

Two intervals of a mean, because neither serves everywhere. The percentile bootstrap assumes no shape and suits tables of
many cases, but it is too narrow for few: over normal values its nominal 95 % hold the mean in 84 % of samples of 5, 90 %
of 12 and 94 % of 60 (simulated). Student's t is exact for normal values from two cases on, and paired differences are closer to
normal than scores are; a verdict from a handful of cases rests on it.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats

Interval = tuple[float, float]

UNDEFINED: Interval = (np.nan, np.nan)


def bootstrap_interval(values: Sequence[float], confidence: float = 0.95, resamples: int = 10_000, seed: int = 0) -> Interval:
    """Percentile bootstrap interval of the mean over cases (Efron & Tibshirani 1993, ch. 13); NaN below two values."""
    values = _defined(values)
    if values.size < 2:
        return UNDEFINED
    drawn = stats.bootstrap(
        (values,),
        np.mean,
        n_resamples=resamples,
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    return float(drawn.confidence_interval.low), float(drawn.confidence_interval.high)


def student_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Student's t interval of the mean over cases: mean ± t(n - 1) · sd / √n; NaN below two values."""
    values = _defined(values)
    if values.size < 2:
        return UNDEFINED
    reach = stats.t.ppf((1 + confidence) / 2, values.size - 1) * values.std(ddof=1) / np.sqrt(values.size)
    return float(values.mean() - reach), float(values.mean() + reach)


def paired_differences(first: pd.Series, second: pd.Series) -> pd.Series:
    """First minus second, case by case, for the cases (index) that both have; a value that one lacks gives NaN.

    Raises ValueError if they share no case, or if a case occurs twice.
    """
    for values in (first, second):
        if not values.index.is_unique:
            raise ValueError(f"a case has two values of {values.name}; average over seeds first")
    first, second = first.align(second, join="inner")
    if first.empty:
        raise ValueError("the two methods share no case, so that no paired difference exists; score both on the same split")
    return first - second


def wilcoxon_p(differences: Sequence[float]) -> float:
    """Two-sided p-value of Wilcoxon's signed-rank test that paired differences are symmetric about zero.

    Differences of exactly zero are left out, as Wilcoxon (1945) did. The p-value is exact up to 50 cases without ties
    and up to 13 with ties, beyond that from the normal approximation. NaN below two values or if all are zero.
    """
    # Scores are fractions: rounding errors must neither break ties nor pass for differences.
    values = np.round(_defined(differences), 12)
    changed = values[values != 0]
    if values.size < 2 or not changed.size:
        return np.nan
    return float(stats.wilcoxon(changed).pvalue)


def smallest_wilcoxon_p(cases: int) -> float:
    """The p-value of n differences that all have one sign, 2 / 2ⁿ: no exact two-sided signed-rank test goes below it."""
    return 2.0 ** (1 - cases)


def holm(p_values: Sequence[float]) -> np.ndarray:
    """P-values corrected for their number by Holm's step-down method (Holm 1979), in their order.

    NaN stays NaN and does not count as a test.
    """
    p_values = np.asarray(p_values, dtype=float)
    corrected = np.full(p_values.shape, np.nan)
    tested = np.flatnonzero(~np.isnan(p_values))
    ascending = tested[np.argsort(p_values[tested], kind="stable")]
    weighted = p_values[ascending] * np.arange(ascending.size, 0, -1)
    corrected[ascending] = np.minimum(np.maximum.accumulate(weighted), 1.0)
    return corrected


def _defined(values: Sequence[float]) -> np.ndarray:
    values = np.asarray(values, dtype=float)
    return values[~np.isnan(values)]
