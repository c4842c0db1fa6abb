"""Geometry of NIfTI images: spacing, orientation, equality of grids."""

from __future__ import annotations

import nibabel as nib
import numpy as np
from nibabel.affines import voxel_sizes
from nibabel.orientations import apply_orientation, axcodes2ornt, io_orientation, ornt_transform

from pd_ddpm.runtime.problem import Problem, ProblemError


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
    image = nib.Nifti1Image(array, reference.affine).as_reoriented(change)
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


def check_same_grid(a: nib.Nifti1Image, b: nib.Nifti1Image, names: tuple[str, str], tolerance: float = 1e-3) -> None:
    """Check that two images have the same shape and the same affine.

    Args:
        a: reference image.
        b: image that should lie on the grid of `a`.
        names: files of `a` and `b`, for the message.
        tolerance: largest difference between entries of the affines, in mm.

    Raises:
        ImageError: shape or affine of `b` differs.
    """
    if a.shape[:3] != b.shape[:3]:
        raise ImageError(
            Problem(
                names[1],
                f"its shape {b.shape[:3]} differs from {a.shape[:3]} of {names[0]}",
                "Resample one of them onto the grid of the other",
            )
        )
    difference = np.abs(a.affine - b.affine).max()
    if not difference <= tolerance:
        corners = np.array(np.meshgrid(*[(0, size - 1) for size in a.shape[:3]])).reshape(3, -1)
        apart = np.linalg.norm((a.affine - b.affine)[:3] @ np.vstack([corners, np.ones(corners.shape[1])]), axis=0)
        raise ImageError(
            Problem(
                names[1],
                f"its affine differs from that of {names[0]} by up to {difference:.3g} mm, which puts voxels up to "
                f"{apart.max():.3g} mm apart",
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
