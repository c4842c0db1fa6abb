"""Intervals and tests against closed forms, scipy and results calculated by hand (about 2 s)."""

import math
from itertools import product

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from pd_ddpm.evaluation.statistics import (
    bootstrap_interval,
    holm,
    paired_differences,
    smallest_wilcoxon_p,
    student_interval,
    wilcoxon_p,
)


def test_bootstrap_of_two_values_is_between_them() -> None:
    # A resample of {0, 1} has mean 0, 1/2 or 1 with chance 1/4, 1/2, 1/4: both ends are beyond 2.5 %.
    assert bootstrap_interval([0.0, 1.0]) == (0.0, 1.0)


def test_bootstrap_of_three_values_has_the_exact_percentiles() -> None:
    values = [0.0, 1.0, 5.0]
    means = np.mean(list(product(values, repeat=3)), axis=1)  # all 27 resamples; each end has a chance of 1/27 = 3.7 %
    assert bootstrap_interval(values) == (means.min(), means.max())


def test_bootstrap_of_many_values_approaches_the_normal_interval() -> None:
    values = np.random.default_rng(0).normal(0.8, 0.1, 110)
    reach = stats.norm.ppf(0.975) * values.std() / math.sqrt(110)
    assert bootstrap_interval(values) == pytest.approx((values.mean() - reach, values.mean() + reach), abs=0.03 * reach)


def test_bootstrap_is_reproducible_and_ignores_nan() -> None:
    values = [0.2, 0.5, 0.9, 0.4]
    assert bootstrap_interval(values) == bootstrap_interval([*values, np.nan]) == bootstrap_interval(values, seed=0)
    assert bootstrap_interval(values, confidence=0.5) != bootstrap_interval(values)


@pytest.mark.parametrize("interval", [bootstrap_interval, student_interval])
@pytest.mark.parametrize("values", [[], [0.5], [0.5, np.nan], [np.nan, np.nan]])
def test_intervals_of_fewer_than_two_values_are_undefined(interval, values: list[float]) -> None:
    assert np.isnan(interval(values)).all()


@pytest.mark.parametrize("interval", [bootstrap_interval, student_interval])
def test_intervals_of_equal_values_have_zero_width(interval) -> None:
    assert interval([0.5, 0.5, 0.5]) == pytest.approx((0.5, 0.5))


@pytest.mark.parametrize(("cases", "expected"), [(5, 0.84), (12, 0.90)])
def test_bootstrap_coverage_matches_the_docstring(cases: int, expected: float) -> None:
    generator = np.random.default_rng(cases)
    held = 0
    for trial in range(600):
        low, high = bootstrap_interval(generator.normal(size=cases), resamples=400, seed=trial)
        held += low <= 0 <= high
    assert held / 600 == pytest.approx(expected, abs=0.045)  # three standard errors


def test_student_interval_equals_scipy_and_covers_the_mean() -> None:
    values = np.array([0.1, 0.4, 0.35, 0.8])
    inside = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert student_interval(values) == pytest.approx((inside.low, inside.high))
    draws = np.random.default_rng(1).normal(size=(2000, 5))
    held = np.mean([low <= 0 <= high for low, high in map(student_interval, draws)])
    assert held == pytest.approx(0.95, abs=0.015)


def test_paired_differences_match_cases() -> None:
    first = pd.Series([0.9, 0.5, 0.7], index=["c", "a", "b"], name="dice")
    second = pd.Series([0.4, 0.6, 0.1], index=["a", "c", "x"], name="dice")
    assert paired_differences(first, second).to_dict() == pytest.approx({"a": 0.1, "c": 0.3})


def test_paired_differences_reject_disjoint_and_repeated_cases() -> None:
    first = pd.Series([0.9], index=["a"], name="dice")
    with pytest.raises(ValueError, match="share no case"):
        paired_differences(first, first.rename(index={"a": "b"}))
    with pytest.raises(ValueError, match=r"dice: a case has two values\. Average over seeds"):
        paired_differences(pd.concat([first, first]), first)


def exact_signed_rank_p(differences: list[float]) -> float:
    """Return the p-value from all assignments of signs to the ranks."""
    ranks = stats.rankdata(np.abs(differences))
    centre = ranks.sum() / 2
    observed = abs(ranks[np.array(differences) > 0].sum() - centre)
    sums = np.array([ranks[np.array(signs, dtype=bool)].sum() for signs in product((0, 1), repeat=len(ranks))])
    return float(np.mean(np.abs(sums - centre) >= observed - 1e-9))


@pytest.mark.parametrize(
    "differences", [[1, 2, 3, 4, 5], [1, -2, 3, 4, -5, 6], [1, 1, -1, 2, 3, 3, -4], [0.5, 0.5], list(range(1, 10)), [3]]
)
def test_wilcoxon_is_exact_for_few_cases(differences: list[float]) -> None:
    if len(differences) > 1:
        assert wilcoxon_p(differences) == pytest.approx(exact_signed_rank_p(differences))
    assert wilcoxon_p([*differences, 0.0, 0.0, np.nan]) == pytest.approx(exact_signed_rank_p(differences))


@pytest.mark.parametrize("differences", [[], [0.3], [0.3, np.nan], [0.0, 0.0, 0.0]])
def test_wilcoxon_is_undefined_without_two_nonzero_differences(differences: list[float]) -> None:
    assert math.isnan(wilcoxon_p(differences))


def test_wilcoxon_ignores_rounding_errors() -> None:
    assert math.isnan(wilcoxon_p([0.3 - (0.1 + 0.2), 0.0, 0.7 - (0.1 + 0.6)]))
    assert wilcoxon_p([0.1 + 0.2, 0.3, -0.3, 0.5]) == pytest.approx(exact_signed_rank_p([3, 3, -3, 5]))


@pytest.mark.parametrize("cases", [1, 2, 5, 12])
def test_smallest_wilcoxon_p_is_that_of_differences_of_one_sign(cases: int) -> None:
    assert smallest_wilcoxon_p(cases) == pytest.approx(exact_signed_rank_p(list(range(1, cases + 1))))


def test_holm_equals_a_calculation_by_hand() -> None:
    # Sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1, then never less than the one before.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])


def test_holm_does_not_count_nan_as_a_test() -> None:
    corrected = holm([0.02, np.nan, 0.03])
    assert corrected[[0, 2]] == pytest.approx([0.04, 0.04])
    assert np.isnan(corrected[1])
    assert np.isnan(holm([np.nan])).all()
    assert holm([]).size == 0
