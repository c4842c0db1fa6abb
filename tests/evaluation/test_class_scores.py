"""Scores of classes against MONAI, medpy and an independent implementation (some seconds)."""

import medpy.metric.binary as medpy
import numpy as np
import pandas as pd
import pytest
import torch
from monai.metrics import compute_dice, compute_hausdorff_distance, compute_iou
from scipy import ndimage

from pd_ddpm.evaluation.class_scores import ClassTruth, class_dice, mean_over_classes, score_classes
from pd_ddpm.evaluation.ensemble_curve import class_curve
from pd_ddpm.evaluation.mask_geometry import MaskGeometry
from pd_ddpm.evaluation.metrics import hd95_largest_mm
from pd_ddpm.evaluation.scores import MEAN
from pd_ddpm.inference.class_ensemble import ClassSegmentation

CLASSES = {1: "CSF", 2: "grey matter", 5: "white matter", 7: "lesion"}
SPACING = (1.2, 0.9, 3.0)
SHAPE = (20, 18, 9)


def label_map(seed: int, labels: list[int]) -> np.ndarray:
    """Smooth random regions of these labels in a background."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(len(labels) + 1, *SHAPE)), (0, 2, 2, 1))
    return np.array([0, *labels], dtype=np.uint8)[noise.argmax(axis=0)]


def members_of(maps: list[np.ndarray]) -> np.ndarray:
    """Members (X, Y, Z, K, C) that are certain of these label maps."""
    return np.stack([maps[k][..., None] == np.array([0, *CLASSES]) for k in range(len(maps))], axis=3).astype(np.float32)


def scored(truth: np.ndarray, predicted: list[np.ndarray]) -> pd.DataFrame:
    everywhere = np.ones(SHAPE, dtype=bool)
    case = ClassTruth([truth], CLASSES, everywhere, everywhere, SPACING, "a")
    return pd.DataFrame(score_classes(case, ClassSegmentation.from_members(members_of(predicted)), 15)).set_index("class")


def erosion_hd95(first: np.ndarray, second: np.ndarray, spacing: tuple[float, ...]) -> float:
    """The larger directed 95th percentile by distance maps: surfaces are what an erosion removes."""
    surfaces = [mask & ~ndimage.binary_erosion(mask) for mask in (first, second)]
    distances = [ndimage.distance_transform_edt(~surface, sampling=spacing) for surface in surfaces]
    return max(np.percentile(distances[1 - side][surfaces[side]], 95) for side in (0, 1))


@pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning")  # MONAI calls its own deprecated argument
def test_score_classes_equals_monai_and_medpy_and_an_independent_hd95():
    truth, predicted = label_map(0, list(CLASSES)), label_map(1, list(CLASSES))
    rows = scored(truth, [predicted])
    one_hot = [
        torch.from_numpy(np.stack([m == label for label in CLASSES])[None].astype(np.float64)) for m in (predicted, truth)
    ]
    dice = compute_dice(*one_hot, include_background=True)[0].numpy()
    iou = compute_iou(*one_hot, include_background=True)[0].numpy()
    monai = compute_hausdorff_distance(*one_hot, include_background=True, percentile=95, spacing=list(SPACING))[0].numpy()
    for number, (label, name) in enumerate(CLASSES.items()):
        masks = (truth == label, predicted == label)
        assert rows.loc[name, "dice"] == pytest.approx(medpy.dc(*masks), abs=1e-9)
        assert rows.loc[name, "dice"] == pytest.approx(float(dice[number]), abs=1e-6)
        assert rows.loc[name, "jaccard"] == pytest.approx(float(iou[number]), abs=1e-6)
        assert rows.loc[name, "hd95_medpy_mm"] == pytest.approx(medpy.hd95(*masks, voxelspacing=SPACING), abs=1e-9)
        assert rows.loc[name, "hd95_largest_mm"] == pytest.approx(erosion_hd95(*masks, SPACING), abs=1e-9)
        assert rows.loc[name, "hd95_largest_mm"] == pytest.approx(float(monai[number]), abs=1e-4)
    for metric in ("dice", "jaccard", "hd95_mm", "hd95_largest_mm", "ece", "brier"):
        assert rows.loc[MEAN, metric] == pytest.approx(rows.loc[list(CLASSES.values()), metric].mean(), abs=1e-12)


def test_hd95_largest_of_a_single_slice_is_that_in_two_dimensions():
    first, second = ((label_map(seed, [1]) > 0)[:, :, :1] for seed in (3, 4))
    expected = erosion_hd95(first[..., 0], second[..., 0], SPACING[:2])
    measured = hd95_largest_mm(MaskGeometry(first, SPACING), MaskGeometry(second, SPACING))
    assert measured == pytest.approx(expected, abs=1e-9)


def test_score_classes_counts_absent_classes():
    """CSF is in neither map, grey matter in the truth only, white matter in the prediction only, lesions in both."""
    rows = scored(label_map(5, [2, 7]), [label_map(6, [5, 7])])
    assert np.isnan(rows.loc["CSF", ["dice", "jaccard", "hd95_mm", "hd95_largest_mm"]].astype(float)).all()
    for name in ("grey matter", "white matter"):
        assert rows.loc[name, "dice"] == 0
        assert rows.loc[name, "jaccard"] == 0
        assert np.isnan(rows.loc[name, "hd95_largest_mm"])
    assert rows.loc[MEAN, "dice"] == pytest.approx(rows.loc["lesion", "dice"] / 3, abs=1e-12)
    assert rows.loc[MEAN, "hd95_largest_mm"] == rows.loc["lesion", "hd95_largest_mm"]
    assert rows.loc[MEAN, ["classes_without_dice", "classes_without_hd95"]].tolist() == [1, 3]


def test_mean_over_classes_adds_volumes():
    rows = [
        {"class": name, "dice": value, "hd95_mm": 1.0, "reference_volume_ml": value} for name, value in (("a", 1), ("b", 3))
    ]
    mean = mean_over_classes(rows)
    assert (mean["dice"], mean["reference_volume_ml"]) == (2, 4)


def test_class_segmentation_of_two_classes_equals_the_binary_one():
    lesion = np.random.default_rng(0).random((4, 3, 2, 5)).astype(np.float32)
    both = ClassSegmentation.from_members(np.stack([1 - lesion, lesion], axis=-1))
    np.testing.assert_allclose(both.variance, lesion.var(axis=-1, ddof=1), rtol=1e-5)
    assert np.array_equal(both.index == 1, lesion.mean(axis=-1, dtype=np.float64) > 0.5)


def test_class_segmentation_takes_the_first_of_equal_classes():
    segmentation = ClassSegmentation.from_members(np.array([[0.5, 0.5, 0], [0, 0.5, 0.5]], np.float32).reshape(1, 1, 2, 1, 3))
    assert segmentation.index.ravel().tolist() == [0, 1]


def test_class_dice_is_the_mean_over_classes_that_occur():
    truth, predicted = np.array([0, 1, 1, 2, 0]), np.array([0, 1, 2, 2, 0])
    assert class_dice(truth, predicted, 4) == pytest.approx((2 / 3 + 2 / 3) / 2)
    assert np.isnan(class_dice(np.zeros(3, int), np.zeros(3, int), 4))


def test_class_curve_equals_the_dice_of_each_ensemble():
    random = np.random.default_rng(1)
    samples = random.dirichlet([0.3] * 4, size=(6, 5, 4, 3)).astype(np.float32)
    truth = random.integers(0, 4, (6, 5, 4)).astype(np.uint8)
    rows = class_curve(samples, truth, {1: [(0,), (2,)], 2: [(0, 1)], 3: [(0, 1, 2)]})
    for row in rows.itertuples():
        members = list(map(int, row.subset.split("+")))
        predicted = samples[..., members, :].mean(axis=-2).argmax(axis=-1)
        expected = np.mean([medpy.dc(predicted == number, truth == number) for number in (1, 2, 3)])
        assert row.dice == pytest.approx(expected, abs=1e-9)
