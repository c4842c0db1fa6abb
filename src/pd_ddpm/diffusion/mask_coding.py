"""Mask coding: the two numbers that stand for background and lesion in x_0.

A mask of lesions has one channel. A mask of several classes has one channel per class, background first, and is one-hot: the
number for lesion stands for the class of a pixel, and that for background for all other classes.

The PD-DDPM paper does not state them. The first author's later code uses {0, 1}. Most other work uses {-1, 1}, which has twice
the amplitude and therefore survives more noise at the same timestep.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class MaskCoding:
    """An affine map from lesion probability in [0, 1] to x_0.

    Attributes:
        low: value of background in x_0.
        high: value of lesion in x_0.
    """

    low: float
    high: float

    @property
    def midpoint(self) -> float:
        """The value of x_0 that stands for neither background nor lesion."""
        return (self.low + self.high) / 2

    def encode(self, probability: Tensor) -> Tensor:
        """Return x_0 of a lesion probability or binary mask in [0, 1], in the same shape."""
        return self.low + (self.high - self.low) * probability

    def decode(self, x: Tensor) -> Tensor:
        """Return the lesion probability of x_0 in the same shape, clipped to [0, 1]."""
        return ((x - self.low) / (self.high - self.low)).clamp(0, 1)

    def probabilities(self, x: Tensor) -> Tensor:
        """Return the probabilities of x_0 (B, C, *S): of lesion, or of C classes, which then add up to 1.

        An estimate from predicted noise is no distribution over classes. Its decoded channels are divided by their sum. A
        pixel without any class is background.
        """
        decoded = self.decode(x)
        if x.shape[1] == 1:
            return decoded
        total = decoded.sum(dim=1, keepdim=True)
        background = torch.zeros_like(decoded)
        background[:, 0] = 1
        return torch.where(total > 0, decoded / total.clamp(min=torch.finfo(decoded.dtype).tiny), background)

    def clip_(self, x: Tensor) -> Tensor:
        """Clip an estimate of x_0 to [low, high] in place, and return it."""
        return x.clamp_(self.low, self.high)


def class_probabilities(logits: Tensor) -> Tensor:
    """Return the probabilities of logits (B, C, *S): the sigmoid for one channel, the softmax over several classes."""
    return logits.sigmoid() if logits.shape[1] == 1 else logits.softmax(dim=1)


def harden(probability: Tensor) -> Tensor:
    """Return the masks of probabilities (B, C, *S), 0 or 1: thresholded at one half, or one-hot at the most probable class.

    Of equally probable classes the first is taken.
    """
    if probability.shape[1] == 1:
        return (probability >= 0.5).to(probability.dtype)
    return _one_hot(probability.argmax(dim=1, keepdim=True), probability)


def sample_mask(probability: Tensor, uniform: Tensor) -> Tensor:
    """Sample the mask of each pixel from its probabilities.

    Args:
        probability: (B, C, *S), of lesion or of C classes.
        uniform: (B, 1, *S), uniform on [0, 1).

    Returns:
        (B, C, *S), 0 or 1; one-hot for several classes.
    """
    if probability.shape[1] == 1:
        return (uniform < probability).to(probability.dtype)
    # The last sum may be below 1 by rounding, so that the number of classes below `uniform` must be limited.
    index = (probability.cumsum(dim=1) <= uniform).sum(dim=1, keepdim=True).clamp(max=probability.shape[1] - 1)
    return _one_hot(index, probability)


def foreground_masks(probability: Tensor) -> Tensor:
    """Return which pixels of probabilities (B, C, *S) are lesion, (B, 1, *S) bool, or of each class, (B, C - 1, *S) bool."""
    masks = harden(probability) > 0
    return masks if probability.shape[1] == 1 else masks[:, 1:]


def with_background(foreground: Tensor) -> Tensor:
    """Return fractions of classes (B, C - 1, *S) with that of the background before them: what remains up to 1."""
    return torch.cat([(1 - foreground.sum(dim=1, keepdim=True)).clamp(min=0), foreground], dim=1)


def _one_hot(index: Tensor, reference: Tensor) -> Tensor:
    return torch.zeros_like(reference).scatter_(1, index, 1)


CODINGS = {"signed": MaskCoding(-1.0, 1.0), "binary": MaskCoding(0.0, 1.0)}
