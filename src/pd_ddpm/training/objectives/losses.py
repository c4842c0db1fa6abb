"""Losses over the pixels that are not to be ignored.

Those of whole batches are scalars. `squared_error_rows`, `dice_focal_rows` and `masked_mean_rows` return one value per row, so
that the rows can have weights.

Arguments are (B, C, *S): C is 1 for lesions, otherwise the number of classes with background first. `loss_mask` is (B, 1, *S),
1, or 0 where the label is to be ignored.
"""

import torch
from torch import Tensor
from torch.nn import functional


def cross_entropy(logits: Tensor, mask: Tensor, loss_mask: Tensor) -> Tensor:
    """Return the mean cross-entropy: binary for lesions, of the softmax for classes.

    Args:
        logits: logits of lesion or of classes.
        mask: fraction of lesion or of each class in [0, 1].
        loss_mask: 1, or 0 for ignored pixels.
    """
    return masked_mean(pixel_cross_entropy(logits, mask), loss_mask)


def pixel_cross_entropy(logits: Tensor, mask: Tensor) -> Tensor:
    """Return the cross-entropy of each pixel, (B, 1, *S), of logits and fractions (B, C, *S)."""
    if logits.shape[1] == 1:
        return functional.binary_cross_entropy_with_logits(logits, mask, reduction="none")
    return -(mask * logits.log_softmax(dim=1)).sum(dim=1, keepdim=True)


def soft_dice_loss(probability: Tensor, mask: Tensor, loss_mask: Tensor) -> Tensor:
    """Return 1 - soft Dice, with the whole batch as one volume, since many slices have no lesion.

    1 is added to numerator and denominator, so that an empty batch has a loss of 0. The loss of classes is the mean over all
    but the background.

    Args:
        probability: probabilities of lesion or of classes.
        mask: fraction of lesion or of each class in [0, 1].
        loss_mask: 1, or 0 for ignored pixels.

    Reference: Milletari et al. 2016 (V-Net), Sec. 3.
    """
    if probability.shape[1] > 1:
        pairs = zip(probability.split(1, dim=1)[1:], mask.split(1, dim=1)[1:], strict=True)
        return torch.stack([soft_dice_loss(*pair, loss_mask) for pair in pairs]).mean()
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


def squared_error_rows(prediction: Tensor, target: Tensor, loss_mask: Tensor) -> Tensor:
    """Return the mean squared error of each row, (B,). The arguments are those of `squared_error`."""
    return masked_mean_rows((prediction - target) ** 2, loss_mask)


def dice_focal_rows(logits: Tensor, mask: Tensor, loss_mask: Tensor, focal_weight: float) -> dict[str, Tensor]:
    """Return Dice loss plus weighted focal loss of each row as "loss", and both parts.

    The Dice loss has no smoothing. It is the mean over the classes that the row contains, without background; 0 if the row
    contains none. The focal loss has the exponent 2, all classes have the same weight, and it is the mean over pixels.

    Args:
        logits: one channel of lesion logits, or C > 1 channels of class logits with the background first.
        mask: fraction of each class in [0, 1].
        loss_mask: (B, 1, *S), 1, or 0 for ignored pixels.
        focal_weight: weight of the focal loss; that of the Dice loss is 1.

    Returns:
        "loss", "dice_loss" and "focal_loss", (B,) each.

    Reference: Fu et al. 2024, whose weight is 20 or 1; Lin et al. 2017 (focal loss), Eq. 4.
    """
    if logits.shape[1] == 1:
        log_probability, log_rest = functional.logsigmoid(logits), functional.logsigmoid(-logits)
        focal = -(log_rest.exp() ** 2 * log_probability * mask + log_probability.exp() ** 2 * log_rest * (1 - mask))
        foreground, truth = log_probability.exp(), mask
    else:
        log_probability = logits.log_softmax(dim=1)
        focal = -((1 - log_probability.exp()) ** 2 * log_probability * mask).sum(dim=1, keepdim=True)
        foreground, truth = log_probability.exp()[:, 1:], mask[:, 1:]
    foreground, truth = foreground * loss_mask, truth * loss_mask
    overlap, volumes = ((part.flatten(2)).sum(dim=2) for part in (foreground * truth, foreground + truth))
    is_present = truth.flatten(2).sum(dim=2) > 0
    per_class = torch.where(is_present, 1 - 2 * overlap / volumes.clamp(min=torch.finfo(volumes.dtype).tiny), 0.0)
    dice = per_class.sum(dim=1) / is_present.sum(dim=1).clamp(min=1)
    focal = masked_mean_rows(focal, loss_mask)
    return {"loss": dice + focal_weight * focal, "dice_loss": dice, "focal_loss": focal}


def masked_mean_rows(values: Tensor, loss_mask: Tensor) -> Tensor:
    """Return the mean of each row's values where the loss mask is 1, (B,); 0 if it is nowhere 1."""
    weights = loss_mask.expand_as(values).flatten(1)
    return (values.flatten(1) * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)


def masked_mean(values: Tensor, loss_mask: Tensor) -> Tensor:
    """Return the mean of the values, over all channels, where the loss mask is 1; 0 if it is nowhere 1."""
    return (values * loss_mask).sum() / loss_mask.expand_as(values).sum().clamp(min=1)
