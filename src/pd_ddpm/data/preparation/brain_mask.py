"""Rough brain mask of a FLAIR scan."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

# Brain mask, in mm and ml. The radii are tried in turn, because a larger one cuts wider bridges but also more gyri.
_OPENING_RADII_MM = (4, 5, 6, 8)

_GYRI_MM = 4

_CLOSING_RADIUS_MM = 12

_MARGIN_MM = 2

_SMALLEST_BRAIN_ML = 400

_LARGEST_BRAIN_ML = 2000

_SMALLEST_SHARE_OF_FOREGROUND = 0.4

_LARGEST_SHARE_OF_HEAD = 0.8


def brain_mask(flair: np.ndarray, spacing: tuple[float, float, float]) -> np.ndarray:
    """A rough brain mask (H, W, D), bool, of a FLAIR scan with or without skull; spacing in mm.

    A threshold (Otsu 1979) leaves brain and scalp. An in-plane opening cuts the bridges between them, and the largest
    piece is the core of the brain; the gyri about it are put back, the whole is closed, filled and widened by 2 mm, so
    that lesions at the cortex lie within. If next to nothing can be cut off and the scan has a background of exact
    zeros, it is without skull, and everything that is not zero counts as brain. Where the result is implausible (below
    400 ml, or below 40 % of the foreground), the whole head is returned. The mask serves to normalise intensities, to
    leave out slices without brain and to find a bounding box, not to measure volumes.

    Raises ValueError if no voxel is positive.
    """
    if not (flair > 0).any():
        raise ValueError("no voxel of the FLAIR is positive; export the image again.")
    ml = float(np.prod(spacing)) / 1000
    # Most voxels above the mean are brain. Without the limit, fat several times as bright would raise the threshold above
    # the brain; and filters may leave a negative ripple about it.
    levels = np.clip(flair, 0, 1.5 * np.median(flair[flair > flair.mean()])).astype(np.float32)
    foreground = sitk.GetArrayFromImage(sitk.OtsuThreshold(sitk.GetImageFromArray(levels), 0, 1)) > 0
    head = _closed_in_plane(foreground, spacing)
    support = _filled(flair != 0)
    depth = _distance_mm(foreground, spacing, in_plane=True)
    for radius in _OPENING_RADII_MM:
        core = _largest_piece(depth > radius)
        if not core.any():
            break
        # Above and below the core the scalp is nearer than beside it, hence twice the spacing along Z.
        near = _distance_mm(~core, (*spacing[:2], 2 * spacing[2])) <= radius + _GYRI_MM
        brain = _distance_mm(~_closed_in_plane(foreground & near, spacing), spacing) <= _MARGIN_MM
        if brain.sum() < _LARGEST_SHARE_OF_HEAD * head.sum():
            large_enough = brain.sum() * ml >= _SMALLEST_BRAIN_ML
            if large_enough and brain.sum() >= _SMALLEST_SHARE_OF_FOREGROUND * foreground.sum():
                return brain
            break
        if support.sum() * ml < _LARGEST_BRAIN_ML:
            break
    return support if support.sum() < 1.5 * head.sum() else head


def _distance_mm(mask: np.ndarray, spacing: tuple[float, float, float], in_plane: bool = False) -> np.ndarray:
    """From each voxel of the mask to the nearest outside of it, in its slice only (inf where that has none) or in all."""
    if not in_plane:
        return ndimage.distance_transform_edt(mask, sampling=spacing)
    slices = [ndimage.distance_transform_edt(plane, sampling=spacing[:2]) for plane in np.moveaxis(mask, 2, 0)]
    return np.where(mask.all(axis=(0, 1)), np.inf, np.stack(slices, axis=2))


def _filled(mask: np.ndarray) -> np.ndarray:
    return np.stack([ndimage.binary_fill_holes(mask[:, :, z]) for z in range(mask.shape[2])], axis=2)


def _closed_in_plane(mask: np.ndarray, spacing: tuple[float, float, float]) -> np.ndarray:
    # Without a border the closing would stick to the edges of a narrow field of view.
    border = [(int(np.ceil(_CLOSING_RADIUS_MM / size)) + 1,) * 2 for size in spacing[:2]]
    padded = np.pad(mask, [*border, (0, 0)])
    widened = _distance_mm(~padded, spacing, in_plane=True) <= _CLOSING_RADIUS_MM
    closed = _filled(_distance_mm(widened, spacing, in_plane=True) > _CLOSING_RADIUS_MM)
    return closed[border[0][0] : -border[0][0], border[1][0] : -border[1][0]]


def _largest_piece(mask: np.ndarray) -> np.ndarray:
    pieces, count = ndimage.label(mask)
    return pieces == 1 + np.argmax(np.bincount(pieces.ravel(), minlength=2)[1:]) if count else mask
