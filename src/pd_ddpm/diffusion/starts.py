"""Starts of the reverse chain: the only difference between vanilla DDPM, TDPM, ES-DDPM and PD-DDPM at inference."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from pd_ddpm.diffusion.denoiser import Denoiser
from pd_ddpm.diffusion.mask_coding import MaskCoding
from pd_ddpm.diffusion.noise import MemberNoise
from pd_ddpm.diffusion.reliability import Reliability
from pd_ddpm.diffusion.schedule import Schedule
from pd_ddpm.diffusion.truncated_denoiser import TruncatedDenoiser


class Start(Protocol):
    """Source of the first state of a reverse chain.

    Attributes:
        t_start: timestep of the first state.
        evaluations: network evaluations (NFE) per ensemble member that the start itself needs.
    """

    t_start: int
    evaluations: int

    def __call__(self, image: Tensor, presegmentation: Tensor | None, noise: MemberNoise) -> Tensor:
        """Return the first state.

        Args:
            image: (N, M, *S), z-scored; one row per ensemble member.
            presegmentation: (N, C, *S) in [0, 1], or None if the method has none.
            noise: noise of the N members.

        Returns:
            x: (N, C, *S) at timestep t_start, with C channels of the mask.
        """
        ...


@dataclass(frozen=True)
class NoiseStart:
    """Vanilla DDPM: pure noise at t = T, with one channel per channel of the mask.

    Reference: PD-DDPM, Sec. 2.1.
    """

    t_start: int
    evaluations: int = 0
    channels: int = 1

    def __call__(self, image: Tensor, presegmentation: Tensor | None, noise: MemberNoise) -> Tensor:
        """Return the members' noise, (N, C, *S)."""
        return noise.sample_normal((self.channels, *image.shape[2:]))


@dataclass(frozen=True)
class PresegmentationStart:
    """PD-DDPM and ES-DDPM: a pre-segmentation diffused to T' replaces x_T'; every member has its own noise.

    Reference: PD-DDPM, Sec. 2.2, Eqs. 3 and 4; Lyu et al. 2022 (ES-DDPM).
    """

    t_start: int
    schedule: Schedule
    coding: MaskCoding
    evaluations: int = 0

    def __call__(self, image: Tensor, presegmentation: Tensor | None, noise: MemberNoise) -> Tensor:
        """Return the diffused pre-segmentation.

        Args:
            image: (N, M, *S); not used.
            presegmentation: (N, C, *S), lesion probability or mask, or those of C classes, in [0, 1].
            noise: noise of the N members.

        Returns:
            x: (N, C, *S) on the CPU, at timestep t_start.

        Raises:
            ValueError: if there is no pre-segmentation.
        """
        if presegmentation is None:
            raise ValueError("this start diffuses a pre-segmentation, but `presegmentation` is None")
        t = torch.full((len(noise),), self.t_start)
        sample = noise.sample_normal(presegmentation.shape[1:])
        return self.schedule.diffuse(self.coding.encode(presegmentation.cpu()), t, sample)


@dataclass(frozen=True)
class ReliabilityStart:
    """PD-DDPM whose first reverse step knows how reliable the pre-segmentation is.

    x_T' is diffused from the pre-segmentation, not from the ground truth. Its evidence about the ground truth is that of
    `Reliability.log_likelihood_ratio`; with the network's prior log-odds it gives the posterior of each pixel at T'. An
    ordinary reverse step would mix x_T' into the next state, and all later steps would read it as evidence of the ground truth.
    Here the mask is sampled from the posterior, and the next state is diffused from that sample with fresh noise. It then has
    the distribution of a diffused ground truth, for which the ordinary steps from there on are meant.

    The state is exact if the network's log-odds are the prior and pixels are independent given image and x_T'. The rates are
    those of a whole data set: they do not depend on the image, on the size of a lesion or on the distance to its border.

    Attributes:
        t_start: timestep of the next state, at which the chain goes on.
        diffused_to: T', to which the pre-segmentation is diffused.
        model: the denoiser, with likelihood skip.
        reliability: reliability of the pre-segmentation.
        evaluations: the first reverse step is one.

    Raises:
        ValueError: the masks have several classes, or the denoiser has no likelihood skip, so that its output cannot be
            separated into prior and evidence.

    Reference: ours.
    """

    t_start: int
    diffused_to: int
    model: Denoiser
    reliability: Reliability
    evaluations: int = 1

    def __post_init__(self) -> None:
        if self.model.mask_channels > 1:
            raise ValueError("`start_reliability: validation` is defined for masks of lesions, not for several classes.")
        if not self.model.likelihood_skip:
            raise ValueError("`start_reliability: validation` needs a denoiser with `likelihood_skip: true`.")

    def __call__(self, image: Tensor, presegmentation: Tensor | None, noise: MemberNoise) -> Tensor:
        """Return the first state after T'.

        Args:
            image: (N, M, *S), z-scored.
            presegmentation: (N, 1, *S), binary mask.
            noise: noise of the N members; the start takes that of x_T', of the sampled mask, and of the next state.

        Returns:
            x: (N, 1, *S) on the image's device, at timestep t_start.

        Raises:
            ValueError: if there is no pre-segmentation.
        """
        schedule, coding = self.model.schedule, self.model.coding
        x = PresegmentationStart(self.diffused_to, schedule, coding)(image, presegmentation, noise).to(image.device)
        t = torch.full((len(x),), self.diffused_to, device=x.device)
        probability = self.model.output(x, image, t, self.reliability).sigmoid()
        mask = (noise.sample_uniform(x.shape[1:]).to(x.device) < probability).float()
        sample = noise.sample_normal(x.shape[1:], x.device)
        return schedule.diffuse(coding.encode(mask), torch.full_like(t, self.t_start), sample)


@dataclass(frozen=True)
class LearnedPriorStart:
    """TDPM: the denoiser's own network generates x_T' from noise, for the T' that it was trained for.

    A member's first noise is the network's input. The head "mean_plus_noise" uses the second one as the noise in x_T'. The
    reverse steps use the following ones.

    Raises:
        ValueError: if t_start differs from the model's T'.

    Reference: Zheng et al. 2022 (TDPM).
    """

    t_start: int
    model: TruncatedDenoiser
    evaluations: int = 1

    def __post_init__(self) -> None:
        if self.t_start != self.model.t_max:
            raise ValueError(
                f"the chain starts at `t_start` ({self.t_start}), but the network generates x at `t_max` "
                f"({self.model.t_max}). Set both to the same timestep."
            )

    def __call__(self, image: Tensor, presegmentation: Tensor | None, noise: MemberNoise) -> Tensor:
        """Return the network's sample of x_T', (N, C, *S) on the image's device."""
        return self.model.sample_prior(image, lambda shape: noise.sample_normal(shape, image.device))
