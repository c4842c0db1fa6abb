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
from pd_ddpm.training.objectives.segmentation import segmentation_losses
from pd_ddpm.training.objectives.strategies import Noising, PlainDiffusion, Strategy
from pd_ddpm.training.objectives.times import ImportanceTimes, SpreadTimes, SpreadTimesteps, TimeSampler, UniformTimes
from pd_ddpm.training.patches import Batch, to_device

# Noise levels of the diffused ground truth in validation, as fractions of t_max.
_VALIDATED_LEVELS = (0.1, 0.3, 0.5, 0.7, 0.9)

MaskLoss = Literal["squared_error", "cross_entropy_dice", "dice_focal"]


@dataclass(frozen=True)
class Denoising(Objective):
    """Denoising at random timesteps t in {1..t_max}, or below t_max with some strategies.

    A denoiser that predicts noise is trained on the squared error of the noise. One that predicts the mask is trained on the
    squared error of the mask, or as a segmentation network (cross-entropy + Dice, or Dice + focal loss). The target is always
    the ground truth, while x_t may be made from the network's own estimate or from a pre-segmentation.

    Attributes:
        t_max: largest timestep that the network serves.
        mask_loss: loss of a denoiser that predicts the mask.
        chains: how reverse chains are run in validation.
        strategy: what the network sees of the masks.
        times: source of the timesteps up to `strategy.last_timestep`; None: all equally often.
        focal_weight: weight of the focal loss, for the mask loss "dice_focal".
        timesteps: the timesteps that `times` samples; None: all.

    Reference: Ho et al. 2020 (DDPM), Algorithm 1 and Eq. 14; PD-DDPM, Sec. 2.2.
    """

    t_max: int
    mask_loss: MaskLoss
    chains: ValidationChains = field(default_factory=ValidationChains)
    strategy: Strategy = field(default_factory=PlainDiffusion)
    times: TimeSampler | None = None
    focal_weight: float = 1.0
    timesteps: SpreadTimesteps | None = None

    def loss(self, model: Denoiser, batch: Batch, rng: np.random.Generator) -> dict[str, Tensor]:
        """Return the loss at one random timestep per patch. See `Objective.loss`.

        Raises:
            ValueError: timesteps with weights and the loss "cross_entropy_dice", which is one number for a whole batch.
        """
        times = self.times or UniformTimes(self.strategy.last_timestep(self.t_max))
        timesteps, weights = times.sample(rng, len(batch.mask))
        t = to_device(timesteps, batch.mask.device)
        noise = sample_normal(rng, len(batch.mask), batch.mask.shape[1:], batch.mask.device)
        # Strategies draw their numbers last, so that trainings with other shares have the same timesteps and noise.
        inputs = self.strategy.inputs(model, batch, Noising(t, noise, self.t_max, rng, self.timesteps))
        output = model.output(inputs.x_t, batch.image, t, previous=inputs.previous)
        if model.predicts == "mask" and self.mask_loss == "cross_entropy_dice":
            if weights is not None:
                raise ValueError("`time_sampling: importance` needs one loss per patch, which cross_entropy_dice is not.")
            return segmentation_losses(output, batch, dice_weight=1.0)
        if model.predicts == "mask" and self.mask_loss == "dice_focal":
            rows = losses.dice_focal_rows(output, batch.mask, batch.loss_mask, self.focal_weight)
            return self._mean_losses(rows, timesteps, weights)
        prediction, target = output, noise
        if model.predicts == "mask":
            prediction, target = model.expected_mask(output), model.coding.encode(batch.mask)
        if weights is None:
            return {"loss": losses.squared_error(prediction, target, batch.loss_mask)}
        return self._mean_losses({"loss": losses.squared_error_rows(prediction, target, batch.loss_mask)}, timesteps, weights)

    def _mean_losses(self, rows: dict[str, Tensor], timesteps: np.ndarray, weights: np.ndarray | None) -> dict[str, Tensor]:
        """Return the means over rows (B,), that of "loss" with the weights. The time sampler learns from the losses."""
        means = {name: values.mean() for name, values in rows.items()}
        if weights is None:
            return means
        self.times.update(timesteps.tolist(), rows["loss"].tolist())
        factors = to_device(weights.astype(np.float32), rows["loss"].device)
        return means | {"loss": (factors * rows["loss"]).mean(), "unweighted_loss": means["loss"]}

    def saved_parts(self) -> dict[str, ImportanceTimes]:
        """Return the time sampler, if it learns from the losses. See `Objective.saved_parts`."""
        times = self.times.inner if isinstance(self.times, SpreadTimes) else self.times
        return {"times": times} if isinstance(times, ImportanceTimes) else {}

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
            starts = {"noise": NoiseStart(self.t_max, channels=model.mask_channels), **starts}
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
            estimates.append(Estimate(model.coding.probabilities(model(x_t, batch.image, t)), "diffused_truth", selects=False))
        return estimates
