"""Objective of denoisers: noise or mask prediction at random timesteps."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from pd_ddpm.diffusion.denoiser import Denoiser
from pd_ddpm.runtime.transfer import on_device
from pd_ddpm.training.objectives import losses
from pd_ddpm.training.objectives.base import Objective
from pd_ddpm.training.objectives.noise import diffused
from pd_ddpm.training.objectives.segmentation import mask_losses
from pd_ddpm.training.patches import Batch


@dataclass(frozen=True)
class Denoising(Objective):
    """Denoising at t ~ uniform {1..t_max} (Ho et al. 2020, Algorithm 1; PD-DDPM Sec. 2.2).

    A denoiser that predicts noise is trained on the squared error of the noise (their Eq. 14). One that predicts the mask is
    trained on the squared error of the estimate, or as a segmentation network (cross-entropy + Dice).
    """

    t_max: int
    mask_loss: Literal["squared_error", "cross_entropy_dice"]

    def loss(self, model: Denoiser, batch: Batch, stream: np.random.Generator) -> dict[str, Tensor]:
        t = on_device(stream.integers(1, self.t_max + 1, len(batch.mask)), batch.mask.device)
        x_t, noise = diffused(model, batch.mask, t, stream)
        output = model.output(x_t, batch.image, t)
        if model.predicts == "noise":
            return {"loss": losses.squared_error(output, noise, batch.counted)}
        if self.mask_loss == "squared_error":
            target = model.coding.encode(batch.mask)
            return {"loss": losses.squared_error(model.expected_mask(output), target, batch.counted)}
        return mask_losses(output, batch, dice_weight=1.0)

    def estimates(self, model: Denoiser, batch: Batch, stream: np.random.Generator) -> list[Tensor]:
        """One-step estimates from five noise levels over the trained range."""
        estimates = []
        for share in (0.1, 0.3, 0.5, 0.7, 0.9):
            t = max(1, round(share * self.t_max))
            x_t, _ = diffused(model, batch.mask, torch.full((len(batch.mask),), t, device=batch.mask.device), stream)
            estimates.append(model.coding.decode(model(x_t, batch.image, t)))
        return estimates
