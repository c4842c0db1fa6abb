"""Training strategies: what a denoiser sees of the mask in a training step.

x_t of the ground truth contains the answer, while x_t of a reverse chain contains errors of the network or of the
pre-segmentation. A network that has seen only the former copies the errors. One that has seen only its own estimates ignores
x_t, and its ensemble members are alike. Shares between 0 and 1 mix the masks in each batch.

A strategy is one function, `apply`: from masks, timesteps and noise to x_t and, for self-conditioning, a further input.

Reference: Fu et al. 2024 (recycling), Sec. 2; Chen et al. 2023 (Analog Bits, self-conditioning); Watson et al. 2023
(self-conditioning on the previous step).
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pd_ddpm.diffusion.denoiser import Denoiser
from pd_ddpm.diffusion.mask_coding import class_probabilities, harden, sample_mask
from pd_ddpm.training.objectives.noise import diffuse_mask, sample_normal
from pd_ddpm.training.objectives.times import SpreadTimesteps
from pd_ddpm.training.patches import Batch, to_device


@dataclass(frozen=True)
class Noising:
    """How the masks of a batch are diffused in a training step.

    Attributes:
        t: (B,), timesteps that the network is trained at, up to `Strategy.last_timestep`.
        noise: (B, C, *S), noise in x_t.
        t_max: largest timestep that the network serves.
        rng: source of all further random numbers.
        timesteps: the timesteps that are trained; None: all.
    """

    t: Tensor
    noise: Tensor
    t_max: int
    rng: np.random.Generator
    timesteps: SpreadTimesteps | None = None

    @property
    def next_t(self) -> Tensor:
        """The timesteps before those of x_t in a chain of all trained steps, such as t + 1."""
        return self.t + 1 if self.timesteps is None else self.timesteps.next(self.t)


class Inputs(NamedTuple):
    """What the network sees in addition to image and timestep.

    Attributes:
        x_t: (B, C, *S), the noisy masks.
        previous: (B, C, *S), the estimates that a self-conditioned network sees; None for other networks.
    """

    x_t: Tensor
    previous: Tensor | None = None


class Strategy:
    """Base of the strategies. Random numbers decide for each row of a batch what its x_t is made from.

    Attributes:
        share: probability of each row to be one in which the strategy uses the network's own estimate.
        presegmented_share: probability of each row to be made from its pre-segmentation instead of the ground truth. If both
            shares are 0, no random number is drawn.
    """

    share: float = 0.0
    presegmented_share: float = 0.0

    def last_timestep(self, t_max: int) -> int:
        """Return the largest timestep that a loss is computed at, or its number if few timesteps are trained.

        It is t_max, or the one before if estimates come from a later timestep than t. Estimates then come from t_max, too.

        Reference: the released code of Fu et al. 2024, which found this better.
        """
        return t_max

    def inputs(self, model: Denoiser, batch: Batch, noising: Noising) -> Inputs:
        """Return what the network sees in a training step. The target is the ground truth, whatever it sees.

        No gradient flows through estimates. The network stays in training mode: with dropout, errors of the estimate then
        vary between steps, and the next pass sees the same kind of network.

        Args:
            model: the denoiser, which predicts the mask if one of the shares is above 0.
            batch: B patches, with pre-segmentations if they have a share.
            noising: timesteps and noise of the step.

        Raises:
            ValueError: the network predicts the noise.
        """
        masks, rows = batch.mask, torch.empty(0, dtype=torch.long, device=batch.mask.device)
        if self.share + self.presegmented_share:
            if model.predicts != "mask":
                key = "strategy" if self.share else "presegmented_share"
                raise ValueError(f"`{key}` needs `predicts: mask`: the target is the ground truth, not the noise in x_t.")
            choice = noising.rng.random(len(masks))
            is_presegmented = (self.share <= choice) & (choice < self.share + self.presegmented_share)
            if is_presegmented.any():
                presegmented = to_device(np.flatnonzero(is_presegmented), masks.device)
                masks = masks.index_copy(0, presegmented, batch.presegmentation[presegmented])
            rows = to_device(np.flatnonzero(choice < self.share), masks.device)
        return self.apply(model, batch._replace(mask=masks), noising, rows)

    def apply(self, model: Denoiser, batch: Batch, noising: Noising, rows: Tensor) -> Inputs:
        """Return the inputs of plain diffusion: x_t of the masks.

        Args:
            model: the denoiser.
            batch: B patches, whose masks are the ground truth or pre-segmentations.
            noising: timesteps and noise of the step.
            rows: numbers of the rows in which the strategy uses the network's own estimate; empty here.
        """
        return Inputs(model.schedule.diffuse(model.coding.encode(batch.mask), noising.t, noising.noise))


@dataclass(frozen=True)
class PlainDiffusion(Strategy):
    """x_t of the ground truth, or of its pre-segmentation in a share of the rows.

    Reference: Ho et al. 2020 (DDPM), Algorithm 1.
    """

    presegmented_share: float = 0.0


@dataclass(frozen=True)
class Recycling(Strategy):
    """x_t of the network's own estimate instead of the ground truth.

    Attributes:
        share: see `Strategy`.
        estimate: "hard": the estimate, thresholded at one half, or its most probable class; "soft": its probabilities;
            "sampled": a draw of each pixel from them.
        source: what the estimate is made from. "next": the ground truth, diffused to t + 1; "last": the ground truth, diffused
            to t_max; "noise": pure noise at T, with which a chain begins.
        presegmented_share: see `Strategy`.

    Reference: Fu et al. 2024 (recycling from x_{t+1} and x_T), whose share is 1 and whose estimate is soft. The share is ours,
    and so is pure noise: x_T of theirs contains the ground truth, faintly.
    """

    share: float = 0.0
    estimate: Literal["hard", "soft", "sampled"] = "hard"
    source: Literal["next", "last", "noise"] = "noise"
    presegmented_share: float = 0.0

    def last_timestep(self, t_max: int) -> int:
        """Return t_max, or t_max - 1 unless estimates come from pure noise. See `Strategy.last_timestep`."""
        return t_max if self.source == "noise" else t_max - 1

    def apply(self, model: Denoiser, batch: Batch, noising: Noising, rows: Tensor) -> Inputs:
        """Diffuse the estimates of the rows, and the masks of all others. See `Strategy.apply`."""
        if len(rows):
            recycled = Batch(*(part[rows] for part in batch[:3]))
            with torch.no_grad():
                estimate = self._estimate(model, recycled, noising, rows)
            batch = batch._replace(mask=batch.mask.index_copy(0, rows, estimate))
        return super().apply(model, batch, noising, rows)

    def _estimate(self, model: Denoiser, batch: Batch, noising: Noising, rows: Tensor) -> Tensor:
        """Return an estimate of every mask of a batch, which has these rows of the whole one."""
        if self.source == "noise":
            t = torch.full_like(noising.t[rows], model.schedule.T)
            x = sample_normal(noising.rng, len(batch.mask), batch.mask.shape[1:], batch.mask.device)
        else:
            t = noising.next_t[rows] if self.source == "next" else torch.full_like(noising.t[rows], noising.t_max)
            x, _ = diffuse_mask(model, batch.mask, t, noising.rng)
        probability = class_probabilities(model.output(x, batch.image, t))
        if self.estimate == "soft":
            return probability
        if self.estimate == "hard":
            return harden(probability)
        uniform = to_device(noising.rng.random(batch.loss_mask.shape, dtype=np.float32), probability.device)
        return sample_mask(probability, uniform)


@dataclass(frozen=True)
class SelfConditioning(Strategy):
    """x_t of the ground truth, with the network's own estimate as a further input in a share of the rows.

    In all other rows that input is empty, as it is in the first step of a chain. Later steps get the estimate of the step
    before.

    Attributes:
        share: see `Strategy`.
        source: what the estimate is made from. "same": x_t; "next": x at t + 1.
        state: x_t of the second pass if the source is "next". "fixed": the mean of the reverse step from t + 1 to t with the
            estimate, as in a chain; "as_released": still x at t + 1, as in the reference's code, although the timestep is t.
        presegmented_share: see `Strategy`.

    Reference: Chen et al. 2023 (Analog Bits), Sec. 2.2, and Fu et al. 2024, whose share is 0.5.
    """

    share: float = 0.5
    source: Literal["same", "next"] = "same"
    state: Literal["fixed", "as_released"] = "fixed"
    presegmented_share: float = 0.0

    def last_timestep(self, t_max: int) -> int:
        """Return t_max, or t_max - 1 if estimates come from x at t + 1. See `Strategy.last_timestep`."""
        return t_max if self.source == "same" else t_max - 1

    def apply(self, model: Denoiser, batch: Batch, noising: Noising, rows: Tensor) -> Inputs:
        """Estimate the masks from x_t or from x at t + 1, and give the estimates to the rows. See `Strategy.apply`."""
        t = noising.t if self.source == "same" else noising.next_t
        x = model.schedule.diffuse(model.coding.encode(batch.mask), t, noising.noise)
        is_reversed = self.source == "next" and self.state == "fixed"
        estimated = torch.arange(len(x), device=x.device) if is_reversed else rows
        previous = torch.full_like(x, model.coding.midpoint)
        if not len(estimated):
            return Inputs(x, previous)
        with torch.no_grad():
            estimate = model.expected_mask(model.output(x[estimated], batch.image[estimated], t[estimated]))
            previous.index_copy_(0, rows, estimate[rows] if is_reversed else estimate)
            x = model.schedule.posterior_mean(estimate, x, t, noising.t) if is_reversed else x
        return Inputs(x, previous)
