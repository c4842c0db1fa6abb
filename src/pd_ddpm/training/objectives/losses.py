"""Losses over the pixels that are not to be ignored.

All arguments are (B, C, *S); `loss_mask` is 1, or 0 where the label is to be ignored.
"""

from torch import Tensor
from torch.nn import functional


def cross_entropy(logits: Tensor, mask: Tensor, loss_mask: Tensor) -> Tensor:
    """Return the mean binary cross-entropy.

    Args:
        logits: lesion logits.
        mask: fraction of lesion in [0, 1].
        loss_mask: 1, or 0 for ignored pixels.
    """
    return masked_mean(functional.binary_cross_entropy_with_logits(logits, mask, reduction="none"), loss_mask)


def soft_dice_loss(probability: Tensor, mask: Tensor, loss_mask: Tensor) -> Tensor:
    """Return 1 - soft Dice, with the whole batch as one volume, since many slices have no lesion.

    1 is added to numerator and denominator, so that an empty batch has a loss of 0.

    Args:
        probability: lesion probabilities.
        mask: fraction of lesion in [0, 1].
        loss_mask: 1, or 0 for ignored pixels.

    Reference: Milletari et al. 2016 (V-Net), Sec. 3.
    """
    probability, mask = probability * loss_mask, mask * loss_mask
    overlap, volumes = (probability * mask).sum(), probability.sum() + mask.sum()
    return 1 - (2 * overlap + 1) / (volumes + 1)


def squared_error(prediction: Tensor, target: Tensor, loss_mask: Tensor) -> Tensor:
    """Return the mean squared error.

    Args:
        prediction: predicted noise or mask.
        target: the same quantity in truth.
        loss_mask: 1, or 0 for ignored pixels.
    """
    return masked_mean((prediction - target) ** 2, loss_mask)


def masked_mean(values: Tensor, loss_mask: Tensor) -> Tensor:
    """Return the mean of the values where the loss mask is 1; 0 if it is nowhere 1."""
    return (values * loss_mask).sum() / loss_mask.sum().clamp(min=1)
