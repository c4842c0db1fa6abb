"""Reliability of a pre-segmentation: what the start of a chain says about the ground truth."""

import math
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True)
class Reliability:
    """How often a pre-segmentation agrees with the ground truth in a pixel, both strictly between 0 and 1.

    Attributes:
        sensitivity: P(pre-segmentation = lesion | lesion), s1.
        specificity: P(pre-segmentation = background | background), s0.
    """

    sensitivity: float
    specificity: float

    @classmethod
    def from_counts(cls, true_positive: int, lesion: int, true_negative: int, background: int) -> Self:
        """Return the posterior means under a uniform prior (Laplace's rule of succession), which are never 0 or 1.

        Args:
            true_positive: pixels of lesion that the pre-segmentation marks.
            lesion: all pixels of lesion.
            true_negative: pixels of background that it does not mark.
            background: all pixels of background.
        """
        return cls((true_positive + 1) / (lesion + 2), (true_negative + 1) / (background + 2))

    def log_likelihood_ratio(self, ratio: Tensor) -> Tensor:
        """Return what x_t says about the ground truth if it was diffused from the pre-segmentation.

        Given the ground truth, the pre-segmentation y is lesion with probability s1 in lesions and 1 - s0 elsewhere. Given y,
        x_t is Gaussian. Both densities of x_t are therefore mixtures, and the ratio of them is

            log [(s1 N(x_t; high) + (1 - s1) N(x_t; low)) / ((1 - s0) N(x_t; high) + s0 N(x_t; low))]

        with N(x_t; high) and N(x_t; low) as in `Denoiser.log_likelihood_ratio`. Divided by N(x_t; low), it depends on x_t
        through their ratio alone. It lies between log((1 - s1) / s0) and log(s1 / (1 - s0)), the evidence of y itself: even the
        clearest x_t cannot say more than the mask that it was made from. As s1 and s0 approach 1, it becomes the ratio of x_t.

        Args:
            ratio: log N(x_t; high) - log N(x_t; low), any shape.

        Returns:
            log p(x_t | lesion) - log p(x_t | background), in the same shape.

        Reference: ours.
        """
        s1, s0 = self.sensitivity, self.specificity
        zero = torch.zeros_like(ratio)
        lesion = torch.logaddexp(ratio + math.log(s1), zero + math.log1p(-s1))
        background = torch.logaddexp(ratio + math.log1p(-s0), zero + math.log(s0))
        return lesion - background
