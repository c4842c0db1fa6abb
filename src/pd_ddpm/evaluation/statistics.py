"""Statistics over cases: intervals of a mean and tests of the difference between two methods.

The unit is the case. NaN values (undefined HD95) are left out.

There are two intervals of a mean, for different numbers of cases:

* The percentile bootstrap makes no assumption about the distribution and suits tables of many cases. With few cases it is too
  narrow. For normal values, the nominal 95 % interval covers the mean in 84 % of samples of 5 cases, 90 % of 12 and 94 % of
  60 (simulated).
* Student's t is exact for normal values, from two cases on. Paired differences are closer to normal than scores. Claims
  with few cases are therefore decided with it.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats

Interval = tuple[float, float]

UNDEFINED: Interval = (np.nan, np.nan)


def bootstrap_interval(values: Sequence[float], confidence: float = 0.95, resamples: int = 10_000, seed: int = 0) -> Interval:
    """Return the percentile bootstrap interval of the mean over cases.

    Args:
        values: one value per case.
        confidence: nominal coverage.
        resamples: number of bootstrap samples.
        seed: seed of the bootstrap.

    Returns:
        The lower and the upper end; NaN for fewer than two values.

    Reference: Efron & Tibshirani 1993, ch. 13.
    """
    values = _defined(values)
    if values.size < 2:
        return UNDEFINED
    result = stats.bootstrap(
        (values,),
        np.mean,
        n_resamples=resamples,
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def student_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Return Student's t interval of the mean over cases, mean ± t(n - 1) · sd / √n; NaN for fewer than two values."""
    values = _defined(values)
    if values.size < 2:
        return UNDEFINED
    half_width = stats.t.ppf((1 + confidence) / 2, values.size - 1) * values.std(ddof=1) / np.sqrt(values.size)
    return float(values.mean() - half_width), float(values.mean() + half_width)


def paired_differences(first: pd.Series, second: pd.Series) -> pd.Series:
    """Return first minus second for the cases (index) that both have; NaN if either value is NaN.

    Raises:
        ValueError: the two have no case in common, or a case occurs twice.
    """
    for values in (first, second):
        if not values.index.is_unique:
            raise ValueError(f"{values.name}: a case has two values. Average over seeds first.")
    first, second = first.align(second, join="inner")
    if first.empty:
        raise ValueError("the two methods share no case, so there is no paired difference. Score both on the same split.")
    return first - second


def wilcoxon_p(differences: Sequence[float]) -> float:
    """Return the two-sided p-value of Wilcoxon's signed-rank test that paired differences are symmetric about zero.

    Differences of exactly zero are left out. The p-value is exact for up to 50 cases without ties and up to 13 with ties;
    beyond that it uses the normal approximation. It is NaN for fewer than two values, or if all are zero.

    Reference: Wilcoxon 1945.
    """
    # Scores are fractions: rounding errors must not break ties or count as differences.
    values = np.round(_defined(differences), 12)
    changed = values[values != 0]
    if values.size < 2 or not changed.size:
        return np.nan
    return float(stats.wilcoxon(changed).pvalue)


def smallest_wilcoxon_p(cases: int) -> float:
    """Return the smallest exact two-sided p-value for this many cases, 2 / 2ⁿ, where all differences have one sign."""
    return 2.0 ** (1 - cases)


def holm(p_values: Sequence[float]) -> np.ndarray:
    """Return p-values corrected for multiple testing with Holm's step-down method, in the given order.

    NaN stays NaN and does not count as a test.

    Reference: Holm 1979.
    """
    p_values = np.asarray(p_values, dtype=float)
    corrected = np.full(p_values.shape, np.nan)
    tested = np.flatnonzero(~np.isnan(p_values))
    ascending = tested[np.argsort(p_values[tested], kind="stable")]
    weighted = p_values[ascending] * np.arange(ascending.size, 0, -1)
    corrected[ascending] = np.minimum(np.maximum.accumulate(weighted), 1.0)
    return corrected


def _defined(values: Sequence[float]) -> np.ndarray:
    """Return the values that are not NaN."""
    values = np.asarray(values, dtype=float)
    return values[~np.isnan(values)]
