"""Objective of segmentation networks: cross-entropy and Dice."""

from dataclasses import dataclass

import numpy as np
from torch import Tensor, nn

from pd_ddpm.diffusion.mask_coding import class_probabilities
from pd_ddpm.training.objectives import losses
from pd_ddpm.training.objectives.base import Estimate, Objective
from pd_ddpm.training.patches import Batch


class Segmentation(Objective):
    """Base of the objectives of deterministic networks."""

    def estimates(self, model: nn.Module, batch: Batch, rng: np.random.Generator) -> list[Estimate]:
        """Return the network's probabilities of lesion or of classes. See `Objective.estimates`."""
        return [Estimate(class_probabilities(model(batch.image).float()))]


@dataclass(frozen=True)
class CrossEntropy(Segmentation):
    """Cross-entropy of a segmentation network's logits, binary or over classes, plus `dice_weight` times the soft Dice loss."""

    dice_weight: float

    def loss(self, model: nn.Module, batch: Batch, rng: np.random.Generator) -> dict[str, Tensor]:
        """Return "loss" and its two parts. See `Objective.loss`; no random numbers are used."""
        return segmentation_losses(model(batch.image).float(), batch, self.dice_weight)


@dataclass(frozen=True)
class DiceFocal(Segmentation):
    """Dice loss of each patch, plus `focal_weight` times the focal loss. Reference: see `losses.dice_focal_rows`."""

    focal_weight: float

    def loss(self, model: nn.Module, batch: Batch, rng: np.random.Generator) -> dict[str, Tensor]:
        """Return "loss" and its two parts, means over the patches. See `Objective.loss`; no random numbers are used."""
        rows = losses.dice_focal_rows(model(batch.image).float(), batch.mask, batch.loss_mask, self.focal_weight)
        return {name: values.mean() for name, values in rows.items()}


def segmentation_losses(logits: Tensor, batch: Batch, dice_weight: float) -> dict[str, Tensor]:
    """Return the cross-entropy plus weighted Dice loss as "loss", and both parts.

    Args:
        logits: (B, C, *S), logits of lesion or of classes.
        batch: mask and loss mask.
        dice_weight: weight of the soft Dice loss.
    """
    cross_entropy = losses.cross_entropy(logits, batch.mask, batch.loss_mask)
    dice = losses.soft_dice_loss(class_probabilities(logits), batch.mask, batch.loss_mask)
    return {"loss": cross_entropy + dice_weight * dice, "cross_entropy": cross_entropy, "dice_loss": dice}
