"""An ensemble of K members over C classes: mean probabilities, label map and uncertainty."""

from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np

from pd_ddpm.data.label_maps import one_hot
from pd_ddpm.inference.ensemble import Segmentation, member_variance


def most_probable(probability: np.ndarray) -> np.ndarray:
    """Return the number (...) uint8 of the most probable class of probabilities (..., C).

    Of equally probable classes the first is taken, so that background comes before all others. A tolerance of 1e-6 keeps ties:
    members stored in steps of 1/255 are read back with a small rounding error.
    """
    return np.round(probability, 6).argmax(axis=-1).astype(np.uint8)


def with_background(samples: np.ndarray) -> np.ndarray:
    """Return members (X, Y, Z, K, C) whose background, the first class, is what the others leave up to 1.

    Outside of the region that the networks see, no class has a probability.
    """
    background = np.clip(1 - samples[..., 1:].sum(axis=-1, keepdims=True), 0, 1)
    return np.concatenate([background, samples[..., 1:]], axis=-1)


@dataclass(frozen=True, eq=False)
class ClassSegmentation:
    """The result for one case: its members and everything that is derived from them.

    Attributes:
        samples: (X, Y, Z, K, C) probabilities of the K members for C classes, background first.
        mean: (X, Y, Z, C), mean over the members.
        index: (X, Y, Z) uint8, number of the most probable class of the mean; see `most_probable`.
        class_variance: (X, Y, Z, C) float32, variance over the members of each class's probability.
    """

    samples: np.ndarray
    mean: np.ndarray
    index: np.ndarray
    class_variance: np.ndarray

    @classmethod
    def from_members(cls, samples: np.ndarray) -> Self:
        """Compute mean, label map and variances of the members (X, Y, Z, K, C) in [0, 1]."""
        classes = range(samples.shape[-1])
        mean = np.stack([samples[..., c].mean(axis=-1, dtype=np.float64) for c in classes], axis=-1)
        variance = np.stack([member_variance(samples[..., c]) for c in classes], axis=-1)
        return cls(samples, mean, most_probable(mean), variance)

    @property
    def num_members(self) -> int:
        """The number of members K."""
        return self.samples.shape[-2]

    @property
    def num_classes(self) -> int:
        """The number of classes C, with background."""
        return self.samples.shape[-1]

    @cached_property
    def variance(self) -> np.ndarray:
        """Uncertainty over all classes, (X, Y, Z) float32: half the sum of the variances of all classes.

        It is half the trace of the members' covariance. With two classes it equals the variance of either, as the uncertainty
        of a binary mask does.
        """
        return self.class_variance.sum(axis=-1) / 2

    @cached_property
    def member_indices(self) -> np.ndarray:
        """Number of the most probable class of each member, (X, Y, Z, K) uint8."""
        members = np.moveaxis(self.samples, -2, 0)
        return np.stack([most_probable(member) for member in members], axis=-1)

    def of_class(self, number: int) -> Segmentation:
        """Return a class as a binary segmentation: the members' own masks, the mask of the label map, and the variance."""
        members = (self.member_indices == number).astype(np.float32)
        return Segmentation(members, self.mean[..., number], self.index == number, self.class_variance[..., number])


def class_starting_masks(samples: np.ndarray, members: str, harden: bool) -> np.ndarray:
    """Return the masks of classes from which the reverse chains of another method start; see `starting_masks`.

    Args:
        samples: (X, Y, Z, K, C) the stored members that serve as pre-segmentation.
        members: "mean" or "each".
        harden: whether the masks are one-hot at the most probable class.

    Returns:
        (X, Y, Z, 1, C) for "mean", (X, Y, Z, K, C) for "each", float32.
    """
    if members == "mean":
        samples = samples.mean(axis=-2, keepdims=True, dtype=np.float64)
    if harden:
        samples = one_hot(most_probable(samples), samples.shape[-1])
    return samples.astype(np.float32, copy=False)


def empty_mask(shape: tuple[int, ...], num_labels: int = 0) -> np.ndarray:
    """Return a mask without lesion, (X, Y, Z, 1) float32, or with background alone, (X, Y, Z, 1, C).

    Args:
        shape: (X, Y, Z).
        num_labels: number of classes without background; 0 if masks hold lesions.
    """
    if not num_labels:
        return np.zeros((*shape, 1), dtype=np.float32)
    return one_hot(np.zeros((*shape, 1), dtype=np.uint8), num_labels + 1).astype(np.float32)
