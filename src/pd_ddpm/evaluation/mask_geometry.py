"""The geometry of one binary mask in millimetres: its voxels, its lesions and its surfaces.

Everything starts from the list of the mask's voxels and never walks the volume again. Lesions fill about one percent
of a brain scan, so the cost follows the lesions and not the field of view, and a false positive in a far corner costs
as much as one beside a lesion.
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
    """The 26-connected components of a mask: the lesion number (N,) of each of its voxels, and how many there are."""

    labels: np.ndarray
    count: int


@dataclass(frozen=True, eq=False)
class MaskGeometry:
    """A boolean mask (X, Y, Z) and its spacing in mm; what derives from them is found when asked for, then kept."""

    mask: np.ndarray
    spacing_mm: tuple[float, float, float]

    @cached_property
    def voxels(self) -> np.ndarray:
        """Positions (N,) of the mask's voxels in the flattened volume, ascending."""
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
        """The three-dimensional 26-connected components, joined run by run along the last axis."""
        if not self.voxels.size:
            return Lesions(np.empty(0, dtype=np.int32), 0)
        # An empty position after each row and an empty row after each plane: no neighbour across an edge of the image.
        _, rows, columns = self.mask.shape
        position = np.ravel_multi_index(tuple(self.coordinates), (self.mask.shape[0], rows + 1, columns + 1))
        breaks = np.flatnonzero(np.diff(position) > 1)
        first = position[np.append(0, breaks + 1)]
        last = position[np.append(breaks, position.size - 1)]
        heads, tails = [], []
        plane = (rows + 1) * (columns + 1)
        # Half of the eight neighbouring rows is enough: the other half sees the same pairs from the other side.
        for step in (columns + 1, plane - (columns + 1), plane, plane + (columns + 1)):
            begin = np.searchsorted(last, first + step - 1)
            touching = np.searchsorted(first, last + step + 1, side="right") - begin
            before = np.cumsum(touching) - touching
            heads.append(np.repeat(np.arange(first.size), touching))
            tails.append(np.arange(touching.sum()) + np.repeat(begin - before, touching))
        edges = (np.concatenate(heads), np.concatenate(tails))
        graph = coo_array((np.ones(edges[0].size, dtype=np.int8), edges), shape=(first.size, first.size))
        count, of_run = connected_components(graph, directed=False)
        return Lesions(np.repeat(of_run, last - first + 1), int(count))

    @cached_property
    def in_plane_surface(self) -> cKDTree:
        """Voxels in mm with background among their eight neighbours in the slice; outside the image is foreground."""
        return self._points_mm(~self._surrounded(IN_PLANE_BOX))

    @cached_property
    def surface(self) -> cKDTree:
        """Voxels in mm with background among their six neighbours in space; outside the image is background."""
        end = np.array(self.mask.shape)[:, np.newaxis] - 1
        at_image_border = ((self.coordinates == 0) | (self.coordinates == end)).any(axis=0)
        return self._points_mm(~self._surrounded(SIX_NEIGHBOURS) | at_image_border)

    def _surrounded(self, neighbours: Iterable[tuple[int, int, int]]) -> np.ndarray:
        """Whether (N,) each voxel has all `neighbours` in the mask; for one outside the image its nearest inside."""
        flat_mask = self.mask.ravel()
        surrounded = np.ones(self.voxels.size, dtype=bool)
        for neighbour in neighbours:
            there = self.coordinates + np.array(neighbour)[:, np.newaxis]
            surrounded &= flat_mask[np.ravel_multi_index(tuple(there), self.mask.shape, mode="clip")]
        return surrounded

    def _points_mm(self, chosen: np.ndarray) -> cKDTree:
        return cKDTree(self.coordinates[:, chosen].T * np.array(self.spacing_mm))
