"""An ensemble of K members: mean probability, mask and uncertainty."""

from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np


def threshold(probability: np.ndarray) -> np.ndarray:
    """Threshold probabilities at 0.5 (inclusive).

    A tolerance of 1e-6 keeps ties: members stored in steps of 1/255 are read back with a small rounding error.
    """
    return probability >= 0.5 - 1e-6


def ensemble_mask(samples: np.ndarray) -> np.ndarray:
    """Return the mean of the members (..., K) in [0, 1], thresholded at 0.5, as (...) bool.

    Reference: PD-DDPM, Sec. 3.3.
    """
    return threshold(samples.mean(axis=-1, dtype=np.float64))


def member_variance(samples: np.ndarray) -> np.ndarray:
    """Return the variance over the members (..., K) as (...) float32; zero for a single member.

    The estimate is unbiased (K - 1 in the denominator), so that ensembles of different sizes are comparable.

    Reference: PD-DDPM, Sec. 3.4 ("the variation of predicting softmax output"; that this is the variance is our reading).
    """
    if samples.shape[-1] == 1:
        return np.zeros(samples.shape[:-1], dtype=np.float32)
    return samples.var(axis=-1, ddof=1, dtype=np.float64).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Segmentation:
    """The result for one case: its members and everything that is derived from them.

    Attributes:
        samples: (X, Y, Z, K) probabilities in [0, 1] of the K members.
        mean: (X, Y, Z) float64, mean over the members.
        mask: (X, Y, Z) bool, the mean thresholded at 0.5.
        variance: (X, Y, Z) float32, variance over the members; the uncertainty.
    """

    samples: np.ndarray
    mean: np.ndarray
    mask: np.ndarray
    variance: np.ndarray

    @classmethod
    def from_members(cls, samples: np.ndarray) -> Self:
        """Compute mean, mask and variance of the members (X, Y, Z, K) in [0, 1].

        Any number of spatial axes is accepted, such as (N, K) for N voxels.
        """
        mean = samples.mean(axis=-1, dtype=np.float64)
        return cls(samples, mean, threshold(mean), member_variance(samples))

    @property
    def num_members(self) -> int:
        """The number of members K."""
        return self.samples.shape[-1]

    @cached_property
    def member_masks(self) -> np.ndarray:
        """The members' own masks, (X, Y, Z, K) bool."""
        return threshold(self.samples)

    @cached_property
    def union(self) -> np.ndarray:
        """Voxels that at least one member marks as lesion, (X, Y, Z) bool."""
        return self.member_masks.any(axis=-1)
