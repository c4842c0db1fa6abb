"""Background and outliers of a scan's intensities, which masks and normalised images must not depend on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from pd_ddpm.data.nifti.geometry import ImageError
from pd_ddpm.runtime.problem import Problem

# Values beyond the bulk by more than three times its width are outliers. Fat and vessels lie well within.
_BULK_PERCENTILES = (0.1, 99.9)
_OUTLIER_WIDTHS = 3

# A background is one value on a tenth of the outer faces, in runs. Noise that is stored as integers forms no runs.
_MIN_FRACTION_OF_FACES = 0.1
_MIN_FRACTION_IN_RUNS = 0.5

# Smaller pieces of a background or a head are specks.
_MIN_FRACTION_OF_LARGEST = 0.01

# If no value is frequent, voxels within this fraction of the bulk's width count as equal: splines blur a background.
_EQUAL = 1e-4

# How far above the darkest voxels, or below them, a background may lie to be taken for air, in widths of the bulk. Filters
# leave ripples below air.
_MAX_ABOVE_DARKEST, _MAX_BELOW_DARKEST = 0.05, 1.0

# Scans without a constant background have their air at 0, unless their darkest voxels are far above it.
_MAX_AIR_WIDTHS = 0.5

# Integers have overflowed if the values reach equally far below and above zero, and if of the voxels within this fraction of
# the lowest value, this fraction lies next to voxels near the highest one.
_MAX_ASYMMETRY = 0.1
_EXTREME = 0.15
_MIN_JUMPS = 0.3

_SINGLE_PRECISION_RANGE = (1e-30, 1e30)
_MIN_RELATIVE_WIDTH = 1e-5


@dataclass(frozen=True)
class Intensities:
    """A scan whose background lies at the dark end of its values, and whose outliers are limited.

    Attributes:
        values: (X, Y, Z) float32.
        background: (X, Y, Z) bool, voxels of a constant background; nowhere true if there is none.
        background_value: value that the background had; None if there is none.
        air: value of the background now, or of air if no background is constant.
        limits: lowest and highest value that was not limited.
    """

    values: np.ndarray
    background: np.ndarray
    background_value: float | None
    air: float
    limits: tuple[float, float]


def regularise(volume: np.ndarray) -> Intensities:
    """Move a constant background to the dark end of a scan, and limit its outliers. Other voxels stay as they are.

    A scan that was z-scored within the brain has its background in the middle of its values. Others have -1000 there. Both
    get the background that they had before, as far as the darkest voxels show it. A background that is dark already stays.

    Args:
        volume: (X, Y, Z), integers or finite real numbers.

    Raises:
        ImageError: all voxels have one value, or single precision cannot hold the values.
    """
    background = constant_background(volume)
    inside = volume[~background]
    if volume.min() == volume.max():
        raise ImageError(Problem("", f"every voxel is {volume.flat[0]:g}", "Export the image again"))
    darkest, brightest = (float(value) for value in np.percentile(inside, _BULK_PERCENTILES))
    width = brightest - darkest
    _check_single_precision(darkest, brightest)
    background_value = float(np.median(volume[background].astype(np.float64))) if background.any() else None
    air = _air(background_value, darkest, width)
    limits = outlier_limits(inside) if width else (float(volume.min()), float(volume.max()))
    values = np.clip(volume, *limits).astype(np.float32)
    values[background] = air
    return Intensities(values, background, background_value, air, limits)


def outlier_limits(values: np.ndarray) -> tuple[float, float]:
    """Return the range beyond which a value is an outlier: the bulk, widened by three times its width on both sides."""
    low, high = (float(value) for value in np.percentile(values, _BULK_PERCENTILES))
    margin = _OUTLIER_WIDTHS * (high - low)
    return low - margin, high + margin


def constant_background(volume: np.ndarray) -> np.ndarray:
    """Return which voxels (X, Y, Z) hold the value that is most frequent on the outer faces, if it is a background."""
    low, high = (float(value) for value in np.percentile(volume, _BULK_PERCENTILES))
    faces = np.concatenate([volume.take(index, axis).ravel() for axis in range(3) for index in (0, -1)]).astype(np.float64)
    for tolerance in (0.0, _EQUAL * (high - low)):
        # An outlier may exceed the range of the numbers here, which does no harm.
        with np.errstate(over="ignore"):
            bins = np.round(faces / (2 * tolerance)) if tolerance else faces
            levels, counts = np.unique(bins, return_counts=True)
            value = float(np.median(faces[bins == levels[counts.argmax()]]))
            equal = np.abs(volume - value) <= tolerance
        if counts.max() >= _MIN_FRACTION_OF_FACES * len(faces) and _fraction_in_runs(equal) >= _MIN_FRACTION_IN_RUNS:
            darkest, brightest = np.percentile(volume[~equal], _BULK_PERCENTILES) if not equal.all() else (value, value)
            # A background amid the values of the head, as after z-scoring, is also the value of single voxels of the head.
            return without_specks(equal) if darkest <= value <= brightest else equal
    return np.zeros(volume.shape, dtype=bool)


def _fraction_in_runs(mask: np.ndarray) -> float:
    """Return the fraction of a mask's voxels that are followed by another one along the longest axis."""
    along = np.moveaxis(mask, int(np.argmax(mask.shape)), 0)
    return (along[1:] & along[:-1]).sum() / max(1, along[:-1].sum())


def without_specks(mask: np.ndarray) -> np.ndarray:
    """Return a mask (X, Y, Z) without its pieces that are much smaller than the largest one."""
    pieces, _ = ndimage.label(mask)
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    return (sizes >= _MIN_FRACTION_OF_LARGEST * sizes.max())[pieces] & mask


def wrapped_fraction(volume: np.ndarray) -> float:
    """Return the fraction of the head's voxels that are negative because integers overflowed.

    Beyond the largest integer, the next value is the smallest one. The brightest tissue then lies between voxels near the
    largest and voxels near the smallest integer, which no tissue does.

    Args:
        volume: (X, Y, Z), a scan.
    """
    low, high = (float(value) for value in np.percentile(volume, _BULK_PERCENTILES))
    width = high - low
    if abs(low + high) > _MAX_ASYMMETRY * width:
        return 0.0
    inside = ~constant_background(volume)
    dark, bright = (volume < low + _EXTREME * width) & inside, (volume > high - _EXTREME * width) & inside
    jumps = (dark & ndimage.binary_dilation(bright)).sum()
    return float((volume[inside] < 0).mean()) if jumps >= _MIN_JUMPS * max(1, dark.sum()) else 0.0


def _air(background: float | None, darkest: float, width: float) -> float:
    """Return the value of air, for a scan with or without a constant background."""
    if background is None:
        return 0.0 if 0 <= darkest <= _MAX_AIR_WIDTHS * width else darkest
    is_natural_zero = background == 0 and darkest >= 0
    lowest, highest = darkest - _MAX_BELOW_DARKEST * width, darkest + _MAX_ABOVE_DARKEST * width
    return background if width == 0 or is_natural_zero or lowest <= background <= highest else darkest


def _check_single_precision(darkest: float, brightest: float) -> None:
    width, largest = brightest - darkest, max(abs(darkest), abs(brightest))
    low, high = _SINGLE_PRECISION_RANGE
    if width and not (low < width and largest < high and width > _MIN_RELATIVE_WIDTH * largest):
        problem = f"its values from {darkest:.6g} to {brightest:.6g} do not fit single precision"
        raise ImageError(Problem("", problem, "Scale and shift them to a range such as 0 to 1000"))
