"""Losses over the voxels that count. All arguments are (B, C, *S); `counted` is 1 or 0."""

from torch import Tensor
from torch.nn import functional


def cross_entropy(logits: Tensor, mask: Tensor, counted: Tensor) -> Tensor:
    """Mean binary cross-entropy of lesion logits."""
    return mean(functional.binary_cross_entropy_with_logits(logits, mask, reduction="none"), counted)


def soft_dice_loss(probability: Tensor, mask: Tensor, counted: Tensor) -> Tensor:
    """1 - Dice with probabilities for voxels (Milletari et al. 2016), over the batch as one volume.

    One ratio over the batch, since many slices have no lesion; the 1 keeps an empty batch defined.
    """
    probability, mask = probability * counted, mask * counted
    overlap, volumes = (probability * mask).sum(), probability.sum() + mask.sum()
    return 1 - (2 * overlap + 1) / (volumes + 1)


def squared_error(prediction: Tensor, target: Tensor, counted: Tensor) -> Tensor:
    """Mean squared error."""
    return mean((prediction - target) ** 2, counted)


def mean(values: Tensor, counted: Tensor) -> Tensor:
    """Mean of the values that count; 0 where none does."""
    return (values * counted).sum() / counted.sum().clamp(min=1)
