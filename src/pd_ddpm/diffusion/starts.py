"""Where the reverse chain begins: the one thing in which vanilla DDPM, TDPM, ES-DDPM and PD-DDPM differ."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from pd_ddpm.diffusion.mask_coding import MaskCoding
from pd_ddpm.diffusion.noise import MemberNoise
from pd_ddpm.diffusion.schedule import Schedule
from pd_ddpm.diffusion.truncated_denoiser import TruncatedDenoiser


class Start(Protocol):
    t_start: int
    evaluations: int  # network evaluations of one member

    def __call__(self, image: Tensor, presegmentation: Tensor | None, noise: MemberNoise) -> Tensor:
        """First state x (N, 1, *S) of N members, at time t_start.

        image: (N, M, *S); presegmentation: (N, 1, *S) in [0, 1] or None.
        """
        ...


@dataclass(frozen=True)
class NoiseStart:
    """Vanilla DDPM: pure noise at t = T (PD-DDPM Sec. 2.1)."""

    t_start: int
    evaluations: int = 0

    def __call__(self, image: Tensor, presegmentation: Tensor | None, noise: MemberNoise) -> Tensor:
        return noise.draw((1, *image.shape[2:]))


@dataclass(frozen=True)
class PresegmentationStart:
    """PD-DDPM Sec. 2.2: a given mask diffused to T' stands in for x_T'; every member has its own noise."""

    t_start: int
    schedule: Schedule
    coding: MaskCoding
    evaluations: int = 0

    def __call__(self, image: Tensor, presegmentation: Tensor | None, noise: MemberNoise) -> Tensor:
        """presegmentation: (N, 1, *S), lesion probability or hard mask in [0, 1]."""
        if presegmentation is None:
            raise ValueError("this start diffuses a pre-segmentation, but none was given")
        t = torch.full((len(noise),), self.t_start)
        return self.schedule.diffuse(self.coding.encode(presegmentation.cpu()), t, noise.draw(presegmentation.shape[1:]))


@dataclass(frozen=True)
class LearnedPriorStart:
    """TDPM (Zheng et al. 2022): the denoiser's own network draws x_T' from noise, T' being the one it was trained for.

    Raises ValueError for another T'. Each member's first noise goes into the network; the head "mean_plus_noise" takes the
    second one for the noise in x_T'; all later ones are the chain's.
    """

    t_start: int
    model: TruncatedDenoiser
    evaluations: int = 1

    def __post_init__(self) -> None:
        if self.t_start != self.model.t_max:
            raise ValueError(
                f"the chain is to start at t_start = {self.t_start}, but the network draws its start at t_max = "
                f"{self.model.t_max}; make them equal"
            )

    def __call__(self, image: Tensor, presegmentation: Tensor | None, noise: MemberNoise) -> Tensor:
        return self.model.prior(image, lambda shape: noise.draw(shape, image.device))
