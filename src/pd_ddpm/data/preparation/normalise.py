"""Read the channels of a case on one grid with normalised intensities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from pd_ddpm.data.nifti.geometry import ImageError, spacing_mm
from pd_ddpm.data.nifti.read import read_image
from pd_ddpm.data.preparation.brain_mask import brain_mask
from pd_ddpm.data.preparation.resample import Interpolator, resample_to
from pd_ddpm.data.scan import Scan

Normalisation = Literal["zscore_brain", "percentile", "none"]


def read_normalised(
    case: Mapping[str, str],
    channels: Sequence[str],
    normalisation: Normalisation = "zscore_brain",
    interpolator: Interpolator = "linear",
) -> Scan:
    """The channels of a case on the grid of the first, which must be a FLAIR scan or look like one, and its brain.

    case: for each channel its path, and under `{channel}_transform` that of its transform, or nothing. normalisation:
    "zscore_brain" (mean 0 and standard deviation 1 over the brain), "percentile" (linear, the 1st percentile of the brain to 0
    and the 99th to 1, not clipped: lesions are among the brightest voxels), or "none".

    Raises ImageError if a file is unusable or a channel does not cover the brain.
    """
    first = read_image(case[channels[0]])
    volumes = [np.asarray(first.dataobj).astype(np.float32)]
    for channel in channels[1:]:
        volumes.append(resample_to(first, case[channel], case[f"{channel}_transform"] or None, interpolator))
    brain = brain_mask(volumes[0], spacing_mm(first))
    for channel, volume in zip(channels, volumes, strict=True):
        check_coverage(case, channel, volume, brain)
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
        raise ValueError(f"normalisation: {normalisation!r} is unknown; use zscore_brain, percentile or none.")
    return ((volume - low) / width).astype(np.float32)


def check_coverage(case: Mapping, channel: str, volume: np.ndarray, brain: np.ndarray) -> None:
    """Raise ImageError if a channel (H, W, D), on the grid of the brain mask, is constant or zero in most of the brain."""
    inside = volume[brain]
    low, high = np.percentile(inside, (1, 99))
    if low == high or (inside == 0).mean() > 0.5:
        transform = case[f"{channel}_transform"]
        raise ImageError(
            f"{case[channel]}: covers {(inside != 0).mean():.0%} of the brain on the grid of the first channel; check its "
            f"header and {f'the direction of {transform}' if transform else 'whether it needs a transform'}."
        )
