"""Check coarsely that a channel lies on the first one, by their mutual information over the head."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace

import nibabel as nib
import numpy as np
from nibabel.affines import apply_affine
from scipy import ndimage
from scipy.spatial.transform import Rotation

from pd_ddpm.data.check.plausibility import AXES, Brain

# Width around the grid within which a channel is searched, and around the brain within which it is compared.
SEARCH_MM = 48.0
_MARGIN_MM = 9.0

_NUM_POINTS = 3000
_NUM_BINS = 16

# The search begins with a smoothed channel and large steps, in mm and degrees, and ends with small ones.
_SMOOTHING_MM = 3.0
_COARSE_STEP = 8.0
_FINE_STEPS = (4.0, 2.0)
_MAX_STEPS = 12
_SHIFTS_OF_MIRRORED_MM = np.arange(-40.0, 41.0, 8.0)

# Only candidates whose coarse score comes that close to the best are refined.
_MIN_COARSE_SHARE = 0.8

_MAX_SHARE_ELSEWHERE = 0.9

# A better place must raise the mutual information by this factor.
_MIN_GAIN = 1.15

# The least motion that is reported, in mm or degrees.
_MIN_MOTION = 5.0


@dataclass(frozen=True)
class Placement:
    """A rigid motion of a channel about the centre of the brain, possibly with a mirrored axis.

    Attributes:
        shift_mm: translation along the world axes.
        degrees: rotation about the world axes.
        mirrored: index of the mirrored world axis, or None.
    """

    shift_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)
    degrees: tuple[float, float, float] = (0.0, 0.0, 0.0)
    mirrored: int | None = None

    def describe(self) -> str:
        """Return the motion as the end of a sentence such as "fits better if it is ..."."""
        parts = []
        if self.mirrored is not None:
            parts.append(f"mirrored {AXES[self.mirrored]}")
        if distance := float(np.linalg.norm(self.shift_mm)):
            parts.append(f"moved by about {distance:.0f} mm")
        if angle := float(np.linalg.norm(self.degrees)):
            parts.append(f"rotated by about {angle:.0f} degrees")
        return " and ".join(parts)

    def is_near(self) -> bool:
        """Return whether the motion is as small as that of a patient between two scans."""
        motion = max(float(np.linalg.norm(self.shift_mm)), float(np.linalg.norm(self.degrees)))
        return self.mirrored is None and motion < _MIN_MOTION

    def neighbours(self, step: float) -> Iterator[Placement]:
        """Yield the placements that are one step away, in mm or degrees."""
        for axis in range(3):
            for sign in (-1, 1):
                shift_mm, degrees = list(self.shift_mm), list(self.degrees)
                shift_mm[axis] += sign * step
                degrees[axis] += sign * step
                yield replace(self, shift_mm=tuple(shift_mm))
                yield replace(self, degrees=tuple(degrees))


def padded_grid(reference: nib.Nifti1Image) -> tuple[nib.Nifti1Image, tuple[slice, slice, slice]]:
    """Return an empty image whose grid is `SEARCH_MM` wider on all sides, and the part of it that is the reference's grid."""
    spacing = np.linalg.norm(reference.affine[:3, :3], axis=0)
    border = np.ceil(SEARCH_MM / spacing).astype(int)
    affine = reference.affine.copy()
    affine[:3, 3] = apply_affine(affine, -border)
    shape = tuple(np.array(reference.shape) + 2 * border)
    inner = tuple(slice(start, start + size) for start, size in zip(border.tolist(), reference.shape, strict=True))
    return nib.Nifti1Image(np.zeros(shape, np.uint8), affine), inner


def better_placement(brain: Brain, affine: np.ndarray, moving: np.ndarray) -> Placement | None:
    """Return where a channel fits clearly better than at its own place; None if it is in register.

    Args:
        brain: the first channel over the brain, (X, Y, Z).
        affine: of the padded grid, see `padded_grid`.
        moving: (X', Y', Z'), the channel on the padded grid.

    Returns:
        The motion that, applied to the channel, puts it onto the first one.
    """
    fit = _Fit(brain, affine, moving)
    own = fit(Placement())
    near = list(Placement().neighbours(_COARSE_STEP))
    # A mirrored image is rarely mirrored about the centre of the brain.
    mirrored = [
        [Placement(mirrored=axis, shift_mm=tuple(mm * np.eye(3)[axis])) for mm in _SHIFTS_OF_MIRRORED_MM] for axis in range(3)
    ]
    # In register, each other place fits much worse. This spares nearly all images the search.
    if max(map(fit, [*near, *itertools.chain(*mirrored)])) < _MAX_SHARE_ELSEWHERE * own:
        return None
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    coarse_fit = _Fit(brain, affine, ndimage.gaussian_filter(moving, _SMOOTHING_MM / spacing))
    starts = [Placement(), *(max(places, key=coarse_fit) for places in mirrored)]
    candidates = [_climb(coarse_fit, start, _COARSE_STEP) for start in starts]
    best, best_score = Placement(), own
    least = _MIN_COARSE_SHARE * max(map(coarse_fit, candidates))
    for candidate in candidates:
        if coarse_fit(candidate) < least:
            continue
        for step in _FINE_STEPS:
            candidate = _climb(fit, candidate, step)
        if fit(candidate) > _MIN_GAIN * best_score:
            best, best_score = candidate, fit(candidate)
    return None if best.is_near() else best


def _climb(fit: _Fit, place: Placement, step: float) -> Placement:
    """Step to the best neighbour while that raises the mutual information."""
    score = fit(place)
    for _ in range(_MAX_STEPS):
        neighbours = list(place.neighbours(step))
        scores = [fit(neighbour) for neighbour in neighbours]
        if max(scores) <= score:
            break
        place, score = neighbours[int(np.argmax(scores))], max(scores)
    return place


class _Fit:
    """Mutual information of two channels over the brain and its margin, with the second one moved."""

    def __init__(self, brain: Brain, affine: np.ndarray, moving: np.ndarray):
        border = (np.array(moving.shape) - brain.mask.shape) // 2
        spacing = np.linalg.norm(affine[:3, :3], axis=0)
        near = ndimage.distance_transform_edt(~brain.mask, sampling=spacing) <= _MARGIN_MM
        voxels = np.argwhere(near)
        voxels = voxels[:: max(1, len(voxels) // _NUM_POINTS)]
        self.points = apply_affine(affine, voxels + border)
        self.centre = self.points.mean(axis=0)
        self.to_voxels = np.linalg.inv(affine)
        self.moving = moving
        self.fixed_bins = _bins(np.asarray(brain.image.dataobj)[tuple(voxels.T)])
        values = moving[moving != 0]
        self.edges = _edges(values if values.size else moving.ravel())

    def __call__(self, place: Placement) -> float:
        """Return the mutual information in nats."""
        # The image moves by the motion, so that its values are looked up at the inverse motion.
        matrix = Rotation.from_euler("xyz", place.degrees, degrees=True).as_matrix().T
        points = (self.points - self.centre - place.shift_mm) @ matrix.T
        if place.mirrored is not None:
            points[:, place.mirrored] *= -1
        voxels = apply_affine(self.to_voxels, points + self.centre)
        bins = np.digitize(ndimage.map_coordinates(self.moving, voxels.T, order=1), self.edges)
        joint = np.bincount(self.fixed_bins * _NUM_BINS + bins, minlength=_NUM_BINS**2).reshape(_NUM_BINS, _NUM_BINS)
        joint = joint / joint.sum()
        independent = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
        filled = joint > 0
        return float((joint[filled] * np.log(joint[filled] / independent[filled])).sum())


def _edges(values: np.ndarray) -> np.ndarray:
    return np.quantile(values, np.linspace(0, 1, _NUM_BINS + 1)[1:-1])


def _bins(values: np.ndarray) -> np.ndarray:
    return np.digitize(values, _edges(values))
