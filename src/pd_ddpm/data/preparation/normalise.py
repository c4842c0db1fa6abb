"""Read the channels of a case on one grid with normalised intensities."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import nibabel as nib
import numpy as np

from pd_ddpm.data.nifti.geometry import ImageError, reorient, reorient_back, spacing_mm
from pd_ddpm.data.nifti.read import read_image
from pd_ddpm.data.preparation.bias_field import correct_bias
from pd_ddpm.data.preparation.brain_mask import brain_mask
from pd_ddpm.data.preparation.frame import OWN_GRID, Frame
from pd_ddpm.data.preparation.intensities import outlier_limits, regularise
from pd_ddpm.data.preparation.resample import Interpolator, resample_to
from pd_ddpm.data.scan import Scan
from pd_ddpm.runtime.problem import Problem, ProblemError

Normalisation = Literal["zscore_brain", "percentile", "unit_range", "none"]
Region = Literal["brain", "scan"]
BiasCorrection = Literal["none", "n4"]

_RAS = "RAS"

# The ripple of filters makes few voxels of a brain negative.
_MAX_NEGATIVE_FOR_N4 = 0.1


def read_normalised(
    case: Mapping[str, str],
    channels: Sequence[str],
    normalisation: Normalisation = "zscore_brain",
    interpolator: Interpolator = "linear",
    bias_correction: BiasCorrection = "none",
    region: Region = "brain",
    clip: Mapping[str, Sequence[float]] | None = None,
    frame: Frame = OWN_GRID,
) -> Scan:
    """Read the channels of a case on the grid of its first channel, mask the brain, and normalise the intensities.

    The brain mask is that of the first channel as read, before its bias field is corrected. A constant background is moved to
    the dark end of the values, and outliers are limited, see `regularise`. All steps work on axes in RAS order, and the
    results are turned back to the first channel's own axes.

    Args:
        case: row of the case table: its name, a path per channel and, as `{channel}_transform`, a path or "".
        channels: names of the channels. The first must be a FLAIR scan or have its contrast.
        normalisation: "zscore_brain" (mean 0 and standard deviation 1 over the brain), "percentile" (linear, the 1st
            percentile of the brain to 0 and the 99th to 1, not clipped, since lesions are among the brightest voxels),
            "unit_range" (linear, the least value of the brain to 0 and the largest to 1), or "none".
        interpolator: see `resample_to`.
        bias_correction: "n4" corrects the bias field of each channel before it is normalised, see `correct_bias`; "none".
        region: "scan" takes all voxels in place of the brain, for other organs. Background and outliers then stay as they are.
        clip: range to which channels are limited before they are normalised: {"values": (low, high)} or, of all voxels of a
            channel, {"percentiles": (low, high)}; None limits outliers only.
        frame: grid of the result, without its size, see `Frame.fit`.

    Returns:
        The scan, whose `reference` is the first channel as read, on the grid of `frame`.

    Raises:
        ImageError: a file cannot be used, or a channel does not cover the brain.
        ProblemError: the normalisation, the interpolator or the bias correction is unknown.
    """
    if bias_correction not in ("none", "n4"):
        raise ProblemError(Problem("`bias_correction`", f"{bias_correction!r} is unknown", "Use none or n4"))
    stored = frame.regrid(read_image(case[channels[0]]))
    first = _in_ras(stored)
    is_head = region == "brain"
    if is_head:
        with _located(case[channels[0]]):
            brain = brain_mask(np.asarray(first.dataobj), first.affine)
            volumes = [regularise(np.asarray(first.dataobj)).values]
    else:
        brain, volumes = np.ones(first.shape, dtype=bool), [np.asarray(first.dataobj).astype(np.float32)]
    for channel in channels[1:]:
        volumes.append(_read_on_grid(first, case[channel], case[f"{channel}_transform"] or None, interpolator, is_head))
    for channel, volume in zip(channels, volumes, strict=True) if is_head else ():
        check_coverage(case, channel, volume, brain)
    if bias_correction == "n4":
        for channel, volume in zip(channels, volumes, strict=True):
            _check_positive(case[channel], volume[brain])
        volumes = [correct_bias(volume, brain, spacing_mm(first)) for volume in volumes]
    if clip is not None:
        volumes = [_clipped(volume, clip) for volume in volumes]
    image = np.stack([_normalise(volume, brain, normalisation) for volume in volumes], axis=-1)
    image, brain = (np.ascontiguousarray(reorient_back(array, stored, _RAS)) for array in (image, brain))
    return Scan(case["case"], image, brain, stored)


def _in_ras(image: nib.Nifti1Image) -> nib.Nifti1Image:
    """Return an image with its axes in RAS order, so that no result depends on the order in which voxels are stored."""
    return reorient(np.asarray(image.dataobj), image, _RAS)


def _read_on_grid(
    first: nib.Nifti1Image, path: str | Path, transform: str | None, interpolator: Interpolator, is_head: bool
) -> np.ndarray:
    """Read a channel and resample it onto the grid of the first, with its air, or else 0, outside of its field of view."""
    image = _in_ras(read_image(path))
    if not is_head:
        return resample_to(first, image, transform, interpolator)
    with _located(path):
        scan = regularise(np.asarray(image.dataobj))
    regular = nib.Nifti1Image(scan.values, image.affine, image.header, dtype=np.float32)
    return resample_to(first, regular, transform, interpolator, outside=scan.air)


@contextmanager
def _located(path: str | Path) -> Iterator[None]:
    """Add the file to the problems of the block."""
    try:
        yield
    except ProblemError as error:
        raise ImageError(*(problem.within(str(path)) for problem in error.problems)) from error


def _check_positive(path: str, inside: np.ndarray) -> None:
    """Check that a scan can have a bias field, which multiplies intensities."""
    if (negative := (inside < 0).mean()) > _MAX_NEGATIVE_FOR_N4:
        problem = f"{negative:.0%} of the brain is negative, so a bias field, which multiplies intensities, cannot be estimated"
        raise ImageError(Problem(path, problem, "Use the scan as acquired, or set `preparation.bias_correction` to none"))


def _clipped(volume: np.ndarray, clip: Mapping[str, Sequence[float]]) -> np.ndarray:
    """Return a channel limited to a range of values or of percentiles."""
    limits = clip["values"] if "values" in clip else np.percentile(volume, clip["percentiles"])
    return np.clip(volume, *limits).astype(np.float32)


def _normalise(volume: np.ndarray, brain: np.ndarray, normalisation: Normalisation) -> np.ndarray:
    if normalisation == "none":
        return volume
    inside = volume[brain].astype(np.float64)
    if normalisation == "unit_range":
        low, high = inside.min(), inside.max()
        # A constant channel holds no information. It becomes 0, not NaN.
        return ((volume - low) / (high - low if high > low else 1)).astype(np.float32)
    limits = outlier_limits(inside)
    volume = volume.copy()
    volume[brain] = np.clip(inside, *limits)
    inside = inside[(limits[0] <= inside) & (inside <= limits[1])]
    if normalisation == "zscore_brain":
        low, width = inside.mean(), inside.std()
    elif normalisation == "percentile":
        low, high = np.percentile(inside, (1, 99))
        width = high - low
    else:
        problem = f"{normalisation!r} is unknown"
        raise ProblemError(Problem("`normalisation`", problem, "Use zscore_brain, percentile, unit_range or none"))
    return ((volume - low) / width).astype(np.float32)


def check_coverage(case: Mapping, channel: str, volume: np.ndarray, brain: np.ndarray) -> None:
    """Check that a channel covers the brain: air, or any other single value, may fill at most half of it.

    Args:
        case: row of the case table.
        channel: name of the channel.
        volume: (X, Y, Z), the channel on the grid of the brain mask.
        brain: (X, Y, Z) bool.

    Raises:
        ImageError: the channel does not cover the brain.
    """
    inside = volume[brain]
    # A value that fills more than half is the median.
    filled = (inside == np.median(inside)).mean()
    if filled > 0.5:
        transform = case[f"{channel}_transform"]
        suspect = f"the direction of {transform}" if transform else "whether it needs a transform"
        raise ImageError(
            Problem(
                case[channel],
                f"covers {1 - filled:.0%} of the brain on the grid of the first channel",
                f"Check its header and {suspect}",
            )
        )
