"""Slices of prepared cases in memory, and random patches of them.

Every draw comes from a stream that is named by the step it is for, so a batch depends neither on what was drawn before
nor on whether the training was interrupted in between.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pd_ddpm.data.prepared import read_ground_truth, read_scan
from pd_ddpm.data.working_grid import GridSettings
from pd_ddpm.runtime.transfer import on_device


class Batch(NamedTuple):
    """image: (B, M, *S); mask: (B, 1, *S), share of lesion in [0, 1]; counted: (B, 1, *S), 0 where the label is "ignore"."""

    image: Tensor
    mask: Tensor
    counted: Tensor

    def to(self, device: torch.device) -> "Batch":
        return Batch(*(on_device(part, device) for part in self))


class CaseSlices(NamedTuple):
    """The slices of one case on its working grid, float32.

    image: (Z, M, H, W); shares: (Z, 2, H, W), how much of each pixel is lesion and how much other pathology; numbers: where
    each slice lies in the scan, counted from 0.
    """

    case: str
    image: Tensor
    shares: Tensor
    numbers: Sequence[int]


def read_slices(folder: Path, case: str, grid_settings: GridSettings) -> CaseSlices:
    """The slices with brain of a prepared case, with its truth, on its working grid."""
    scan, labels = read_scan(folder, case), read_ground_truth(folder, case)
    grid, with_brain = grid_settings.working_grid(scan.brain, scan.spacing_mm)
    if not with_brain.any():
        raise ValueError(
            f"{folder / case}_brain.nii.gz: no slice holds as much brain as grid.minimum_brain_cm2 = "
            f"{grid_settings.minimum_brain_cm2}; lower that key, or look whether the brain mask is right"
        )
    numbers = np.flatnonzero(with_brain).tolist()
    return CaseSlices(case, grid.slices(scan.image)[with_brain], grid.label_fractions(labels)[with_brain], numbers)


def as_batch(image: Tensor, shares: Tensor) -> Batch:
    """Label 2 is neither lesion nor background: it counts in no loss (WMH challenge, 'other pathology')."""
    return Batch(image, shares[:, :1], (shares[:, 1:] < 0.5).float())


@dataclass(frozen=True)
class PatchSettings:
    """How training patches are drawn.

    crop: (height, width) in pixels. lesion_share: share of patches from slices with lesion, the others from
    all slices; None draws all alike.
    flip: in-plane axes (0 = X, 1 = Y) that are mirrored half of the time. intensity_jitter: standard deviation of a random
    gain and offset for each channel.
    """

    crop: tuple[int, int]
    lesion_share: float | None
    flip: tuple[int, ...]
    intensity_jitter: float


class TrainingSlices:
    """All slices with brain of the training cases, kept in memory."""

    def __init__(self, cases: Sequence[CaseSlices]):
        self.cases = list(cases)
        self.all = [(c, z) for c, case in enumerate(cases) for z in range(len(case.image))]
        self.with_lesion = [(c, z) for c, z in self.all if cases[c].shares[z, 0].any()]
        if not self.with_lesion:
            raise ValueError(
                f"none of the training cases ({', '.join(case.case for case in cases)}) has a pixel of label 1; "
                "check the masks and the roles in splits.csv"
            )

    def names(self, stream: np.random.Generator, size: int, settings: PatchSettings) -> list[tuple[int, int]]:
        """Which (case, slice) each patch of a batch comes from."""
        from_lesion = stream.random(size) < (settings.lesion_share or 0.0)
        pools = [self.with_lesion if lesion else self.all for lesion in from_lesion]
        return [pool[stream.integers(len(pool))] for pool in pools]

    def batch(self, stream: np.random.Generator, size: int, settings: PatchSettings) -> Batch:
        """A batch of random patches, drawn from this stream alone."""
        patches = [self._patch(stream, c, z, settings) for c, z in self.names(stream, size, settings)]
        images, shares = zip(*patches, strict=True)
        return as_batch(torch.stack(images), torch.stack(shares))

    def _patch(self, stream: np.random.Generator, c: int, z: int, settings: PatchSettings) -> tuple[Tensor, Tensor]:
        image, shares = self.cases[c].image[z], self.cases[c].shares[z]
        for axis, length in enumerate(settings.crop, start=1):
            image, shares = _crop(stream, image, shares, axis, length)
        mirrored = [axis + 1 for axis in settings.flip if stream.random() < 0.5]
        image, shares = image.flip(mirrored), shares.flip(mirrored)
        if settings.intensity_jitter:
            gain, offset = stream.normal(0, settings.intensity_jitter, (2, len(image), 1, 1)).astype(np.float32)
            image = image * (1 + torch.from_numpy(gain)) + torch.from_numpy(offset)
        return image, shares


def _crop(stream: np.random.Generator, image: Tensor, shares: Tensor, axis: int, length: int) -> tuple[Tensor, Tensor]:
    """A random window of this length along the axis; a shorter slice is widened evenly, its edge repeated."""
    missing = length - image.shape[axis]
    if missing <= 0:
        first = int(stream.integers(-missing + 1))
        return image.narrow(axis, first, length), shares.narrow(axis, first, length)
    before = missing // 2
    source = torch.arange(-before, length - before)
    inside = (source >= 0) & (source < image.shape[axis])
    image = image.index_select(axis, source.clamp(0, image.shape[axis] - 1))
    widened = torch.zeros((*shares.shape[:axis], length, *shares.shape[axis + 1 :]), dtype=shares.dtype)
    return image, widened.index_copy_(axis, inside.nonzero().squeeze(1), shares)
