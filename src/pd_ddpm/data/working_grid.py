"""The in-plane grid of the networks' input, and the mapping back to the scan's own grid.

Volumes are numpy arrays in NIfTI order (X, Y, Z, M). The networks see stacks of slices (Z, M, H, W), with H along X and W along
Y: the paper's patch of 128 x 192 is 128 along X. Slices are never resampled along Z.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class WorkingGrid:
    """A box in the slices of a scan, and the size that it is resampled to.

    Attributes:
        shape: (X, Y) of the scan.
        box: (x_first, x_end, y_first, y_end), in voxels of the scan.
        size: (height, width) of the networks' slices, in pixels.
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
        """Return the grid of one case.

        Args:
            brain: (X, Y, Z) bool.
            spacing_mm: voxel size of the scan.
            grid_spacing_mm: in-plane pixel size of the networks; None keeps the scan's own.
            region: "slice" is the whole slice, "brain_box" the bounding box of the brain over all slices, plus the margin.
            margin_mm: margin around the brain.
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
        """Convert a volume (X, Y, Z) or (X, Y, Z, M) to slices (Z, M, H, W) float32, anti-aliased if downsampled."""
        inside = volume[self._inside].astype(np.float32)
        inside = inside[..., None] if inside.ndim == 3 else inside
        return self._resample(torch.from_numpy(np.ascontiguousarray(inside.transpose(2, 3, 0, 1))), self.size)

    def label_fractions(self, labels: np.ndarray) -> Tensor:
        """Convert labels (X, Y, Z) to the fractions (Z, 2, H, W) float32 of lesion (1) and other pathology (2) in each pixel.

        Without resampling, the fractions are binary. Larger pixels hold partial volumes, so the training target is not coarser
        than the ground truth of the scores.
        """
        return torch.cat([self.slices(labels == label) for label in (1, 2)], dim=1)

    def nearest(self, volume: np.ndarray) -> Tensor:
        """Convert a volume (X, Y, Z, N) to slices (Z, N, H, W) float32 with the voxel that is nearest to each pixel's centre.

        A mask that was binary on this grid, was returned by `volume` and thresholded, is found again. With `slices` it would
        lose single pixels, because these are averaged twice. Pixels must be at least 1.7 times as large as voxels; below, some
        single pixels are lost.
        """
        inside = torch.from_numpy(np.ascontiguousarray(volume[self._inside].astype(np.float32).transpose(2, 3, 0, 1)))
        return functional.interpolate(inside, self.size, mode="nearest-exact")

    def volume(self, slices: Tensor) -> np.ndarray:
        """Convert slices (Z, C, H, W) back to a volume (X, Y, Z, C) float32 on the scan's grid, zero outside of the box."""
        native = self._resample(slices, (self.box[1] - self.box[0], self.box[3] - self.box[2]))
        volume = np.zeros((*self.shape, *slices.shape[:2]), dtype=np.float32)
        volume[self._inside] = native.permute(2, 3, 0, 1).numpy()
        return volume

    @property
    def is_coarser(self) -> bool:
        """Whether pixels are larger than the scan's."""
        return self.size[0] < self.box[1] - self.box[0] or self.size[1] < self.box[3] - self.box[2]

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
    """The section `grid` of the configuration, documented in config/schema.yaml.

    `members` concerns sampled members only. A training does not depend on it.
    """

    spacing_mm: float | None
    region: str
    margin_mm: float
    minimum_brain_cm2: float
    members: Literal["auto", "binary", "soft"] = "soft"

    def working_grid(self, brain: np.ndarray, spacing_mm: tuple[float, float, float]) -> tuple[WorkingGrid, np.ndarray]:
        """Return the working grid of a case with brain mask (X, Y, Z), and which slices to use, (Z,) bool."""
        grid = WorkingGrid.from_brain(brain, spacing_mm, self.spacing_mm, self.region, self.margin_mm)
        return grid, slices_with_brain(brain, spacing_mm, self.minimum_brain_cm2)

    def has_binary_members(self, grid: WorkingGrid) -> bool:
        """Return whether members are made binary on the working grid of a case."""
        return self.members == "binary" or (self.members == "auto" and grid.is_coarser)


def pad_to_multiple(slices: Tensor, divisor: int) -> Tensor:
    """Pad slices (N, C, H, W) by repeating their far edges, until H and W are multiples of the divisor."""
    height, width = slices.shape[2:]
    return functional.pad(slices, (0, -width % divisor, 0, -height % divisor), mode="replicate")


def slices_with_brain(brain: np.ndarray, spacing_mm: tuple[float, float, float], minimum_cm2: float) -> np.ndarray:
    """Return which slices hold enough brain.

    Args:
        brain: (X, Y, Z) bool.
        spacing_mm: voxel size.
        minimum_cm2: least area of brain in a slice.

    Returns:
        (Z,) bool.
    """
    return brain.sum(axis=(0, 1)) * spacing_mm[0] * spacing_mm[1] / 100 >= minimum_cm2


def _extent(occupied: np.ndarray, margin: float) -> tuple[int, int]:
    """Return first and end index of the true entries, widened by the margin in voxels."""
    indices = np.flatnonzero(occupied)
    return max(0, int(indices[0] - margin)), min(len(occupied), int(np.ceil(indices[-1] + 1 + margin)))
