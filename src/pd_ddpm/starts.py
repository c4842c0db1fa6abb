"""Where the reverse chain begins: the one thing in which vanilla DDPM, ES-DDPM and PD-DDPM differ."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from pd_ddpm.masks import MaskCoding
from pd_ddpm.noise import MemberNoise
from pd_ddpm.schedule import Schedule


class Start(Protocol):
    t_start: int

    def __call__(self, shape: Sequence[int], presegmentation: Tensor | None, noise: MemberNoise) -> Tensor:
        """First state x (N, C, *S) of N members, at time t_start; shape is (C, *S)."""
        ...


@dataclass(frozen=True)
class NoiseStart:
    """Vanilla DDPM: pure noise at t = T (PD-DDPM Sec. 2.1)."""

    t_start: int

    def __call__(self, shape: Sequence[int], presegmentation: Tensor | None, noise: MemberNoise) -> Tensor:
        return noise.draw(shape)


@dataclass(frozen=True)
class PresegmentationStart:
    """PD-DDPM Sec. 2.2: a given mask diffused to T' stands in for x_T'; every member has its own noise."""

    t_start: int
    schedule: Schedule
    coding: MaskCoding

    def __call__(self, shape: Sequence[int], presegmentation: Tensor | None, noise: MemberNoise) -> Tensor:
        """presegmentation: (N, C, *S), lesion probability or hard mask in [0, 1]."""
        if presegmentation is None:
            raise ValueError("this start diffuses a pre-segmentation, but none was given")
        t = torch.full((len(noise),), self.t_start)
        return self.schedule.diffuse(self.coding.encode(presegmentation.cpu()), t, noise.draw(shape))
