"""Geometry of NIfTI images: spacing, orientation, equality of grids."""

from __future__ import annotations

from collections.abc import Sequence

import nibabel as nib
import numpy as np
from nibabel.affines import voxel_sizes
from nibabel.orientations import apply_orientation, axcodes2ornt, io_orientation, ornt_transform

from pd_ddpm.runtime.problem import Problem, ProblemError

# Grids agree if no voxel is further apart than this fraction of the shortest side of a voxel. Masks then hit the same voxels.
GRID_TOLERANCE_VOXELS = 0.1


class ImageError(ProblemError):
    """Raised for an image or transform file that cannot be used."""


def spacing_mm(image: nib.Nifti1Image) -> tuple[float, float, float]:
    """Return the voxel size in mm along the three array axes, rounded to remove the noise of the header's float32."""
    x, y, z = np.round(voxel_sizes(image.affine), 6).tolist()
    return x, y, z


def reorient(array: np.ndarray, reference: nib.Nifti1Image, codes: str) -> nib.Nifti1Image:
    """Reorient an array to other voxel axes. Axes are swapped and mirrored; nothing is interpolated.

    Args:
        array: (X, Y, Z) or (X, Y, Z, C), on the grid of `reference`.
        reference: image with the array's grid.
        codes: axis codes of the result, such as "LPS".

    Returns:
        An image whose voxel axes point to `codes`.

    Raises:
        ImageError: `codes` are not valid axis codes.
    """
    change = ornt_transform(io_orientation(reference.affine), _orientation(codes))
    # nibabel refuses 64-bit integers unless their type is named.
    image = nib.Nifti1Image(array, reference.affine, dtype=array.dtype).as_reoriented(change)
    # nibabel resets both codes when it changes an affine.
    image.header.set_qform(image.affine, int(reference.header["qform_code"]))
    image.header.set_sform(image.affine, int(reference.header["sform_code"]))
    return image


def reorient_back(array: np.ndarray, reference: nib.Nifti1Image, codes: str) -> np.ndarray:
    """Reorient an array back to the voxel axes of `reference`: the inverse of `reorient`.

    Args:
        array: (X, Y, Z) or (X, Y, Z, C), whose voxel axes point to `codes`.
        reference: image with the voxel axes of the result.
        codes: axis codes of `array`, such as "LPS".

    Returns:
        The array with the voxel axes of `reference`.
    """
    return apply_orientation(array, ornt_transform(_orientation(codes), io_orientation(reference.affine)))


def corner_distance_mm(a: np.ndarray, b: np.ndarray, shape: Sequence[int]) -> float:
    """Return the largest distance between the positions that two affines give the same voxel, in mm.

    The distance is a convex function of the voxel index, so it is largest at a corner of the grid.

    Args:
        a: affine, (4, 4) in mm.
        b: affine, (4, 4) in mm.
        shape: number of voxels along the first three axes.
    """
    sizes = (*shape[:3], 1, 1, 1)[:3]
    corners = np.array(np.meshgrid(*[(0, size - 1) for size in sizes])).reshape(3, -1)
    offsets = (a - b)[:3] @ np.vstack([corners, np.ones(corners.shape[1])])
    return float(np.linalg.norm(offsets, axis=0).max())


def check_same_grid(
    a: nib.Nifti1Image, b: nib.Nifti1Image, names: tuple[str, str], tolerance_voxels: float = GRID_TOLERANCE_VOXELS
) -> None:
    """Check that two images have the same shape, and that their affines place every voxel at the same point.

    Args:
        a: reference image.
        b: image that should lie on the grid of `a`.
        names: files of `a` and `b`, for the message.
        tolerance_voxels: largest distance between the points, as a fraction of the shortest side of a voxel.

    Raises:
        ImageError: the shape of `b` differs, or its voxels lie elsewhere.
    """
    if a.shape[:3] != b.shape[:3]:
        raise ImageError(
            Problem(
                names[1],
                f"its shape {b.shape[:3]} differs from {a.shape[:3]} of {names[0]}",
                "Resample one of them onto the grid of the other",
            )
        )
    distance = corner_distance_mm(a.affine, b.affine, a.shape)
    side = min(spacing_mm(a))
    if not distance <= tolerance_voxels * side:
        raise ImageError(
            Problem(
                names[1],
                f"its affine differs from that of {names[0]} and puts voxels up to {distance:.3g} mm apart, more than "
                f"{tolerance_voxels:g} of the shortest voxel side ({side:g} mm)",
                "Resample one of them onto the grid of the other, or correct its header",
            )
        )


def _orientation(codes: str) -> np.ndarray:
    """Return nibabel's array (3, 2) of axes and directions for three axis codes."""
    try:
        orientation = axcodes2ornt(codes)
    except ValueError:
        orientation = np.full((3, 2), np.nan)
    if orientation.shape != (3, 2) or np.isnan(orientation).any() or len(set(orientation[:, 0])) != 3:
        raise ImageError(Problem("`orientation`", f"{codes!r} is not valid", "Use three letters such as LPS or RAS"))
    return orientation
