"""Objective of segmentation networks: cross-entropy and Dice."""

from dataclasses import dataclass

import numpy as np
from torch import Tensor, nn

from pd_ddpm.training.objectives import losses
from pd_ddpm.training.objectives.base import Objective
from pd_ddpm.training.patches import Batch


@dataclass(frozen=True)
class CrossEntropy(Objective):
    """Binary cross-entropy of a segmentation network's logits, plus `dice_weight` times the soft Dice loss."""

    dice_weight: float

    def loss(self, model: nn.Module, batch: Batch, stream: np.random.Generator) -> dict[str, Tensor]:
        return mask_losses(model(batch.image).float(), batch, self.dice_weight)

    def estimates(self, model: nn.Module, batch: Batch, stream: np.random.Generator) -> list[Tensor]:
        return [model(batch.image).float().sigmoid()]


def mask_losses(logits: Tensor, batch: Batch, dice_weight: float) -> dict[str, Tensor]:
    cross_entropy = losses.cross_entropy(logits, batch.mask, batch.counted)
    dice = losses.soft_dice_loss(logits.sigmoid(), batch.mask, batch.counted)
    return {"loss": cross_entropy + dice_weight * dice, "cross_entropy": cross_entropy, "dice_loss": dice}
