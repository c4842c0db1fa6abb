"""Metrics against an independent implementation on SimpleITK, MedPy, and results calculated by hand (about 2 s)."""

import math
import warnings

import numpy as np
import pytest
import SimpleITK as sitk
from challenge_definitions import scores_on_simpleitk
from scipy import ndimage

from pd_ddpm.evaluation.mask_geometry import MaskGeometry
from pd_ddpm.evaluation.metrics import EMPTY_MASK_POLICY, ReferenceMask, dice, hd95_medpy_mm, hd95_mm, score

SPACINGS = ((0.96, 0.96, 3.0), (1.0, 1.0, 1.0), (1.2, 0.98, 3.0), (0.5, 2.0, 1.25))
# A turned and shifted patient: the metrics must not notice.
DIRECTION = np.linalg.qr(np.array([[0.98, -0.15, 0.05], [0.16, 0.97, -0.2], [-0.02, 0.21, 0.95]]))[0]
ORIGIN = (-91.3, 42.0, 17.5)


def as_image(mask: np.ndarray, spacing: tuple[float, float, float]) -> sitk.Image:
    image = sitk.GetImageFromArray(mask.T.astype(np.uint8))
    image.SetSpacing(spacing)
    image.SetOrigin(ORIGIN)
    image.SetDirection(DIRECTION.ravel().tolist())
    return image


def ellipsoids(generator: np.random.Generator, shape: tuple[int, ...], count: int, largest: float) -> np.ndarray:
    """Return random ellipsoids, not empty; their centres may lie on or slightly beyond the image border."""
    grid = np.indices(shape)
    mask = np.zeros(shape, dtype=bool)
    mask[tuple(generator.integers(0, shape))] = True
    for _ in range(count):
        centre = generator.uniform(-1, np.array(shape) + 1)
        radii = generator.uniform(0.6, largest, 3) * (1, 1, 0.5)
        mask |= (((grid - centre[:, None, None, None]) / radii[:, None, None, None]) ** 2).sum(axis=0) <= 1
    return mask


def phantom(seed: int) -> tuple[np.ndarray, np.ndarray, tuple[float, float, float]]:
    """Return labels, prediction and spacing; the prediction misses lesions, adds some and covers label 2."""
    generator = np.random.default_rng(seed)
    shape = tuple(int(size) for size in generator.integers((12, 12, 3), (40, 40, 14)))
    lesions = ellipsoids(generator, shape, int(generator.integers(0, 12)), largest=generator.uniform(1, 6))
    other = ellipsoids(generator, shape, 2, largest=4.0)
    labels = np.where(lesions, 1, np.where(other, 2, 0)).astype(np.uint8)
    shifted = np.roll(lesions, generator.integers(-2, 3, 3), axis=(0, 1, 2)) & (generator.random(shape) < 0.9)
    prediction = shifted | ellipsoids(generator, shape, 2, largest=3.0) | (other & (generator.random(shape) < 0.5))
    prediction[tuple(np.argwhere(labels != 2)[0])] = True
    return labels, prediction, SPACINGS[seed % len(SPACINGS)]


def scores(truth: np.ndarray, prediction: np.ndarray, spacing=(1.0, 1.0, 1.0)) -> dict[str, float]:
    return score(ReferenceMask.from_labels(truth, spacing), prediction)


def single_voxels(shape: tuple[int, ...], *places: tuple[int, ...]) -> np.ndarray:
    mask = np.zeros(shape, dtype=bool)
    for place in places:
        mask[place] = True
    return mask


@pytest.mark.parametrize("seed", range(24))
def test_score_equals_the_challenge_definitions_on_simpleitk(seed):
    labels, prediction, spacing = phantom(seed)
    ours = scores(labels, prediction, spacing)
    for name, expected in scores_on_simpleitk(as_image(labels, spacing), as_image(prediction, spacing)).items():
        assert ours[name] == pytest.approx(expected, rel=1e-12, abs=1e-9), name


def test_phantom_cases_cover_borders_and_label_2():
    cases = [phantom(seed) for seed in range(24)]
    border_touched = [(labels == 1)[[0, -1]].any() or (labels == 1)[:, [0, -1]].any() for labels, _, _ in cases]
    covers_other = [(prediction & (labels == 2)).any() for labels, prediction, _ in cases]
    results = [scores(*case) for case in cases]
    assert sum(border_touched) >= 5
    assert sum(covers_other) >= 5
    assert min(result["reference_voxels"] for result in results) <= 5
    assert len({round(result["hd95_mm"], 6) for result in results}) >= 15
    assert len({round(result["lesion_f1"], 6) for result in results}) >= 8
    assert any(result["hd95_mm"] != pytest.approx(result["hd95_medpy_mm"], abs=0.5) for result in results)


@pytest.mark.parametrize("seed", range(24))
def test_score_equals_medpy(seed):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from medpy.metric import binary
    labels, prediction, spacing = phantom(seed)
    truth, scored = labels == 1, prediction & (labels != 2)
    ours = scores(labels, prediction, spacing)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = {
            "dice": binary.dc(scored, truth),
            "jaccard": binary.jc(scored, truth),
            "hd95_medpy_mm": binary.hd95(scored, truth, voxelspacing=spacing),
        }
    for name, value in expected.items():
        assert ours[name] == pytest.approx(value, rel=0, abs=1e-9), name
    assert dice(scored, truth) == pytest.approx(expected["dice"], rel=0, abs=1e-12)


@pytest.mark.parametrize("density", [0.02, 0.1, 0.3, 0.6, 1.0])
def test_lesions_of_random_masks_equal_scipy(density):
    mask = np.random.default_rng(7).random((23, 31, 17)) < density
    expected, count = ndimage.label(mask, np.ones((3, 3, 3)))
    lesions = MaskGeometry(mask, (1.0, 1.0, 1.0)).lesions
    pairs = np.unique(np.stack([lesions.labels, expected[mask]]), axis=1)
    assert lesions.count == count == pairs.shape[1]


def test_score_of_two_voxels_three_millimetres_apart():
    result = scores(single_voxels((5, 5, 4), (2, 2, 1)), single_voxels((5, 5, 4), (2, 2, 2)), (0.96, 0.96, 3.0))
    assert result == {
        "dice": 0.0,
        "jaccard": 0.0,
        "hd95_mm": 3.0,
        "hd95_medpy_mm": 3.0,
        "avd_percent": 0.0,
        "lesion_recall": 0.0,
        "lesion_precision": 0.0,
        "lesion_f1": 0.0,
        "reference_volume_ml": pytest.approx(0.96 * 0.96 * 3.0 / 1000),
        "predicted_volume_ml": pytest.approx(0.96 * 0.96 * 3.0 / 1000),
        "reference_voxels": 1.0,
        "predicted_voxels": 1.0,
        "ignored_voxels": 0.0,
        "reference_lesions": 1.0,
        "predicted_lesions": 1.0,
    }
    assert all(type(value) is float for value in result.values())


def test_hd95_percentiles_are_directed_and_those_of_medpy_pooled():
    """Distances are 0 and 10 mm in one direction, 0 in the other: directed percentile 9.5, pooled percentile 9.0."""
    truth = single_voxels((14, 3, 3), (1, 1, 1))
    result = scores(truth, single_voxels((14, 3, 3), (1, 1, 1), (11, 1, 1)))
    assert result["hd95_mm"] == pytest.approx(9.5)
    assert result["hd95_medpy_mm"] == pytest.approx(9.0)
    assert result["dice"] == pytest.approx(2 / 3)
    assert result["jaccard"] == pytest.approx(1 / 2)
    assert result["avd_percent"] == pytest.approx(100.0)
    assert (result["lesion_recall"], result["lesion_precision"]) == (1.0, 0.5)
    assert result["lesion_f1"] == pytest.approx(2 / 3)


def test_surfaces_of_a_box_have_the_expected_sizes():
    """5 x 5 x 5 voxels: 16 of 25 in each slice; in space all except the inner 3 x 3 x 3."""
    mask = np.zeros((9, 9, 9), dtype=bool)
    mask[2:7, 2:7, 2:7] = True
    geometry = MaskGeometry(mask, (1.0, 1.0, 1.0))
    assert geometry.in_plane_surface.n == 5 * 16
    assert geometry.surface.n == 125 - 27


def test_in_plane_surface_includes_voxels_with_diagonal_background():
    mask = np.ones((7, 7, 1), dtype=bool)
    mask[3, 3] = False
    assert MaskGeometry(mask, (1.0, 1.0, 1.0)).in_plane_surface.n == 8


def test_image_border_is_foreground_for_hd95_and_background_for_medpy():
    mask = np.zeros((6, 6, 3), dtype=bool)
    mask[:3] = True
    geometry = MaskGeometry(mask, (1.0, 1.0, 1.0))
    assert geometry.in_plane_surface.n == 6 * 3
    assert geometry.surface.n == 3 * 6 * 3 - 1 * 4 * 1


def test_hd95_of_a_mask_that_fills_its_slices_is_undefined():
    truth = np.zeros((6, 6, 4), dtype=bool)
    truth[:, :, 1:3] = True
    prediction = np.zeros_like(truth)
    prediction[:, :, 1:2] = True
    result = scores(truth, prediction, (1.0, 1.0, 3.0))
    assert math.isnan(result["hd95_mm"])
    assert result["hd95_medpy_mm"] == pytest.approx(3.0)
    assert result["dice"] == pytest.approx(2 / 3)


def test_lesion_detection_allows_many_to_one_overlap():
    truth = single_voxels((12, 5, 5), (2, 2, 2), (8, 2, 2))
    prediction = np.zeros_like(truth)
    prediction[1:10, 2, 2] = True
    result = scores(truth, prediction)
    assert (result["reference_lesions"], result["predicted_lesions"]) == (2.0, 1.0)
    assert (result["lesion_recall"], result["lesion_precision"], result["lesion_f1"]) == (1.0, 1.0, 1.0)


def test_voxels_that_share_a_corner_are_one_lesion():
    mask = single_voxels((8, 8, 8), (1, 1, 1), (2, 2, 2), (2, 2, 4), (7, 0, 0), (0, 7, 7))
    result = scores(mask, mask)
    assert result["reference_lesions"] == result["predicted_lesions"] == 4.0


def test_lesions_do_not_join_across_the_image_border():
    """Neighbours in memory that are not neighbours in space."""
    assert MaskGeometry(single_voxels((3, 4, 5), (0, 0, 4), (0, 1, 0)), (1.0, 1.0, 1.0)).lesions.count == 2
    assert MaskGeometry(single_voxels((3, 4, 5), (0, 3, 4), (1, 0, 0)), (1.0, 1.0, 1.0)).lesions.count == 2
    assert MaskGeometry(single_voxels((3, 4, 5), (0, 3, 2), (1, 0, 2), (2, 0, 0)), (1.0, 1.0, 1.0)).lesions.count == 3


def test_score_removes_label_2_from_the_prediction_first():
    labels = np.zeros((12, 6, 6), dtype=np.uint8)
    labels[1:4, 2, 2] = 1
    labels[4:7, 2, 2] = 2
    prediction = np.zeros(labels.shape, dtype=bool)
    prediction[1:9, 2, 2] = True
    result = scores(labels, prediction)
    assert result["ignored_voxels"] == 3.0
    assert (result["reference_voxels"], result["predicted_voxels"]) == (3.0, 5.0)
    assert result["predicted_lesions"] == 2.0
    assert result["lesion_precision"] == 0.5
    assert result["dice"] == pytest.approx(2 * 3 / 8)
    without = prediction & (labels != 2)
    assert scores(labels, without) == result
    assert scores(np.where(labels == 2, 0, labels), without) == {**result, "ignored_voxels": 0.0}


EMPTY, FULL = np.zeros((4, 5, 6), dtype=bool), single_voxels((4, 5, 6), (1, 1, 1), (3, 3, 3))
FRACTIONS = ("dice", "jaccard", "lesion_recall", "lesion_precision", "lesion_f1")


@pytest.mark.parametrize(
    ("truth", "prediction", "fractions", "difference"),
    [
        (EMPTY, EMPTY, (1, 1, 1, 1, 1), 0.0),
        (FULL, EMPTY, (0, 0, 0, 1, 0), 100.0),
        (EMPTY, FULL, (0, 0, 1, 0, 0), math.nan),
    ],
    ids=["both", "prediction", "reference"],
)
def test_score_of_empty_masks_follows_the_policy(truth, prediction, fractions, difference):
    result = scores(truth, prediction)
    assert tuple(result[name] for name in FRACTIONS) == fractions
    assert result["avd_percent"] == pytest.approx(difference, nan_ok=True)
    assert math.isnan(result["hd95_mm"])
    assert math.isnan(result["hd95_medpy_mm"])
    assert dice(truth, prediction) == result["dice"]
    assert EMPTY_MASK_POLICY.startswith("Empty masks: ")


def test_prediction_inside_label_2_only_counts_as_empty():
    labels = np.where(FULL, 2, 0)
    result = scores(labels, FULL)
    assert (result["dice"], result["predicted_voxels"], result["reference_voxels"]) == (1.0, 0.0, 0.0)


@pytest.mark.parametrize("seed", range(4))
def test_score_does_not_change_with_translation(seed):
    """The margin around the lesions keeps them away from the image border."""
    labels, prediction, spacing = phantom(seed)
    results = []
    for before in ((1, 1, 1), (9, 4, 6)):
        around = [(start, 11 - start) for start in before]
        results.append(scores(np.pad(labels, around), np.pad(prediction, around), spacing))
    assert results[0] == pytest.approx(results[1], rel=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_score_does_not_change_with_swapped_axes_and_spacing(seed):
    """Only the in-plane surface depends on the slice axis: it allows swapping the in-plane axes, all others any axes."""
    labels, prediction, spacing = phantom(seed)
    plain = scores(labels, prediction, spacing)
    for axes in ((1, 0, 2), (2, 1, 0), (1, 2, 0)):
        swapped = scores(labels.transpose(axes), prediction.transpose(axes).copy(), tuple(spacing[axis] for axis in axes))
        if axes[2] != 2:
            swapped["hd95_mm"] = plain["hd95_mm"]
        assert swapped == pytest.approx(plain, rel=1e-12)
    mirrored = scores(labels[::-1, :, ::-1], prediction[::-1, :, ::-1], spacing)
    assert mirrored == pytest.approx(plain, rel=1e-12)


def test_distances_are_symmetric_and_scale_with_the_spacing():
    labels, prediction, spacing = phantom(3)
    scored = prediction & (labels != 2)
    for distance in (hd95_mm, hd95_medpy_mm):
        first, second = MaskGeometry(labels == 1, spacing), MaskGeometry(scored, spacing)
        doubled = tuple(2 * step for step in spacing)
        wide = distance(MaskGeometry(labels == 1, doubled), MaskGeometry(scored, doubled))
        assert distance(first, second) == distance(second, first) > 0
        assert wide == pytest.approx(2 * distance(first, second))
        assert distance(first, first) == 0.0


@pytest.mark.parametrize("dtype", ["uint8", "int16", "int64", "float32", "float64"])
def test_score_does_not_depend_on_the_label_dtype(dtype):
    labels, prediction, spacing = phantom(5)
    assert scores(labels.astype(dtype), prediction, spacing) == scores(labels, prediction, spacing)


def test_labels_may_be_rounded_or_boolean():
    labels, prediction, spacing = phantom(6)
    assert scores(labels - np.float32(1e-4), prediction, spacing) == scores(labels, prediction, spacing)
    lesions_only = np.where(labels == 2, 0, labels)
    assert scores(labels == 1, prediction, spacing) == scores(lesions_only, prediction, spacing)


def test_score_does_not_depend_on_memory_layout_and_keeps_its_inputs():
    labels, prediction, spacing = phantom(8)
    plain = scores(labels, prediction, spacing)
    assert scores(np.asfortranarray(labels), np.asfortranarray(prediction), spacing) == plain
    labels.flags.writeable = prediction.flags.writeable = False
    assert scores(labels, prediction, spacing) == plain


def test_reference_mask_can_score_many_predictions():
    labels, prediction, spacing = phantom(9)
    reference = ReferenceMask.from_labels(labels, spacing)
    first = score(reference, prediction)
    score(reference, np.zeros_like(prediction))
    assert score(reference, prediction) == first == scores(labels, prediction, spacing)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros((4, 4)), r"site-1: labels must be a volume .* shape \(4, 4\)"),
        (np.full((2, 2, 2), np.nan), r"site-1: .* 8 NaN or infinite voxels, the first at \(0, 0, 0\)"),
        (np.full((2, 2, 2), np.inf), "site-1: .* NaN or infinite"),
        (np.full((2, 2, 2), 255, np.uint8), "site-1: labels must be 0 .* 8 voxels have 255. Recode"),
        (np.full((2, 2, 2), -1, np.int16), "site-1: .* have -1. Recode"),
        (np.full((2, 2, 2), 0.4999, np.float32), "site-1: .* have 0.4999. Recode"),
        (np.arange(3, 11).reshape(2, 2, 2), r"site-1: .* have 3, 4, 5, 6, 7, \.\.\.\. Recode"),
        (np.full((2, 2, 2), "1"), "site-1: labels must be numbers"),
    ],
)
def test_reference_mask_rejects_invalid_labels(labels, message):
    with pytest.raises(ValueError, match=message):
        ReferenceMask.from_labels(labels, (1.0, 1.0, 3.0), name="site-1")


@pytest.mark.parametrize("spacing", [(1, 1), (1, 1, 0), (1, -1, 3), (1, 1, math.nan), (1, 1, math.inf), 1.0, "abc"])
def test_reference_mask_rejects_invalid_spacing(spacing):
    with pytest.raises(ValueError, match="reference: the spacing must be three positive numbers in mm"):
        ReferenceMask.from_labels(EMPTY, spacing)


@pytest.mark.parametrize(
    ("prediction", "message"),
    [
        (
            np.zeros((4, 5, 7), dtype=bool),
            r"reference: the prediction has shape \(4, 5, 7\), the reference \(4, 5, 6\)",
        ),
        (np.zeros((4, 5, 6), dtype=np.uint8), "must be a boolean mask, not uint8. Threshold it"),
        (np.full((4, 5, 6), np.nan), "must be a boolean mask, not float64 with NaN. Threshold it"),
    ],
)
def test_score_rejects_invalid_predictions(prediction, message):
    reference = ReferenceMask.from_labels(EMPTY, (1.0, 1.0, 1.0))
    with pytest.raises(ValueError, match=message):
        score(reference, prediction)


def test_dice_rejects_masks_of_different_shapes():
    with pytest.raises(ValueError, match=r"shapes \(4, 5, 6\) and \(1, 5, 6\)"):
        dice(EMPTY, EMPTY[:1])
