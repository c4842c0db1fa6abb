"""Lattices, random fields and smooth steps that all parts of the phantom use."""

from dataclasses import dataclass

import numpy as np
from scipy import sparse


@dataclass(frozen=True)
class Lattice:
    """An axis-aligned sampling lattice.

    Attributes:
        shape: number of voxels (X, Y, Z).
        origin: centre of the first voxel, in mm.
        spacing: voxel size in mm.
    """

    shape: tuple[int, int, int]
    origin: tuple[float, float, float]
    spacing: tuple[float, float, float]

    @classmethod
    def from_box(cls, lower: tuple, upper: tuple, spacing: float) -> "Lattice":
        """Return the isotropic lattice that covers a box.

        Args:
            lower: corner of the box in mm, the centre of the first voxel.
            upper: opposite corner in mm.
            spacing: voxel size in mm.
        """
        shape = tuple(int(np.ceil((high - low) / spacing)) + 1 for low, high in zip(lower, upper, strict=True))
        return cls(shape, tuple(map(float, lower)), (float(spacing),) * 3)

    def axes(self) -> list[np.ndarray]:
        """Return voxel centres in mm along each axis, as arrays (X, 1, 1), (1, Y, 1), (1, 1, Z) that broadcast."""
        centres = [
            start + step * np.arange(count) for start, step, count in zip(self.origin, self.spacing, self.shape, strict=True)
        ]
        return [
            centre.astype(np.float32).reshape([-1 if axis == dimension else 1 for dimension in range(3)])
            for axis, centre in enumerate(centres)
        ]


def smooth_step(values: np.ndarray, start: float, stop: float) -> np.ndarray:
    """Return a cubic ramp from 0 to 1.

    Args:
        values: array of any shape.
        start: value at which the ramp is 0.
        stop: value at which the ramp is 1; below `start` for a falling ramp.

    Returns:
        The ramp in the shape of `values`.
    """
    ramp = np.clip((values - np.float32(start)) * np.float32(1 / (stop - start)), 0, 1)
    return ramp * ramp * (3 - 2 * ramp)


def sigmoid(values: np.ndarray) -> np.ndarray:
    """Return the logistic function, without overflow for large arguments."""
    return 0.5 + 0.5 * np.tanh(0.5 * values)


def _spline_basis(count: int, step: float, knot_distance: float, phase: float) -> sparse.csr_array:
    """Return the matrix (count, knots) of a cubic B-spline.

    Rows have unit length, so that independent coefficients of variance 1 give values of variance 1.
    """
    position = np.arange(count) * step / knot_distance + phase
    knot = np.floor(position).astype(int)
    t = position - knot
    weights = np.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3], axis=1)
    weights /= np.linalg.norm(weights, axis=1, keepdims=True)
    rows = np.repeat(np.arange(count), 4)
    columns = (knot[:, None] + np.arange(4)).ravel()
    return sparse.csr_array((weights.ravel().astype(np.float32), (rows, columns)), shape=(count, knot[-1] + 4))


def random_field(random: np.random.Generator, lattice: Lattice, lengths: float | tuple) -> np.ndarray:
    """Sample a smooth Gaussian random field of mean 0 and variance 1.

    The field is a cubic B-spline with independent normal coefficients. It is separable and therefore cheap.

    Args:
        random: random stream.
        lattice: grid of the field.
        lengths: distance of the spline's knots in mm, one value or one per axis. The field's structures are about twice
            as large. 0 makes neighbouring voxels independent along that axis.

    Returns:
        float32 (X, Y, Z).
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
        moved = np.moveaxis(field, axis, 0)
        field = np.moveaxis((basis @ moved.reshape(moved.shape[0], -1)).reshape(-1, *moved.shape[1:]), 0, axis)
    return np.ascontiguousarray(field)
