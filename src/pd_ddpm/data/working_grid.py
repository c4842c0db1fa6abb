"""The in-plane grid on which the networks see a case, and the way back to the scan's own grid.

Volumes are numpy arrays in NIfTI order (X, Y, Z, channel); the networks see stacks of slices (Z, channel, H, W), where
H runs along X and W along Y: the paper's patch of 128 x 192 is 128 along X. Slices are never resampled along Z.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class WorkingGrid:
    """A box of the scan's slices and the number of pixels (height, width) that it is resampled to.

    shape: (X, Y) of the scan; box: (x_first, x_end, y_first, y_end) in its voxels.
    """

    shape: tuple[int, int]
    box: tuple[int, int, int, int]
    size: tuple[int, int]

    @classmethod
    def from_brain(
        cls,
        brain: np.ndarray,
        spacing_mm: tuple[float, float, float],
        grid_spacing_mm: float | None,
        region: Literal["slice", "brain_box"],
        margin_mm: float,
    ) -> "WorkingGrid":
        """The grid of one case.

        brain: (X, Y, Z) bool. grid_spacing_mm: in-plane pixel size of the networks; None keeps the scan's own.
        region "slice" is the whole slice, "brain_box" the bounding box of the brain over all slices plus the margin.
        """
        box = (0, brain.shape[0], 0, brain.shape[1])
        if region == "brain_box" and brain.any():
            along_x = _extent(brain.any(axis=(1, 2)), margin_mm / spacing_mm[0])
            along_y = _extent(brain.any(axis=(0, 2)), margin_mm / spacing_mm[1])
            box = (*along_x, *along_y)
        size = (box[1] - box[0], box[3] - box[2])
        if grid_spacing_mm is not None:
            size = tuple(max(1, round(n * mm / grid_spacing_mm)) for n, mm in zip(size, spacing_mm[:2], strict=True))
        return cls(brain.shape[:2], box, size)

    def slices(self, volume: np.ndarray) -> Tensor:
        """(X, Y, Z) or (X, Y, Z, M) to (Z, M, height, width) float32, with anti-aliasing where it shrinks."""
        inside = volume[self._inside].astype(np.float32)
        inside = inside[..., None] if inside.ndim == 3 else inside
        return self._resample(torch.from_numpy(np.ascontiguousarray(inside.transpose(2, 3, 0, 1))), self.size)

    def label_fractions(self, labels: np.ndarray) -> Tensor:
        """(X, Y, Z) labels to (Z, 2, height, width) float32: how much of each pixel is lesion (1) and other pathology (2).

        A binary mask on the scan's grid stays binary where the pixels are the scan's; larger ones hold partial volumes,
        so that what the networks learn is not rougher than the truth that they are scored against.
        """
        return torch.cat([self.slices(labels == label) for label in (1, 2)], dim=1)

    def volume(self, slices: Tensor) -> np.ndarray:
        """(Z, C, height, width) back to (X, Y, Z, C) float32 on the scan's grid; zero outside the box."""
        native = self._resample(slices, (self.box[1] - self.box[0], self.box[3] - self.box[2]))
        volume = np.zeros((*self.shape, *slices.shape[:2]), dtype=np.float32)
        volume[self._inside] = native.permute(2, 3, 0, 1).numpy()
        return volume

    @property
    def _inside(self) -> tuple[slice, slice]:
        return slice(self.box[0], self.box[1]), slice(self.box[2], self.box[3])

    @staticmethod
    def _resample(slices: Tensor, size: tuple[int, int]) -> Tensor:
        if tuple(slices.shape[2:]) == size:
            return slices
        return functional.interpolate(slices, size, mode="bilinear", antialias=True)


@dataclass(frozen=True)
class GridSettings:
    """Where the networks look; the meaning of each is in config/schema.yaml."""

    spacing_mm: float | None
    region: str
    margin_mm: float
    minimum_brain_cm2: float

    def working_grid(self, brain: np.ndarray, spacing_mm: tuple[float, float, float]) -> tuple[WorkingGrid, np.ndarray]:
        """The working grid of a case and which of its slices hold brain, (Z,) bool. brain: (X, Y, Z) bool."""
        grid = WorkingGrid.from_brain(brain, spacing_mm, self.spacing_mm, self.region, self.margin_mm)
        return grid, slices_with_brain(brain, spacing_mm, self.minimum_brain_cm2)


def pad_to_multiple(slices: Tensor, divisor: int) -> Tensor:
    """(N, C, H, W) with its far edges repeated until H and W are multiples of the divisor."""
    height, width = slices.shape[2:]
    return functional.pad(slices, (0, -width % divisor, 0, -height % divisor), mode="replicate")


def slices_with_brain(brain: np.ndarray, spacing_mm: tuple[float, float, float], minimum_cm2: float) -> np.ndarray:
    """(Z,) bool: which slices hold at least this much brain. brain: (X, Y, Z) bool."""
    return brain.sum(axis=(0, 1)) * spacing_mm[0] * spacing_mm[1] / 100 >= minimum_cm2


def _extent(occupied: np.ndarray, margin: float) -> tuple[int, int]:
    """First and end index of the true entries, widened by the margin in voxels."""
    indices = np.flatnonzero(occupied)
    return max(0, int(indices[0] - margin)), min(len(occupied), int(np.ceil(indices[-1] + 1 + margin)))
