"""Lesions of a segmented scan against scipy and against boxes of known volume and location (below 1 s)."""

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from pd_ddpm.evaluation.lesion_table import COLUMNS, lesion_table, num_minority_lesions, total_volume_ml
from pd_ddpm.inference.ensemble import Segmentation

SHAPE, SPACING = (20, 16, 8), (2.0, 1.0, 3.0)
ML = 6.0 / 1000
# Turned about the third axis by 30 degrees, mirrored along the first and shifted: i runs to the patient's left.
ROTATION = np.array([[-np.cos(np.pi / 6), -np.sin(np.pi / 6), 0], [-np.sin(np.pi / 6), np.cos(np.pi / 6), 0], [0, 0, 1]])
AFFINE = np.eye(4)
AFFINE[:3, :3], AFFINE[:3, 3] = ROTATION * SPACING, (30, -20, 10)


def members(*boxes: list[tuple[tuple[slice, ...], float]]) -> np.ndarray:
    """Return one member for each list of (box, probability)."""
    samples = np.zeros((*SHAPE, len(boxes)), dtype=np.float32)
    for number, member in enumerate(boxes):
        for box, probability in member:
            samples[(*box, number)] = probability
    return samples


LARGE, SMALL = np.s_[2:6, 2:6, 2:5], np.s_[14:16, 2:4, 6:7]
BRAIN = np.ones(SHAPE, dtype=bool)


def test_lesion_table_has_volumes_ranges_and_locations():
    samples = members([(LARGE, 1.0), (SMALL, 1.0)], [(LARGE, 0.8), (np.s_[6:7, 2:6, 2:5], 0.6)], [(LARGE, 0.7), (SMALL, 0.9)])
    table = lesion_table(Segmentation.from_members(samples), BRAIN, AFFINE, SPACING)
    assert list(table.columns) == COLUMNS
    assert table["lesion"].tolist() == [1, 2]
    assert table["voxels"].tolist() == [48, 4]
    np.testing.assert_allclose(table["volume_ml"], [48 * ML, 4 * ML])
    np.testing.assert_allclose(table["volume_low_ml"], [48 * ML, 0])
    np.testing.assert_allclose(table["volume_high_ml"], [60 * ML, 4 * ML])
    np.testing.assert_allclose(table["mean_probability"], [2.5 / 3, 1.9 / 3], rtol=1e-6)
    assert table["members"].tolist() == [3, 3]
    assert table["members_finding"].tolist() == [3, 2]
    assert table[["first_k", "last_k"]].to_numpy().tolist() == [[2, 4], [6, 6]]
    for _, row in table.iterrows():
        voxel = row[["voxel_i", "voxel_j", "voxel_k"]].to_numpy(dtype=int)
        assert samples[tuple(voxel)].mean() >= 0.5
        expected = nib.affines.apply_affine(AFFINE, voxel)
        np.testing.assert_allclose(row[["x_mm", "y_mm", "z_mm"]].to_numpy(dtype=float), expected, atol=0.051)
    # i runs to the left, so that the lesion of low i is the patient's right.
    assert table["side"].tolist() == ["right", "left"]


def test_total_volume_is_that_of_the_masks():
    samples = members([(LARGE, 1.0)], [(LARGE, 0.8), (SMALL, 0.6)], [])
    volume, low, high = total_volume_ml(Segmentation.from_members(samples), SPACING)
    assert (volume, low, high) == pytest.approx((48 * ML, 0.0, 52 * ML))
    assert num_minority_lesions(Segmentation.from_members(samples), SPACING) == 1


def test_joined_component_counts_towards_the_nearest_lesion():
    """Two lesions at i = 2..3 and 10..11; the second member fills the gap between them."""
    one, other = np.s_[2:4, 4:8, 3:4], np.s_[10:12, 4:8, 3:4]
    samples = members([(one, 1.0), (other, 1.0)], [(np.s_[2:12, 4:8, 3:4], 0.6)], [(one, 0.9), (other, 0.9)])
    table = lesion_table(Segmentation.from_members(samples), BRAIN, AFFINE, SPACING)
    assert table["voxels"].tolist() == [8, 8]
    # Of the six columns between, i = 4..9, three are nearer to either.
    np.testing.assert_allclose(table["volume_high_ml"], [20 * ML, 20 * ML])
    assert num_minority_lesions(Segmentation.from_members(samples), SPACING) == 0


def test_separate_component_counts_towards_no_lesion():
    samples = members([(LARGE, 1.0)], [(LARGE, 1.0), (SMALL, 1.0)], [(LARGE, 1.0)])
    table = lesion_table(Segmentation.from_members(samples), BRAIN, AFFINE, SPACING)
    np.testing.assert_allclose(table["volume_high_ml"], [48 * ML])
    assert num_minority_lesions(Segmentation.from_members(samples), SPACING) == 1


def test_lesion_table_of_one_member_and_of_no_lesion():
    table = lesion_table(Segmentation.from_members(members([(SMALL, 0.7)])), BRAIN, AFFINE, SPACING)
    assert table["volume_low_ml"].isna().all()
    assert table["members_finding"].tolist() == [1]
    empty = lesion_table(Segmentation.from_members(members([], [(SMALL, 0.7)])), BRAIN, AFFINE, SPACING)
    assert (len(empty), list(empty.columns)) == (0, COLUMNS)


@pytest.mark.parametrize("seed", range(5))
def test_lesion_table_of_random_members_equals_scipy(seed):
    random = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(random.normal(size=(*SHAPE, 4)), (1.5, 1.5, 1.0, 0.3))
    samples = (smooth > smooth.std()).astype(np.float32) * random.uniform(0.5, 1, (*SHAPE, 4)).astype(np.float32)
    table = lesion_table(Segmentation.from_members(samples), BRAIN, AFFINE, SPACING)
    labels, count = ndimage.label(samples.mean(axis=-1) >= 0.5, np.ones((3, 3, 3)))
    assert len(table) == count
    assert sorted(table["voxels"]) == sorted(np.bincount(labels.ravel())[1:])
    by_member = (samples >= 0.5).sum(axis=(0, 1, 2)) * ML
    assert table["volume_high_ml"].max() <= by_member.max() + 1e-9
    assert (table["volume_low_ml"] <= table["volume_high_ml"]).all()
