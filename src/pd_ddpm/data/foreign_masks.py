"""Read masks and probability maps that another program has made, on the grid of a scan."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np

from pd_ddpm.data.label_maps import class_index, one_hot
from pd_ddpm.data.nifti.geometry import GRID_TOLERANCE_VOXELS, ImageError, check_same_grid, reorient
from pd_ddpm.data.nifti.read import read_image, read_labels
from pd_ddpm.runtime.problem import Problem

# Interpolation leaves probabilities a little outside of their range, and labels a little off.
_VALUE_TOLERANCE = 1e-3
_MAX_LISTED = 10


def read_foreign_mask(
    path: str | Path,
    scan: nib.Nifti1Image,
    scan_name: str,
    lesion_label: int | None = None,
    tolerance_voxels: float = GRID_TOLERANCE_VOXELS,
) -> np.ndarray:
    """Read a mask, or a map of lesion probabilities.

    The voxel axes may be stored in another order or direction than those of the scan. Nothing is resampled.

    Args:
        path: the file.
        scan: image with the grid that the mask must have.
        scan_name: name of the scan, for messages.
        lesion_label: label of lesions; all other labels are background. None: the file holds values from 0 to 1.
        tolerance_voxels: see `check_same_grid`.

    Returns:
        (X, Y, Z) float32 in [0, 1], on the voxel axes of `scan`.

    Raises:
        ImageError: the file is damaged, has another grid, or holds other values.
    """
    image = read_image(path, mask=True)
    values = np.asarray(image.dataobj)
    values = _of_label(path, values, lesion_label) if lesion_label is not None else _probabilities(path, values)
    oriented = reorient(values, image, "".join(nib.aff2axcodes(scan.affine)))
    check_same_grid(scan, oriented, (scan_name, str(path)), tolerance_voxels)
    return np.asarray(oriented.dataobj)


def read_foreign_classes(
    path: str | Path,
    scan: nib.Nifti1Image,
    scan_name: str,
    labels: Sequence[int],
    tolerance_voxels: float = GRID_TOLERANCE_VOXELS,
) -> np.ndarray:
    """Read a label map; see `read_foreign_mask`.

    Args:
        path: the file.
        scan: image with the grid that the label map must have.
        scan_name: name of the scan, for messages.
        labels: labels of the classes, without background.
        tolerance_voxels: see `check_same_grid`.

    Returns:
        (X, Y, Z, C) float32, 0 or 1: the masks of all classes, background first.

    Raises:
        ImageError: the file is damaged, has another grid, or holds other labels.
    """
    values, image = read_labels(path, {label: label for label in (0, *labels)})
    oriented = reorient(values, image, "".join(nib.aff2axcodes(scan.affine)))
    check_same_grid(scan, oriented, (scan_name, str(path)), tolerance_voxels)
    index = class_index(np.asarray(oriented.dataobj).astype(np.uint8), labels)
    return one_hot(index, len(labels) + 1).astype(np.float32)


def empty_mask_problem(path: str | Path, mask: np.ndarray) -> Problem | None:
    """Return a doubt about a mask in [0, 1] without lesion, or None."""
    if (mask >= 0.5).any():
        return None
    return Problem(path, "no voxel is lesion (0.5 or more)", "Check the file, unless the other program has found no lesion")


def _of_label(path: str | Path, values: np.ndarray, label: int) -> np.ndarray:
    """Return which voxels have a label, as float32."""
    fractional = np.abs(values - np.rint(values)) > _VALUE_TOLERANCE
    if fractional.any():
        problem = f"holds {_listed(values[fractional])}, which are no labels"
        raise ImageError(Problem(path, problem, "Remove `lesion_label` for probabilities, or give the file of labels"))
    return (np.rint(values) == label).astype(np.float32)


def _probabilities(path: str | Path, values: np.ndarray) -> np.ndarray:
    """Return values from 0 to 1 as float32."""
    outside = (values < -_VALUE_TOLERANCE) | (values > 1 + _VALUE_TOLERANCE)
    if outside.any():
        remedy = "If it holds labels, set `lesion_label` or recode them to 0 and 1; otherwise scale it to 0 to 1"
        raise ImageError(Problem(path, f"holds {_listed(values[outside])}, but a mask holds values from 0 to 1", remedy))
    return values.astype(np.float32).clip(0, 1)


def _listed(values: np.ndarray) -> str:
    """Return the distinct values as text, at most ten of them."""
    distinct = np.unique(values)
    return ", ".join(f"{value:g}" for value in distinct[:_MAX_LISTED]) + (", ..." if len(distinct) > _MAX_LISTED else "")
