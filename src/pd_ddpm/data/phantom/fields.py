"""Sampling lattices, random fields and smooth steps that all parts of the phantom share."""

from dataclasses import dataclass

import numpy as np
from scipy import sparse


@dataclass(frozen=True)
class Lattice:
    """An axis-aligned sampling lattice: shape (X, Y, Z), first voxel's centre and voxel size in mm."""

    shape: tuple[int, int, int]
    origin: tuple[float, float, float]
    spacing: tuple[float, float, float]

    @classmethod
    def covering(cls, lower: tuple, upper: tuple, spacing: float) -> "Lattice":
        """Isotropic lattice whose voxels of `spacing` mm cover the box from `lower` to `upper` (mm)."""
        shape = tuple(int(np.ceil((high - low) / spacing)) + 1 for low, high in zip(lower, upper, strict=True))
        return cls(shape, tuple(map(float, lower)), (float(spacing),) * 3)

    def axes(self) -> list[np.ndarray]:
        """Voxel centres in mm along each axis, shaped (X, 1, 1), (1, Y, 1), (1, 1, Z) so that they broadcast."""
        centres = [
            start + step * np.arange(count) for start, step, count in zip(self.origin, self.spacing, self.shape, strict=True)
        ]
        return [
            centre.astype(np.float32).reshape([-1 if axis == other else 1 for other in range(3)])
            for axis, centre in enumerate(centres)
        ]


def smooth_step(values: np.ndarray, start: float, stop: float) -> np.ndarray:
    """Cubic ramp from 0 at `start` to 1 at `stop`; `stop` below `start` makes it fall."""
    ramp = np.clip((values - np.float32(start)) * np.float32(1 / (stop - start)), 0, 1)
    return ramp * ramp * (3 - 2 * ramp)


def sigmoid(values: np.ndarray) -> np.ndarray:
    """Logistic function without overflow for large arguments."""
    return 0.5 + 0.5 * np.tanh(0.5 * values)


def _spline_basis(count: int, step: float, knot_distance: float, phase: float) -> sparse.csr_array:
    """Matrix (count, knots) of a cubic B-spline; rows have unit length, so that white coefficients keep variance 1."""
    position = np.arange(count) * step / knot_distance + phase
    knot = np.floor(position).astype(int)
    t = position - knot
    weights = np.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3], axis=1)
    weights /= np.linalg.norm(weights, axis=1, keepdims=True)
    rows = np.repeat(np.arange(count), 4)
    columns = (knot[:, None] + np.arange(4)).ravel()
    return sparse.csr_array((weights.ravel().astype(np.float32), (rows, columns)), shape=(count, knot[-1] + 4))


def random_field(random: np.random.Generator, lattice: Lattice, lengths: float | tuple) -> np.ndarray:
    """Smooth Gaussian random field of mean 0 and variance 1 on a lattice.

    A cubic B-spline with independent normal coefficients, separable and therefore cheap. `lengths` is the distance
    of its knots in mm, one value or one per axis; the field's structures are about twice as large. A length of 0
    makes the field independent from one sample to the next along that axis. Returns float32 (X, Y, Z).
    """
    lengths = tuple(lengths) if np.ndim(lengths) else (lengths,) * 3
    bases = [
        _spline_basis(count, step, length, random.random()) if length > 0 else None
        for count, step, length in zip(lattice.shape, lattice.spacing, lengths, strict=True)
    ]
    coefficients = [count if basis is None else basis.shape[1] for count, basis in zip(lattice.shape, bases, strict=True)]
    field = random.standard_normal(coefficients, dtype=np.float32)
    for axis, basis in enumerate(bases):
        if basis is None:
            continue
        rest = np.moveaxis(field, axis, 0)
        field = np.moveaxis((basis @ rest.reshape(rest.shape[0], -1)).reshape(-1, *rest.shape[1:]), 0, axis)
    return np.ascontiguousarray(field)
