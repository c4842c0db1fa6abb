"""Resample an image onto the grid of another."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import nibabel as nib
import numpy as np
import SimpleITK as sitk

from pd_ddpm.data.nifti.geometry import ImageError, check_same_grid
from pd_ddpm.data.nifti.read import read_image
from pd_ddpm.data.preparation.transforms import read_transform
from pd_ddpm.runtime.problem import Problem, ProblemError

Interpolator = Literal["linear", "bspline"]

_INTERPOLATORS = {"linear": sitk.sitkLinear, "bspline": sitk.sitkBSpline}


def resample_to(
    reference: str | Path | nib.Nifti1Image,
    moving: str | Path | nib.Nifti1Image,
    transform: str | Path | None = None,
    interpolator: Interpolator = "linear",
    outside: float = 0.0,
) -> np.ndarray:
    """Resample an image onto the grid of a reference image. An image that has this grid already is not interpolated.

    Args:
        reference: file or image that has the grid, (X, Y, Z).
        moving: file or image to resample.
        transform: file that maps points of the reference to points of the moving image; None uses the headers alone.
        interpolator: "linear", or "bspline" for cubic B-splines.
        outside: value of voxels outside of the moving image's field of view.

    Returns:
        The moving image on the reference's grid, (X, Y, Z) float32.

    Raises:
        ImageError: a file cannot be used.
        ProblemError: the interpolator is unknown.
    """
    if interpolator not in _INTERPOLATORS:
        raise ProblemError(Problem("`interpolator`", f"{interpolator!r} is unknown", f"Use {' or '.join(_INTERPOLATORS)}"))
    reference = reference if isinstance(reference, nib.Nifti1Image) else read_image(reference)
    moving = moving if isinstance(moving, nib.Nifti1Image) else read_image(moving)
    if transform is None and _same_grid(reference, moving):
        return np.asarray(moving.dataobj).astype(np.float32)
    resampler = sitk.ResampleImageFilter()
    resampler.SetReferenceImage(as_sitk(np.zeros(reference.shape, np.uint8), reference.affine))
    resampler.SetInterpolator(_INTERPOLATORS[interpolator])
    resampler.SetTransform(sitk.Transform(3, sitk.sitkIdentity) if transform is None else read_transform(transform))
    resampler.SetOutputPixelType(sitk.sitkFloat32)
    resampler.SetDefaultPixelValue(outside)
    resampled = resampler.Execute(as_sitk(np.asarray(moving.dataobj).astype(np.float32), moving.affine))
    return np.ascontiguousarray(sitk.GetArrayViewFromImage(resampled).T)


def as_sitk(array: np.ndarray, affine: np.ndarray) -> sitk.Image:
    """Return an array (X, Y, Z) with an affine of NIfTI as an image of ITK."""
    # ITK reads no file here, since only `read_image` checks files. NIfTI's RAS frame becomes ITK's LPS frame.
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.T))
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    return image


def _same_grid(a: nib.Nifti1Image, b: nib.Nifti1Image) -> bool:
    try:
        check_same_grid(a, b, ("a", "b"))
    except ImageError:
        return False
    return True
