"""The grid of the networks' input, and the mapping back to the scan's own grid.

Volumes are numpy arrays in NIfTI order (X, Y, Z, M). In two dimensions, networks see stacks of slices (Z, M, H, W), with H
along X and W along Y: the paper's patch of 128 x 192 is 128 along X. Slices are never resampled along Z. In three dimensions,
networks see the whole volume as the one image of a stack, (1, M, H, W, D), with D along Z.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class WorkingGrid:
    """A box in the slices or in the volume of a scan, the size that it is resampled to, and how that is padded.

    Attributes:
        shape: (X, Y) of the scan, or (X, Y, Z) in three dimensions.
        box: (x_first, x_end, y_first, y_end), in three dimensions also (..., z_first, z_end), in voxels of the scan.
        size: (height, width) of the networks' slices or (height, width, depth) of their volumes, in pixels.
        padding: pixels of `size` outside of the box, in the order of `box`: before and after it along each axis. Images
            repeat their edge there; masks are empty.
        has_binary_labels: whether pixels that hold several classes belong to the one that fills half of them.
    """

    shape: tuple[int, ...]
    box: tuple[int, ...]
    size: tuple[int, ...]
    padding: tuple[int, ...] = (0,) * 6
    has_binary_labels: bool = False

    @classmethod
    def from_brain(
        cls,
        brain: np.ndarray,
        spacing_mm: tuple[float, float, float],
        grid_spacing_mm: float | None,
        region: Literal["slice", "brain_box"],
        margin_mm: float,
        spatial_dims: int = 2,
    ) -> "WorkingGrid":
        """Return the grid of one case.

        Args:
            brain: (X, Y, Z) bool.
            spacing_mm: voxel size of the scan.
            grid_spacing_mm: pixel size of the networks along each of their axes; None keeps the scan's own.
            region: "slice" is the whole slice or volume, "brain_box" the bounding box of the brain plus the margin.
            margin_mm: margin around the brain.
            spatial_dims: 2 for slices, 3 for volumes.
        """
        extents = [(0, length) for length in brain.shape[:spatial_dims]]
        if region == "brain_box" and brain.any():
            others = ((1, 2), (0, 2), (0, 1))
            extents = [_extent(brain.any(axis=others[axis]), margin_mm / spacing_mm[axis]) for axis in range(spatial_dims)]
        size = tuple(end - first for first, end in extents)
        if grid_spacing_mm is not None:
            pairs = zip(size, spacing_mm[:spatial_dims], strict=True)
            size = tuple(max(1, round(n * mm / grid_spacing_mm)) for n, mm in pairs)
        return cls(brain.shape[:spatial_dims], tuple(end for extent in extents for end in extent), size)

    def slices(self, volume: np.ndarray) -> Tensor:
        """Convert a volume (X, Y, Z) or (X, Y, Z, M) to the networks' images, float32, anti-aliased if downsampled.

        Returns:
            (Z, M, H, W), or (1, M, H, W, D) in three dimensions.
        """
        return self._pad(self._resampled(volume), mode="replicate")

    def masks(self, volume: np.ndarray) -> Tensor:
        """Convert masks as `slices` does; they are empty where the grid is padded."""
        return self._pad(self._resampled(volume))

    def label_fractions(self, labels: np.ndarray, values: Sequence[int] = ()) -> Tensor:
        """Convert labels (X, Y, Z) to the fractions of classes and of what is ignored in each pixel, as `slices` does.

        Without resampling, the fractions are binary. Larger pixels hold partial volumes, so the training target is not coarser
        than the ground truth of the scores, unless `has_binary_labels`. Where the grid is padded, pixels are ignored by losses
        and scores.

        Args:
            labels: the label map.
            values: labels of the classes; no label is ignored. Without them, 1 is lesion, the only class, and 2 is other
                pathology, which is ignored.

        Returns:
            (Z, L, H, W) with one channel for each class and a last one for what is ignored.
        """
        masks = [self._pad(self._resampled(labels == value)) for value in values or (1,)]
        ignored = np.zeros(labels.shape, dtype=bool) if values else labels == 2
        fractions = torch.cat([*masks, self._pad(self._resampled(ignored), value=1.0)], dim=1)
        return (fractions >= 0.5).float() if self.has_binary_labels else fractions

    def nearest(self, volume: np.ndarray) -> Tensor:
        """Convert a volume (X, Y, Z, N) as `slices` does, but with the voxel that is nearest to each pixel's centre.

        A mask that was binary on this grid, was returned by `volume` and thresholded, is found again. With `slices` it would
        lose single pixels, because these are averaged twice. Pixels must be at least 1.7 times as large as voxels, in three
        dimensions 2.4 times; below, some single pixels are lost.
        """
        inside = torch.from_numpy(self._as_stack(volume[self._inside].astype(np.float32)))
        return self._pad(functional.interpolate(inside, self._unpadded_size, mode="nearest-exact"))

    def volume(self, slices: Tensor) -> np.ndarray:
        """Convert images (Z, C, H, W) or (1, C, H, W, D) back to a volume on the scan's grid, zero outside of the box.

        Returns:
            (X, Y, Z, C) float32.
        """
        pairs = zip(self.padding[::2], self._unpadded_size, strict=False)
        inner = slices[:, :, *(slice(before, before + length) for before, length in pairs)]
        native = self._resample(inner, self._native_size).numpy()
        depth = slices.shape[:1] if len(self.size) == 2 else self.shape[2:]
        volume = np.zeros((*self.shape[:2], *depth, slices.shape[1]), dtype=np.float32)
        volume[self._inside] = native.transpose(2, 3, 0, 1) if len(self.size) == 2 else native[0].transpose(1, 2, 3, 0)
        return volume

    @property
    def is_coarser(self) -> bool:
        """Whether pixels are larger than the scan's along any axis of the networks."""
        return any(length < native for length, native in zip(self._unpadded_size, self._native_size, strict=True))

    @property
    def _unpadded_size(self) -> tuple[int, ...]:
        sides = zip(self.size, self.padding[::2], self.padding[1::2], strict=False)
        return tuple(length - before - after for length, before, after in sides)

    @property
    def _native_size(self) -> tuple[int, ...]:
        return tuple(end - first for first, end in zip(self.box[::2], self.box[1::2], strict=True))

    @property
    def _inside(self) -> tuple[slice, ...]:
        return tuple(slice(first, end) for first, end in zip(self.box[::2], self.box[1::2], strict=True))

    def _as_stack(self, inside: np.ndarray) -> np.ndarray:
        """Reorder (X, Y, Z, M) to the stack of the networks' images."""
        stack = inside.transpose(2, 3, 0, 1) if len(self.size) == 2 else inside.transpose(3, 0, 1, 2)[None]
        return np.ascontiguousarray(stack)

    def _resampled(self, volume: np.ndarray) -> Tensor:
        """Return a volume (X, Y, Z) or (X, Y, Z, M) as the networks' images, without padding."""
        inside = volume[self._inside].astype(np.float32)
        inside = inside[..., None] if inside.ndim == 3 else inside
        return self._resample(torch.from_numpy(self._as_stack(inside)), self._unpadded_size)

    def _pad(self, images: Tensor, mode: str = "constant", value: float | None = None) -> Tensor:
        if not any(self.padding):
            return images
        pairs = list(zip(self.padding[::2], self.padding[1::2], strict=True))[: len(self.size)]
        return functional.pad(images, [side for pair in reversed(pairs) for side in pair], mode, value)

    @staticmethod
    def _resample(images: Tensor, size: tuple[int, ...]) -> Tensor:
        if tuple(images.shape[2:]) == size:
            return images
        if len(size) == 2:
            return functional.interpolate(images, size, mode="bilinear", antialias=True)
        # PyTorch anti-aliases in two dimensions only: first X and Y of every Z, then Z of every X and Y.
        height, width, depth = size
        in_plane = WorkingGrid._resample(images[0].movedim(-1, 1), (height, width))
        columns = in_plane.flatten(2)[None]
        along_z = functional.interpolate(columns, (depth, height * width), mode="bilinear", antialias=True)
        return along_z.unflatten(3, (height, width)).movedim(2, -1).contiguous()


@dataclass(frozen=True)
class GridSettings:
    """The section `grid` of the configuration with a network's own keys, documented in config/schema.yaml.

    `members` and `start_from_same_grid` concern sampled members only. A training does not depend on them. `spatial_dims` is
    that of the network: 2 for slices, 3 for volumes. `start_from_same_grid` says whether the masks that chains start from were
    sampled on this grid.
    """

    spacing_mm: float | None
    region: str
    margin_mm: float
    minimum_brain_cm2: float
    members: Literal["auto", "binary", "soft"] = "soft"
    spatial_dims: int = 2
    padded_size: Sequence[int] | None = None
    labels: Literal["fractions", "binary"] = "fractions"
    start_from_same_grid: bool = True

    def working_grid(self, brain: np.ndarray, spacing_mm: tuple[float, float, float]) -> tuple[WorkingGrid, np.ndarray]:
        """Return the working grid of a case and which of its images to use.

        Args:
            brain: (X, Y, Z) bool.
            spacing_mm: voxel size.

        Returns:
            The grid, and (Z,) bool, which slices hold enough brain. In three dimensions (1,) bool, whether any slice does.

        Raises:
            ValueError: the images are larger than `padded_size`.
        """
        grid = WorkingGrid.from_brain(brain, spacing_mm, self.spacing_mm, self.region, self.margin_mm, self.spatial_dims)
        grid = replace(grid, has_binary_labels=self.labels == "binary")
        if self.padded_size is not None:
            grid = replace(grid, size=tuple(self.padded_size), padding=even_padding(grid.size, self.padded_size))
        has_brain = slices_with_brain(brain, spacing_mm, self.minimum_brain_cm2)
        return grid, has_brain if self.spatial_dims == 2 else has_brain.any(keepdims=True)

    def starts(self, masks: np.ndarray, grid: WorkingGrid) -> Tensor:
        """Convert the masks (X, Y, Z, N) that chains start from to the working grid of a case.

        If members are binary on the grid, the masks are, too. Masks that were sampled on this grid are then found again.
        """
        if not self.has_binary_members(grid):
            return grid.masks(masks)
        return grid.nearest(masks) if self.start_from_same_grid else (grid.masks(masks) >= 0.5).float()

    def has_binary_members(self, grid: WorkingGrid) -> bool:
        """Return whether members are made binary on the working grid of a case."""
        return self.members == "binary" or (self.members == "auto" and grid.is_coarser)


def even_padding(size: Sequence[int], padded_size: Sequence[int]) -> tuple[int, ...]:
    """Return the pixels before and after an image along each axis that pad it evenly; an odd one is added after it.

    Args:
        size: size of the image.
        padded_size: its size with the padding.

    Raises:
        ValueError: the image is larger.
    """
    if any(length > padded for length, padded in zip(size, padded_size, strict=True)):
        raise ValueError(
            f"`grid.padded_size` is {' x '.join(map(str, padded_size))}, but an image has {' x '.join(map(str, size))} pixels. "
            "Set at least that size, or `region: brain_box` or a larger `spacing_mm`."
        )
    missing = [padded - length for length, padded in zip(size, padded_size, strict=True)]
    return tuple(side for total in missing for side in (total // 2, total - total // 2))


def pad_to_multiple(images: Tensor, divisor: int) -> Tensor:
    """Pad images (N, C, *S) by repeating their far edges, until every spatial size is a multiple of the divisor."""
    missing = [-length % divisor for length in reversed(images.shape[2:])]
    return functional.pad(images, [padding for after in missing for padding in (0, after)], mode="replicate")


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
