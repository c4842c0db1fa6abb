"""Scores of probabilities against scikit-learn, brute force and closed forms (about 3 s)."""

import math
import time
from itertools import combinations, product

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, roc_auc_score

from pd_ddpm.data.nifti.write import PROBABILITY_SLOPE
from pd_ddpm.evaluation.metrics import dice
from pd_ddpm.evaluation.probability_scores import (
    auroc,
    band,
    expected_calibration_error,
    members_dice,
    probability_scores,
    rater_scores,
)
from pd_ddpm.inference.ensemble import Segmentation, ensemble_mask, member_variance, threshold

SHAPE = (12, 10, 5)


def case(seed: int, members: int = 5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return members as they are read from a file, labels with lesion and other pathology, and a region."""
    generator = np.random.default_rng(seed)
    labels = generator.choice([0, 1, 2], SHAPE, p=[0.7, 0.2, 0.1]).astype(np.uint8)
    soft = np.clip(0.6 * (labels == 1)[..., None] + generator.normal(0.1, 0.25, (*SHAPE, members)), 0, 1)
    return np.round(soft * 255).astype(np.float32) * np.float32(PROBABILITY_SLOPE), labels, generator.random(SHAPE) < 0.8


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.96, 1.2, 3.0)])
@pytest.mark.parametrize("margin", [0.0, 2.0, 3.0, 50.0])
def test_band_equals_brute_force_distances(spacing: tuple[float, float, float], margin: float) -> None:
    brain = np.zeros((9, 11, 7), dtype=bool)
    brain[0:2, 5:8, 3] = brain[6, 2, 4] = True
    places = np.argwhere(np.ones_like(brain)) * spacing
    distance = np.linalg.norm(places[:, None] - np.argwhere(brain) * spacing, axis=-1).min(axis=1).reshape(brain.shape)
    np.testing.assert_array_equal(band(brain, spacing, margin), distance <= margin)


def test_band_rejects_an_empty_brain_and_a_negative_margin() -> None:
    with pytest.raises(ValueError, match="brain mask is empty"):
        band(np.zeros(SHAPE, dtype=bool), (1, 1, 1), 2)
    with pytest.raises(ValueError, match="negative"):
        band(np.ones(SHAPE, dtype=bool), (1, 1, 1), -1)


@pytest.mark.parametrize("seed", range(4))
def test_probability_scores_equal_scikit_learn(seed: int) -> None:
    samples, labels, region = case(seed)
    counted = region & (labels != 2)
    truth, probability = (labels == 1)[counted], samples.mean(axis=-1, dtype=float)[counted]
    wrong = ensemble_mask(samples)[counted] != truth
    ours = probability_scores(samples, labels, region)
    assert ours["brier"] == pytest.approx(brier_score_loss(truth, probability))
    assert ours["error_auroc_variance"] == pytest.approx(roc_auc_score(wrong, member_variance(samples)[counted]))
    predictive = np.round(probability * (1 - probability), 7)
    assert ours["error_auroc_predictive"] == pytest.approx(roc_auc_score(wrong, predictive), abs=1e-4)


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_calibration_error_equals_a_sum_over_bins(bins: int) -> None:
    samples, labels, _ = case(7, members=1)
    level = np.round(samples[..., 0].ravel() * 255).astype(int)
    truth = (labels == 1).ravel()
    expected = 0.0
    for bin_number in range(bins):
        lower, upper = 255 * bin_number, 255 * (bin_number + 1)  # in whole numbers: level / 255 in [b / bins, (b + 1) / bins)
        inside = (level * bins >= lower) & ((level * bins < upper) | ((bin_number == bins - 1) & (level == 255)))
        if inside.any():
            expected += inside.mean() * abs((level[inside] / 255).mean() - truth[inside].mean())
    assert expected_calibration_error(samples[..., 0].ravel(), truth, bins) == pytest.approx(expected, abs=1e-6)


def test_calibration_error_of_calibrated_and_of_wrong_probabilities() -> None:
    truth = np.arange(1000) % 4 == 0
    assert expected_calibration_error(np.full(1000, 0.25), truth) == pytest.approx(0.0)
    assert expected_calibration_error(np.ones(1000), np.zeros(1000, dtype=bool)) == pytest.approx(1.0)
    assert expected_calibration_error(truth.astype(float), truth) == 0.0


def test_auroc_counts_ties_half() -> None:
    assert auroc(np.array([1.0, 1.0, 2.0, 0.0]), np.array([True, False, True, False])) == pytest.approx(3.5 / 4)
    assert auroc(np.ones(6), np.arange(6) < 2) == 0.5


def test_auroc_is_undefined_without_both_classes() -> None:
    labels = np.zeros(SHAPE, dtype=np.uint8)
    labels[3:5] = 1
    perfect = np.repeat((labels == 1)[..., None].astype(np.float32), 2, axis=-1)
    everywhere = np.ones(SHAPE, dtype=bool)
    for samples in (perfect, 1 - perfect):
        found = probability_scores(samples, labels, everywhere)
        assert math.isnan(found["error_auroc_variance"])
        assert math.isnan(found["error_auroc_predictive"])
    assert probability_scores(perfect, labels, everywhere)["brier"] == 0.0


def test_single_member_has_only_the_predictive_auroc() -> None:
    found = probability_scores(*case(1, members=1))
    assert math.isnan(found["error_auroc_variance"])
    assert 0.5 < found["error_auroc_predictive"] < 1


def test_probability_scores_ignore_label_2_and_voxels_outside_the_region() -> None:
    samples, labels, region = case(2)
    changed = samples.copy()
    changed[(labels == 2) | ~region] = 1.0
    assert probability_scores(changed, labels, region) == probability_scores(samples, labels, region)


def test_probability_scores_reject_invalid_input() -> None:
    samples, labels, region = case(3)
    with pytest.raises(ValueError, match="no voxel to score"):
        probability_scores(samples, np.full(SHAPE, 2, dtype=np.uint8), region)
    with pytest.raises(ValueError, match=r"probabilities in \[0, 1\]"):
        probability_scores(samples * 255, labels, region)
    with pytest.raises(ValueError, match="without NaN"):
        probability_scores(np.full_like(samples, np.nan), labels, region)
    with pytest.raises(ValueError, match="to one grid"):
        probability_scores(samples, labels[:-1], region)
    with pytest.raises(ValueError, match=r"\(X, Y, Z, K\)"):
        rater_scores(samples[..., 0], [labels, labels])


def brute_force_ged(samples: np.ndarray, raters: list[np.ndarray]) -> float:
    counted = ~np.any([labels == 2 for labels in raters], axis=0)
    members = [threshold(samples[..., member]) & counted for member in range(samples.shape[-1])]
    truths = [(labels == 1) & counted for labels in raters]

    def jaccard(one: np.ndarray, other: np.ndarray) -> float:
        return np.sum(one & other) / np.sum(one | other) if np.any(one | other) else 1.0

    def mean_distance(first: list[np.ndarray], second: list[np.ndarray]) -> float:
        return float(np.mean([1 - jaccard(one, other) for one, other in product(first, second)]))

    return 2 * mean_distance(members, truths) - mean_distance(members, members) - mean_distance(truths, truths)


@pytest.mark.parametrize(("members", "raters"), [(1, 2), (5, 2), (4, 3)])
def test_rater_scores_equal_means_over_all_pairs(members: int, raters: int) -> None:
    samples = case(11, members)[0]
    maps = [case(20 + number)[1] for number in range(raters)]
    counted = ~np.any([labels == 2 for labels in maps], axis=0)
    agreement = np.mean([dice((one == 1) & counted, (other == 1) & counted) for one, other in combinations(maps, 2)])
    found = rater_scores(samples, maps)
    assert found["raters"] == raters
    assert found["ged_squared"] == pytest.approx(brute_force_ged(samples, maps))
    assert found["interrater_dice"] == pytest.approx(agreement)


def test_energy_distance_is_zero_if_members_equal_raters() -> None:
    maps = [(case(seed)[1] == 1).astype(np.uint8) for seed in (1, 2)]
    assert rater_scores(np.stack(maps, axis=-1).astype(np.float32), maps)["ged_squared"] == pytest.approx(0.0, abs=1e-12)


def test_rater_scores_of_empty_masks() -> None:
    nothing = np.zeros(SHAPE, dtype=np.uint8)
    something = nothing.copy()
    something[0, 0, 0] = 1
    none = np.zeros((*SHAPE, 3), dtype=np.float32)
    assert rater_scores(none, [nothing, nothing]) == {"raters": 2, "ged_squared": 0.0, "interrater_dice": 1.0}
    # 2 · (0 + 1) / 2 - 0 - (0 + 1 + 1 + 0) / 4
    assert rater_scores(none, [nothing, something])["ged_squared"] == pytest.approx(0.5)
    assert rater_scores(none, [nothing, something])["interrater_dice"] == 0.0


def test_energy_distance_bias_is_the_mean_distance_over_k() -> None:
    """The bias stated in the docstring, for members that are single random voxels (distance 0 or 1)."""
    generator = np.random.default_rng(0)
    maps = [np.zeros((6, 1, 1), dtype=np.uint8) for _ in range(2)]
    mean = {}
    for members in (2, 8):
        draws = []
        for _ in range(600):
            samples = np.zeros((6, 1, 1, members), dtype=np.float32)
            samples[generator.integers(0, 6, members), 0, 0, np.arange(members)] = 1
            draws.append(rater_scores(samples, maps)["ged_squared"])
        mean[members] = np.mean(draws)
    assert mean[2] - mean[8] == pytest.approx(5 / 6 * (1 / 2 - 1 / 8), abs=0.03)


def test_rater_scores_of_a_single_rater_are_undefined() -> None:
    samples, labels, _ = case(5)
    found = rater_scores(samples, [labels])
    assert found["raters"] == 1
    assert math.isnan(found["ged_squared"])
    assert math.isnan(found["interrater_dice"])


@pytest.mark.parametrize("members", [2, 5])
def test_members_dice_is_the_mean_over_pairs(members: int) -> None:
    samples = case(3, members)[0]
    masks = [threshold(samples[..., member]) for member in range(members)]
    expected = np.mean([dice(one, other) for one, other in combinations(masks, 2)])
    assert members_dice(Segmentation.from_members(samples)) == pytest.approx(expected)


def test_members_dice_leaves_out_pairs_of_empty_masks() -> None:
    samples = np.zeros((*SHAPE, 4), dtype=np.float32)
    assert math.isnan(members_dice(Segmentation.from_members(samples)))
    samples[0, 0, :2, 0] = samples[0, 0, :1, 1] = 1
    # Members of 2, 1, 0 and 0 voxels: Dice 2/3 of the first pair, 0 of four pairs, and one pair of empty masks.
    assert members_dice(Segmentation.from_members(samples)) == pytest.approx(2 / 3 / 5)
    assert math.isnan(members_dice(Segmentation.from_members(samples[..., :1])))
    assert members_dice(Segmentation.from_members(samples[..., [0, 0, 0]])) == 1.0


def test_scores_of_a_whole_case_take_less_than_a_second() -> None:
    shape = (240, 240, 48)
    x, y, z = np.ogrid[:240, :240, :48]
    brain = ((x - 120) / 70) ** 2 + ((y - 120) / 90) ** 2 + ((z - 24) / 26) ** 2 < 1
    generator = np.random.default_rng(0)
    labels = (generator.random(shape, dtype=np.float32) < 0.01).astype(np.uint8)
    samples = generator.random((*shape, 5), dtype=np.float32) * 0.5 + 0.5 * (labels == 1)[..., None]
    begin = time.process_time()
    probability_scores(samples, labels, band(brain, (1.0, 1.0, 3.0), 5.0))
    rater_scores(samples, [labels, labels, labels])
    assert time.process_time() - begin < 3  # 0.4 s of CPU time, whatever else the machine does
