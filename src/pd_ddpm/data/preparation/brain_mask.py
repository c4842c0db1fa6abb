"""Rough brain mask of a FLAIR scan."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk
from nibabel.affines import voxel_sizes
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation, ornt_transform
from scipy import ndimage

from pd_ddpm.data.nifti.geometry import ImageError
from pd_ddpm.data.preparation.intensities import regularise, without_specks
from pd_ddpm.runtime.problem import Problem

_RAS = np.array([[0, 1], [1, 1], [2, 1]])

# The radii are tried in turn: a larger one cuts wider bridges, but also more gyri.
_OPENING_RADII_MM = (4, 5, 6, 8)

_GYRI_MM = 4

_CLOSING_RADIUS_MM = 12

_MARGIN_MM = 2

_MIN_BRAIN_ML = 400

_MAX_BRAIN_ML = 2000

_MIN_FRACTION_OF_FOREGROUND = 0.4

_MAX_FRACTION_OF_HEAD = 0.8


def brain_mask(flair: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Segment the brain roughly, in a FLAIR scan with or without skull.

    The mask serves to normalise intensities, to leave out slices without brain, and to find a bounding box. It is not meant
    for measuring volumes. It does not depend on the order in which the voxels are stored, on scale and offset of the
    intensities, on the value of a constant background, or on outliers.

    0. The axes are turned to RAS, and the intensities are made regular, see `regularise`.
    1. A threshold (Otsu 1979) keeps brain and scalp.
    2. An opening in axial planes cuts the bridges between them. The largest component is the core of the brain.
    3. Foreground near the core, the gyri, is added back. The result is closed, filled and widened by 2 mm, to include lesions
       at the cortex.
    4. If the opening removes almost nothing and the background is constant, the scan has no skull. Then all voxels other
       than the background are brain.
    5. If the result is implausible (below 400 ml, or below 40 % of the foreground), the whole head is returned.

    Args:
        flair: (X, Y, Z), in any order and direction of its axes.
        affine: (4, 4), from voxels to mm in RAS, which gives axes and voxel size.

    Returns:
        The brain mask, (X, Y, Z) bool, on the grid of `flair`.

    Raises:
        ImageError: no voxel is positive or brighter than the background, or the values cannot be used, see `regularise`.
    """
    orientation = io_orientation(affine)
    # NIfTI stores X fastest. Equal memory gives equal sums, and so equal masks, for all orders of the axes.
    turned = np.asfortranarray(apply_orientation(flair, orientation))
    x, y, z = np.round(voxel_sizes(affine @ inv_ornt_aff(orientation, flair.shape)), 6).tolist()
    mask = _mask_in_ras(turned, (x, y, z))
    return np.ascontiguousarray(apply_orientation(mask, ornt_transform(_RAS, orientation)))


def _mask_in_ras(flair: np.ndarray, spacing: tuple[float, float, float]) -> np.ndarray:
    """Return the brain mask of a scan whose axes point right, anterior and superior."""
    scan = regularise(flair)
    if not (flair > 0).any():
        raise ImageError(Problem("", "no voxel of the FLAIR is positive", "Export the image again"))
    above_air = scan.values - np.float32(scan.air)
    if not (above_air > 0).any():
        raise ImageError(Problem("", "no voxel of the FLAIR is brighter than its background", "Export the image again"))
    ml = float(np.prod(spacing)) / 1000
    # Most voxels above the mean are brain. The upper limit keeps bright fat from raising the threshold above the brain. The
    # lower limit removes the negative ripple of filters.
    levels = np.clip(above_air, 0, 1.5 * np.median(above_air[above_air > above_air.mean()])).astype(np.float32)
    foreground = sitk.GetArrayFromImage(sitk.OtsuThreshold(sitk.GetImageFromArray(levels), 0, 1)) > 0
    head = _closed_in_plane(foreground, spacing)
    support = _filled(~scan.background)
    depth = _distance_mm(foreground, spacing, in_plane=True)
    for radius in _OPENING_RADII_MM:
        core = _largest_component(depth > radius)
        if not core.any():
            break
        # The scalp is nearer above and below the core than at its sides, hence twice the spacing along Z.
        near = _distance_mm(~core, (*spacing[:2], 2 * spacing[2])) <= radius + _GYRI_MM
        brain = _distance_mm(~_closed_in_plane(foreground & near, spacing), spacing) <= _MARGIN_MM
        if brain.sum() < _MAX_FRACTION_OF_HEAD * head.sum():
            large_enough = brain.sum() * ml >= _MIN_BRAIN_ML
            if large_enough and brain.sum() >= _MIN_FRACTION_OF_FOREGROUND * foreground.sum():
                return brain
            break
        if support.sum() * ml < _MAX_BRAIN_ML:
            break
    return without_specks(support if support.sum() < 1.5 * head.sum() else head)


def _distance_mm(mask: np.ndarray, spacing: tuple[float, float, float], in_plane: bool = False) -> np.ndarray:
    """Return the distance in mm from each voxel of the mask to the nearest voxel outside of it.

    in_plane: measure within each slice only; slices without such a voxel are infinite.
    """
    if not in_plane:
        return ndimage.distance_transform_edt(mask, sampling=spacing)
    slices = [ndimage.distance_transform_edt(plane, sampling=spacing[:2]) for plane in np.moveaxis(mask, 2, 0)]
    return np.where(mask.all(axis=(0, 1)), np.inf, np.stack(slices, axis=2))


def _filled(mask: np.ndarray) -> np.ndarray:
    return np.stack([ndimage.binary_fill_holes(mask[:, :, z]) for z in range(mask.shape[2])], axis=2)


def _closed_in_plane(mask: np.ndarray, spacing: tuple[float, float, float]) -> np.ndarray:
    # Without padding, the closing would attach to the edges of a narrow field of view.
    border = [(int(np.ceil(_CLOSING_RADIUS_MM / size)) + 1,) * 2 for size in spacing[:2]]
    padded = np.pad(mask, [*border, (0, 0)])
    widened = _distance_mm(~padded, spacing, in_plane=True) <= _CLOSING_RADIUS_MM
    closed = _filled(_distance_mm(widened, spacing, in_plane=True) > _CLOSING_RADIUS_MM)
    return closed[border[0][0] : -border[0][0], border[1][0] : -border[1][0]]


def _largest_component(mask: np.ndarray) -> np.ndarray:
    pieces, count = ndimage.label(mask)
    return pieces == 1 + np.argmax(np.bincount(pieces.ravel(), minlength=2)[1:]) if count else mask
