"""Objective of denoisers: noise or mask prediction at random timesteps."""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from pd_ddpm.diffusion.denoiser import Denoiser
from pd_ddpm.diffusion.starts import NoiseStart
from pd_ddpm.training.objectives import losses
from pd_ddpm.training.objectives.base import Estimate, Objective
from pd_ddpm.training.objectives.chains import ValidationChains
from pd_ddpm.training.objectives.noise import diffuse_mask, sample_normal
from pd_ddpm.training.objectives.recycling import Recycling
from pd_ddpm.training.objectives.segmentation import segmentation_losses
from pd_ddpm.training.patches import Batch, to_device

# Noise levels of the diffused ground truth in validation, as fractions of t_max.
_VALIDATED_LEVELS = (0.1, 0.3, 0.5, 0.7, 0.9)


@dataclass(frozen=True)
class Denoising(Objective):
    """Denoising at timesteps t ~ uniform {1..t_max}.

    A denoiser that predicts noise is trained on the squared error of the noise. One that predicts the mask is trained on the
    squared error of the mask, or as a segmentation network (cross-entropy + Dice). The target is always the ground
    truth, while x_t may be made from the network's own estimate or from a pre-segmentation.

    Attributes:
        t_max: largest timestep that is trained.
        mask_loss: loss of a denoiser that predicts the mask.
        chains: how reverse chains are run in validation.
        recycling: which rows of a batch are diffused from the network's own estimate or from their pre-segmentation.

    Reference: Ho et al. 2020 (DDPM), Algorithm 1 and Eq. 14; PD-DDPM, Sec. 2.2.
    """

    t_max: int
    mask_loss: Literal["squared_error", "cross_entropy_dice"]
    chains: ValidationChains = field(default_factory=ValidationChains)
    recycling: Recycling = field(default_factory=Recycling)

    def loss(self, model: Denoiser, batch: Batch, rng: np.random.Generator) -> dict[str, Tensor]:
        """Return the loss at one random timestep per patch. See `Objective.loss`."""
        t = to_device(rng.integers(1, self.t_max + 1, len(batch.mask)), batch.mask.device)
        noise = sample_normal(rng, len(batch.mask), batch.mask.shape[1:], batch.mask.device)
        # Recycling draws its numbers last, so that trainings with other shares have the same timesteps and noise.
        diffused = self.recycling.replace_masks(model, batch, t, self.t_max, rng)
        x_t = model.schedule.diffuse(model.coding.encode(diffused), t, noise)
        output = model.output(x_t, batch.image, t)
        if model.predicts == "noise":
            return {"loss": losses.squared_error(output, noise, batch.loss_mask)}
        if self.mask_loss == "squared_error":
            target = model.coding.encode(batch.mask)
            return {"loss": losses.squared_error(model.expected_mask(output), target, batch.loss_mask)}
        return segmentation_losses(output, batch, dice_weight=1.0)

    def estimates(self, model: Denoiser, batch: Batch, rng: np.random.Generator) -> list[Estimate]:
        """Return the results of reverse chains, and of single steps from the diffused ground truth. See `Objective.estimates`.

        The chains select: one from noise, if the network is trained up to T, and one from the pre-segmentation, if the batch
        has one. Estimates from the diffused ground truth are logged only. Their input contains the answer, so that even a
        network that returns its input has a high Dice.

        Raises:
            ValueError: the denoiser has neither start.
        """
        starts = self.chains.presegmentation_starts(model, batch, self.t_max)
        if self.t_max == model.schedule.T:
            starts = {"noise": NoiseStart(self.t_max), **starts}
        if not starts:
            raise ValueError(
                f"a denoiser that is trained up to `t_max` ({self.t_max}) below T ({model.schedule.T}) cannot start from "
                "noise. Name a `validation_presegmenter`."
            )
        seeds = rng.integers(2**63, size=len(batch.image)).tolist()
        return self.chains.estimates(model, batch, starts, seeds) + self.estimates_from_truth(model, batch, rng)

    def estimates_from_truth(self, model: Denoiser, batch: Batch, rng: np.random.Generator) -> list[Estimate]:
        """Return one-step estimates from the ground truth, diffused to five noise levels over the trained range.

        Args:
            model: the denoiser in evaluation mode.
            batch: B slices.
            rng: source of the noise.
        """
        estimates = []
        for level in _VALIDATED_LEVELS:
            t = max(1, round(level * self.t_max))
            x_t, _ = diffuse_mask(model, batch.mask, torch.full((len(batch.mask),), t, device=batch.mask.device), rng)
            estimates.append(Estimate(model.coding.decode(model(x_t, batch.image, t)), "diffused_truth", selects=False))
        return estimates
