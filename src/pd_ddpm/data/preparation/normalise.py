"""Read the channels of a case on one grid with normalised intensities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from pd_ddpm.data.nifti.geometry import ImageError, spacing_mm
from pd_ddpm.data.nifti.read import read_image
from pd_ddpm.data.preparation.bias_field import correct_bias
from pd_ddpm.data.preparation.brain_mask import brain_mask
from pd_ddpm.data.preparation.resample import Interpolator, resample_to
from pd_ddpm.data.scan import Scan
from pd_ddpm.runtime.problem import Problem, ProblemError

Normalisation = Literal["zscore_brain", "percentile", "none"]
BiasCorrection = Literal["none", "n4"]


def read_normalised(
    case: Mapping[str, str],
    channels: Sequence[str],
    normalisation: Normalisation = "zscore_brain",
    interpolator: Interpolator = "linear",
    bias_correction: BiasCorrection = "none",
) -> Scan:
    """Read the channels of a case on the grid of its first channel, mask the brain, and normalise the intensities.

    The brain mask is that of the first channel as read, before its bias field is corrected.

    Args:
        case: row of the case table: its name, a path per channel and, as `{channel}_transform`, a path or "".
        channels: names of the channels. The first must be a FLAIR scan or have its contrast.
        normalisation: "zscore_brain" (mean 0 and standard deviation 1 over the brain), "percentile" (linear, the 1st
            percentile of the brain to 0 and the 99th to 1, not clipped, since lesions are among the brightest voxels), or
            "none".
        interpolator: see `resample_to`.
        bias_correction: "n4" corrects the bias field of each channel before it is normalised, see `correct_bias`; "none".

    Returns:
        The scan, whose `reference` is the first channel as read.

    Raises:
        ImageError: a file cannot be used, or a channel does not cover the brain.
        ProblemError: the normalisation, the interpolator or the bias correction is unknown.
    """
    if bias_correction not in ("none", "n4"):
        raise ProblemError(Problem("`bias_correction`", f"{bias_correction!r} is unknown", "Use none or n4"))
    first = read_image(case[channels[0]])
    volumes = [np.asarray(first.dataobj).astype(np.float32)]
    for channel in channels[1:]:
        volumes.append(resample_to(first, case[channel], case[f"{channel}_transform"] or None, interpolator))
    brain = brain_mask(volumes[0], spacing_mm(first))
    for channel, volume in zip(channels, volumes, strict=True):
        check_coverage(case, channel, volume, brain)
    if bias_correction == "n4":
        volumes = [correct_bias(volume, brain, spacing_mm(first)) for volume in volumes]
    image = np.stack([_normalise(volume, brain, normalisation) for volume in volumes], axis=-1)
    return Scan(case["case"], image, brain, first)


def _normalise(volume: np.ndarray, brain: np.ndarray, normalisation: Normalisation) -> np.ndarray:
    inside = volume[brain].astype(np.float64)
    if normalisation == "zscore_brain":
        low, width = inside.mean(), inside.std()
    elif normalisation == "percentile":
        low, high = np.percentile(inside, (1, 99))
        width = high - low
    elif normalisation == "none":
        return volume
    else:
        problem = f"{normalisation!r} is unknown"
        raise ProblemError(Problem("`normalisation`", problem, "Use zscore_brain, percentile or none"))
    return ((volume - low) / width).astype(np.float32)


def check_coverage(case: Mapping, channel: str, volume: np.ndarray, brain: np.ndarray) -> None:
    """Check that a channel covers the brain: it must vary there, and may be zero in at most half of it.

    Args:
        case: row of the case table.
        channel: name of the channel.
        volume: (X, Y, Z), the channel on the grid of the brain mask.
        brain: (X, Y, Z) bool.

    Raises:
        ImageError: the channel does not cover the brain.
    """
    inside = volume[brain]
    low, high = np.percentile(inside, (1, 99))
    if low == high or (inside == 0).mean() > 0.5:
        transform = case[f"{channel}_transform"]
        suspect = f"the direction of {transform}" if transform else "whether it needs a transform"
        raise ImageError(
            Problem(
                case[channel],
                f"covers {(inside != 0).mean():.0%} of the brain on the grid of the first channel",
                f"Check its header and {suspect}",
            )
        )
