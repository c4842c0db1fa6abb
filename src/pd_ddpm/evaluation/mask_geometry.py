"""Geometry of one binary mask in millimetres: voxels, lesions and surfaces.

All computations start from the list of the mask's voxels and do not traverse the volume again. Lesions fill about one
percent of a brain scan. The cost therefore depends on the size of the lesions, not on the field of view or their location.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import product

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

IN_PLANE_BOX = tuple((x, y, 0) for x, y in product((-1, 0, 1), repeat=2))
SIX_NEIGHBOURS = ((-1, 0, 0), (1, 0, 0), (0, -1, 0), (0, 1, 0), (0, 0, -1), (0, 0, 1))


@dataclass(frozen=True)
class Lesions:
    """The 26-connected components of a mask.

    Attributes:
        labels: (N,) the lesion number of each voxel of the mask, from 0.
        count: the number of lesions.
    """

    labels: np.ndarray
    count: int


@dataclass(frozen=True, eq=False)
class MaskGeometry:
    """A mask and its derived quantities, each computed on first use and cached.

    Attributes:
        mask: (X, Y, Z) bool.
        spacing_mm: voxel size along X, Y, Z.
    """

    mask: np.ndarray
    spacing_mm: tuple[float, float, float]

    @cached_property
    def voxels(self) -> np.ndarray:
        """Indices (N,) of the mask's voxels in the flattened volume, ascending."""
        return np.flatnonzero(self.mask)

    @cached_property
    def coordinates(self) -> np.ndarray:
        """Array indices (3, N) of the mask's voxels, in the order of `voxels`."""
        return np.stack(np.unravel_index(self.voxels, self.mask.shape))

    @property
    def volume_ml(self) -> float:
        """Volume of the mask in ml."""
        return self.voxels.size * float(np.prod(self.spacing_mm)) / 1000.0

    @cached_property
    def lesions(self) -> Lesions:
        """The 26-connected components.

        Runs of consecutive voxels along the last axis are the nodes of a graph. Touching runs are its edges.
        """
        if not self.voxels.size:
            return Lesions(np.empty(0, dtype=np.int32), 0)
        # An empty position follows each row, and an empty row each plane: no runs touch across the image border.
        _, rows, columns = self.mask.shape
        position = np.ravel_multi_index(tuple(self.coordinates), (self.mask.shape[0], rows + 1, columns + 1))
        breaks = np.flatnonzero(np.diff(position) > 1)
        first = position[np.append(0, breaks + 1)]
        last = position[np.append(breaks, position.size - 1)]
        heads, tails = [], []
        plane = (rows + 1) * (columns + 1)
        # Four of the eight neighbouring rows suffice, since the other four give the same pairs in reverse order.
        for step in (columns + 1, plane - (columns + 1), plane, plane + (columns + 1)):
            first_touching = np.searchsorted(last, first + step - 1)
            touching = np.searchsorted(first, last + step + 1, side="right") - first_touching
            before = np.cumsum(touching) - touching
            heads.append(np.repeat(np.arange(first.size), touching))
            tails.append(np.arange(touching.sum()) + np.repeat(first_touching - before, touching))
        edges = (np.concatenate(heads), np.concatenate(tails))
        graph = coo_array((np.ones(edges[0].size, dtype=np.int8), edges), shape=(first.size, first.size))
        count, run_labels = connected_components(graph, directed=False)
        return Lesions(np.repeat(run_labels, last - first + 1), int(count))

    @cached_property
    def in_plane_surface(self) -> cKDTree:
        """Surface voxels in mm: background among the eight neighbours in the slice; outside the image is foreground."""
        return self._points_mm(~self._surrounded(IN_PLANE_BOX))

    @cached_property
    def surface(self) -> cKDTree:
        """Surface voxels in mm: background among the six neighbours in space; outside the image is background."""
        end = np.array(self.mask.shape)[:, np.newaxis] - 1
        at_image_border = ((self.coordinates == 0) | (self.coordinates == end)).any(axis=0)
        return self._points_mm(~self._surrounded(SIX_NEIGHBOURS) | at_image_border)

    @cached_property
    def boundary(self) -> cKDTree:
        """Surface voxels in mm as `surface` has them, but in a single slice with background among the four neighbours in it.

        Reference: the released code of Fu et al. 2024 (ImgX-DiffSeg), which erodes masks in as many dimensions as they have.
        """
        axes = [axis for axis, length in enumerate(self.mask.shape) if length > 1]
        neighbours = [neighbour for neighbour in SIX_NEIGHBOURS if any(neighbour[axis] for axis in axes)]
        end = np.array(self.mask.shape)[:, np.newaxis] - 1
        at_border = ((self.coordinates == 0) | (self.coordinates == end))[axes].any(axis=0)
        return self._points_mm(~self._surrounded(neighbours) | at_border)

    def _surrounded(self, neighbours: Iterable[tuple[int, int, int]]) -> np.ndarray:
        """Return (N,) bool: all neighbours of a voxel are in the mask. Those outside the image are clipped to its border."""
        flat_mask = self.mask.ravel()
        surrounded = np.ones(self.voxels.size, dtype=bool)
        for neighbour in neighbours:
            shifted = self.coordinates + np.array(neighbour)[:, np.newaxis]
            surrounded &= flat_mask[np.ravel_multi_index(tuple(shifted), self.mask.shape, mode="clip")]
        return surrounded

    def _points_mm(self, is_surface: np.ndarray) -> cKDTree:
        return cKDTree(self.coordinates[:, is_surface].T * np.array(self.spacing_mm))
