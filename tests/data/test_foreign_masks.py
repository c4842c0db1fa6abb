"""Masks and probabilities of another program: values, labels, grids, voxel axes (below 1 s)."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

from pd_ddpm.data.foreign_masks import empty_mask_problem, read_foreign_mask
from pd_ddpm.data.nifti.geometry import ImageError

SHAPE, AFFINE = (5, 6, 4), np.diag([1.0, 2.0, 3.0, 1.0])
SCAN = nib.Nifti1Image(np.zeros(SHAPE, np.float32), AFFINE)


def saved(folder: Path, values: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    nib.save(nib.Nifti1Image(values, affine), folder / "mask.nii.gz")
    return folder / "mask.nii.gz"


def lesion() -> np.ndarray:
    mask = np.zeros(SHAPE, np.uint8)
    mask[1, 2:4, 3] = 1
    return mask


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, np.float64])
def test_read_foreign_mask_returns_zero_and_one(tmp_path: Path, dtype: type) -> None:
    read = read_foreign_mask(saved(tmp_path, lesion().astype(dtype)), SCAN, "case a")
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, lesion())


def test_read_foreign_mask_keeps_probabilities_and_limits_rounding(tmp_path: Path) -> None:
    values = np.random.default_rng(0).random(SHAPE).astype(np.float32)
    values[0, 0, :2] = -4e-4, 1 + 4e-4
    read = read_foreign_mask(saved(tmp_path, values), SCAN, "case a")
    np.testing.assert_array_equal(read, values.clip(0, 1))


def test_read_foreign_mask_takes_one_of_several_labels(tmp_path: Path) -> None:
    labels = lesion() * 77
    labels[4] = 2
    np.testing.assert_array_equal(read_foreign_mask(saved(tmp_path, labels), SCAN, "case a", lesion_label=77), lesion())


@pytest.mark.parametrize(
    ("values", "lesion_label", "problem"),
    [
        (lesion() * 2, None, "holds 2, but a mask holds values from 0 to 1. If it holds labels, set `lesion_label`"),
        (lesion() * 255, None, "holds 255, but a mask"),
        (lesion() - 0.5, None, "holds -0.5, but a mask"),
        (lesion() * 0.5, 1, "holds 0.5, which are no labels. Remove `lesion_label` for probabilities"),
        (np.where(lesion(), np.nan, 0), None, "2 voxels are NaN or infinite"),
        (np.stack([lesion()] * 2, axis=-1), None, "a 3D image is needed"),
    ],
)
def test_read_foreign_mask_rejects_other_values(
    tmp_path: Path, values: np.ndarray, lesion_label: int | None, problem: str
) -> None:
    with pytest.raises(ImageError) as caught:
        read_foreign_mask(saved(tmp_path, values), SCAN, "case a", lesion_label)
    assert problem in str(caught.value)


def test_read_foreign_mask_requires_the_grid_of_the_scan(tmp_path: Path) -> None:
    moved = AFFINE.copy()
    moved[0, 3] = 0.11  # of a voxel of 1 mm
    with pytest.raises(ImageError, match="its affine differs from that of case a"):
        read_foreign_mask(saved(tmp_path, lesion(), moved), SCAN, "case a")
    read_foreign_mask(saved(tmp_path, lesion(), moved), SCAN, "case a", tolerance_voxels=0.2)
    with pytest.raises(ImageError, match=r"its shape \(5, 6, 3\) differs from \(5, 6, 4\) of case a"):
        read_foreign_mask(saved(tmp_path, lesion()[..., :3]), SCAN, "case a")


def test_read_foreign_mask_turns_voxel_axes_to_those_of_the_scan(tmp_path: Path) -> None:
    scan = nib.Nifti1Image(lesion(), AFFINE)
    change = ornt_transform(io_orientation(AFFINE), axcodes2ornt("PIR"))
    nib.save(scan.as_reoriented(change), tmp_path / "mask.nii.gz")
    np.testing.assert_array_equal(read_foreign_mask(tmp_path / "mask.nii.gz", scan, "case a"), lesion())


def test_empty_mask_is_doubted() -> None:
    assert empty_mask_problem("m.nii.gz", lesion()) is None
    assert "no voxel is lesion" in str(empty_mask_problem("m.nii.gz", lesion() * 0.4))
