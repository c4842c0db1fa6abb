"""Intervals and tests against closed forms, scipy, simulations and results calculated by hand (about 3 s)."""

import math
from collections.abc import Sequence
from itertools import product

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from pd_ddpm.evaluation.statistics import (
    error_of_nested_cases,
    error_of_shared_cases,
    holm,
    mean_interval,
    mean_over_cases,
    num_trainings,
    paired_differences,
    paired_p,
    smallest_wilcoxon_p,
    standard_error,
    wilcoxon_p,
)


def nested(values: np.ndarray) -> pd.Series:
    """Return values (trainings, cases) of trainings that have different cases."""
    pairs = [(training, f"{training}-{case}") for training, case in np.ndindex(values.shape)]
    return pd.Series(values.ravel(), pd.MultiIndex.from_tuples(pairs, names=["training", "case"]), name="dice")


def shared(values: np.ndarray) -> pd.Series:
    """Return values (trainings, cases) of trainings that have the same cases."""
    index = pd.MultiIndex.from_product([range(side) for side in values.shape], names=["training", "case"])
    return pd.Series(values.ravel(), index, name="dice")


def one_training(values: Sequence[float]) -> pd.Series:
    return nested(np.array([values], dtype=float))


def test_interval_of_one_training_equals_scipy_student() -> None:
    values = [0.1, 0.4, 0.35, 0.8]
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert mean_interval(one_training(values)) == pytest.approx((expected.low, expected.high))
    assert mean_interval(one_training([*values, np.nan])) == mean_interval(one_training(values))


def test_interval_of_equally_many_cases_equals_student_over_trainings() -> None:
    values = np.random.default_rng(0).normal(0.1, 0.05, (5, 12))
    result = stats.ttest_1samp(values.mean(axis=1), 0)
    expected = result.confidence_interval(0.9)
    assert mean_interval(nested(values), confidence=0.9) == pytest.approx((expected.low, expected.high))
    assert paired_p(nested(values)) == pytest.approx(result.pvalue)


def test_standard_error_of_unequal_numbers_of_cases_is_unbiased() -> None:
    """The mean square is exact for cases without an effect of training; the degrees of freedom match its variance."""
    generator, counts = np.random.default_rng(1), [4, 12, 12, 30]
    error, freedom = error_of_nested_cases(generator.normal(size=(20_000, 58)), np.repeat(range(4), counts))
    squares = error**2
    assert squares.mean() == pytest.approx(1 / 58, rel=0.03)
    assert freedom == pytest.approx(2 * squares.mean() ** 2 / squares.var(), rel=0.1)
    assert 2 < freedom < 3


def test_standard_error_of_shared_cases_adds_trainings_and_cases() -> None:
    training, case = np.array([-0.1, 0.0, 0.1]), np.array([-0.3, -0.1, 0.1, 0.3])
    error, freedom = standard_error(shared(training[:, None] + case))
    assert error == pytest.approx(np.sqrt(training.var(ddof=1) / 3 + case.var(ddof=1) / 4))
    # Mean squares 4 x 0.01 and 3 x 0.2 / 3, with two and three degrees of freedom, and no residual.
    assert freedom == pytest.approx((0.04 + 0.2) ** 2 / (0.04**2 / 2 + 0.2**2 / 3))


def test_standard_error_of_shared_cases_equals_two_way_analysis_of_variance() -> None:
    values = np.random.default_rng(2).normal(size=(3, 12)) + np.random.default_rng(3).normal(size=12)
    case_by_case = np.cov(values, ddof=1)  # (trainings, trainings) covariances over cases
    covariance = (case_by_case.sum() - np.trace(case_by_case)) / 6  # variance of cases = mean square difference / trainings
    variance = values.mean(axis=1).var(ddof=1) / 3 + covariance / 12
    assert standard_error(shared(values))[0] == pytest.approx(np.sqrt(variance))


def test_standard_error_of_shared_cases_leaves_out_incomplete_cases() -> None:
    values = np.random.default_rng(4).normal(size=(3, 12))
    gap = values.copy()
    gap[1, 0] = np.nan
    assert standard_error(shared(gap)) == pytest.approx(standard_error(shared(values[:, 1:])))
    assert mean_over_cases(shared(gap)) == pytest.approx((values[:, 1:].mean(axis=0).sum() + values[[0, 2], 0].mean()) / 12)


@pytest.mark.parametrize("values", [[], [0.5], [0.5, np.nan], [np.nan, np.nan]])
def test_interval_of_fewer_than_two_values_is_undefined(values: list[float]) -> None:
    assert np.isnan(mean_interval(one_training(values))).all()


def test_interval_of_one_case_of_several_trainings_is_undefined() -> None:
    assert np.isnan(mean_interval(shared(np.array([[0.5], [0.6]])))).all()


@pytest.mark.parametrize("build", [nested, shared])
@pytest.mark.parametrize("trainings", [1, 3])
def test_interval_of_equal_values_has_zero_width(build, trainings: int) -> None:
    assert mean_interval(build(np.full((trainings, 3), 0.5))) == pytest.approx((0.5, 0.5))


SIMULATIONS = 4000  # three standard errors of a rate of 5 % are one point
CASE_SD = 0.03


def simulate(seeds: int, training_sd: float) -> np.ndarray:
    """Return effects without a true mean (simulations, splits, seeds, cases). Seeds share the cases of their split.

    Two thirds of the variance of a case are the same with every seed.
    """
    generator = np.random.default_rng(seeds)
    case = generator.normal(0, CASE_SD * np.sqrt(2 / 3), (SIMULATIONS, 5, 1, 12))
    rest = generator.normal(0, CASE_SD * np.sqrt(1 / 3), (SIMULATIONS, 5, seeds, 12))
    return case + rest + generator.normal(0, training_sd, (SIMULATIONS, 5, seeds, 1))


def coverage(mean: np.ndarray, error: np.ndarray, freedom: np.ndarray | float) -> float:
    """Return how often the 95 % interval contains zero; the test rejects in all other simulations."""
    return float(np.mean(np.abs(mean) <= stats.t.ppf(0.975, freedom) * error))


@pytest.mark.parametrize("training_sd", [0.0, 0.005, 0.01])
@pytest.mark.parametrize("seeds", [1, 3])
def test_interval_over_five_splits_has_nominal_coverage_and_level(seeds: int, training_sd: float) -> None:
    values = simulate(seeds, training_sd).mean(axis=2).reshape(SIMULATIONS, 60)
    result = error_of_nested_cases(values, np.repeat(range(5), 12))
    assert coverage(values.mean(axis=1), *result) == pytest.approx(0.95, abs=0.02)


@pytest.mark.parametrize("training_sd", [0.0, 0.005, 0.01])
def test_interval_over_seeds_of_one_split_has_nominal_coverage_and_level(training_sd: float) -> None:
    values = simulate(3, training_sd)[:, 0]
    assert coverage(values.mean(axis=(1, 2)), *error_of_shared_cases(values.swapaxes(1, 2))) == pytest.approx(0.95, abs=0.02)


@pytest.mark.parametrize(("build", "seeds"), [(nested, 1), (shared, 3)])
def test_interval_and_p_of_a_series_are_those_of_the_simulations(build, seeds: int) -> None:
    values = simulate(seeds, 0.01)[0, :, 0] if build is nested else simulate(seeds, 0.01)[0, 0]
    if build is nested:
        error, freedom = error_of_nested_cases(values.ravel(), np.repeat(range(5), 12))
    else:
        error, freedom = error_of_shared_cases(values.T)
    reach = stats.t.ppf(0.975, freedom) * error
    assert mean_interval(build(values)) == pytest.approx((values.mean() - reach, values.mean() + reach))
    assert paired_p(build(values)) == pytest.approx(2 * stats.t.sf(abs(values.mean()) / error, freedom))


@pytest.mark.parametrize(
    ("training_sd", "coverage", "level"), [(0.0, 0.941, 0.049), (0.005, 0.904, 0.082), (0.01, 0.807, 0.172)]
)
def test_methods_that_count_only_cases_miss_them_as_the_docstring_states(
    training_sd: float, coverage: float, level: float
) -> None:
    values = simulate(1, training_sd).reshape(SIMULATIONS, 60)
    resample = np.random.default_rng(0).multinomial(60, np.full(60, 1 / 60), 500) / 60
    low, high = np.quantile(values @ resample.T, [0.025, 0.975], axis=1)
    assert np.mean((low <= 0) & (high >= 0)) == pytest.approx(coverage, abs=0.02)
    assert np.mean(stats.wilcoxon(values, axis=1).pvalue < 0.05) == pytest.approx(level, abs=0.02)


def test_paired_p_of_one_training_is_that_of_wilcoxon() -> None:
    values = [0.01, 0.02, -0.005, 0.04, 0.03, 0.015]
    assert paired_p(one_training(values)) == pytest.approx(stats.wilcoxon(values).pvalue)


@pytest.mark.parametrize("build", [nested, shared])
def test_paired_p_agrees_with_the_interval(build) -> None:
    values = build(np.random.default_rng(6).normal(0.02, 0.03, (5, 12)))
    edge = 1 - paired_p(values)  # confidence at which the interval ends at zero
    assert mean_interval(values, confidence=edge)[0] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("build", [nested, shared])
def test_paired_p_of_equal_methods_is_undefined(build) -> None:
    assert math.isnan(paired_p(build(np.full((3, 4), 0.3 - (0.1 + 0.2)))))


def test_num_trainings_counts_those_with_a_value() -> None:
    assert num_trainings(nested(np.array([[0.1, np.nan], [0.2, 0.3], [np.nan, np.nan]]))) == 2


def test_paired_differences_match_trainings_and_cases() -> None:
    names = ["training", "case"]
    first = pd.Series([0.9, 0.5, 0.7], pd.MultiIndex.from_tuples([(1, "c"), (0, "a"), (0, "b")], names=names), name="dice")
    second = pd.Series([0.4, 0.6, 0.1], pd.MultiIndex.from_tuples([(0, "a"), (1, "c"), (0, "c")], names=names), name="dice")
    assert paired_differences(first, second).to_dict() == pytest.approx({(0, "a"): 0.1, (1, "c"): 0.3})


def test_paired_differences_reject_disjoint_and_repeated_cases() -> None:
    first = one_training([0.9])
    with pytest.raises(ValueError, match="share no case"):
        paired_differences(first, first.rename(index={"0-0": "b"}))
    with pytest.raises(ValueError, match=r"dice: a case has two values in a training\. Average over seeds"):
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
