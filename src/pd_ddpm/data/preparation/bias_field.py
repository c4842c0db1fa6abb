"""Correct the bias field of a scan, the smooth shading that the receiver coils multiply it with."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import SimpleITK as sitk

WORKING_MM = 5.0  # The field varies over centimetres. With fewer voxels N4 takes seconds instead of minutes.


def correct_bias(volume: np.ndarray, brain: np.ndarray, spacing_mm: tuple[float, float, float]) -> np.ndarray:
    """Divide a scan by its bias field, which N4 estimates from the brain.

    N4 has every n-th voxel of an axis, n = max(1, round(5 mm / spacing)), and ITK's defaults: four levels of at most 50
    iterations, with cubic B-splines of 1, 2, 4 and 8 elements along each axis. It runs in one thread, because the sums of
    several threads depend on their number.

    Args:
        volume: (X, Y, Z), a channel as resampled; voxels that are not positive are left out of the estimate.
        brain: (X, Y, Z) bool, the mask in which the field is estimated.
        spacing_mm: voxel size in mm.

    Returns:
        The corrected scan, (X, Y, Z) float32. The field has the geometric mean 1 over the brain.

    Reference: Tustison et al. 2010 (N4ITK).
    """
    image, mask = _to_sitk(volume, spacing_mm), _to_sitk(brain & (volume > 0), spacing_mm)
    factors = shrink_factors(spacing_mm)
    small, small_mask = sitk.Shrink(image, factors), sitk.Shrink(mask, factors)
    n4 = sitk.N4BiasFieldCorrectionImageFilter()
    with _one_thread():
        n4.Execute(small, small_mask)
        small_field = n4.GetLogBiasFieldAsImage(small)
    # ITK can also evaluate the field on the whole grid, but returns up to 1e31 in the outermost voxels there.
    field = sitk.Resample(small_field, image, sitk.Transform(), sitk.sitkLinear, 0.0, sitk.sitkFloat64, True)
    log_field = sitk.GetArrayViewFromImage(field).T
    return (volume / np.exp(log_field - log_field[brain].mean())).astype(np.float32)


def shrink_factors(spacing_mm: tuple[float, float, float]) -> list[int]:
    """Return n for X, Y and Z, if N4 has every n-th voxel."""
    return [max(1, round(WORKING_MM / size)) for size in spacing_mm]


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let ITK use one thread. N4's own setting would not reach the filters that it consists of."""
    count = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(count)


def _to_sitk(volume: np.ndarray, spacing_mm: tuple[float, float, float]) -> sitk.Image:
    """Return a float32 image, or a uint8 image of a mask, without the directions, which N4 does not use."""
    dtype = np.uint8 if volume.dtype == bool else np.float32
    image = sitk.GetImageFromArray(np.ascontiguousarray(volume.T, dtype=dtype))
    image.SetSpacing([float(size) for size in spacing_mm])
    return image
