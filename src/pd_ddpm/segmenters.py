"""What every method finally is: an image in, K probability maps out."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from pd_ddpm.denoiser import Denoiser
from pd_ddpm.noise import MemberNoise
from pd_ddpm.samplers import reverse_times
from pd_ddpm.starts import Start


class Segmenter(Protocol):
    samples: int  # members K
    evaluations: int  # network evaluations for all K members of one slice
    divisor: int  # spatial sizes must be multiples of it

    def __call__(self, image: Tensor, presegmentation: Tensor | None, noise: MemberNoise) -> Tensor:
        """Probabilities (N, C, *S) in [0, 1] of N members.

        image: (N, M, *S), presegmentation: (N, C, *S) in [0, 1] or None; row n belongs to member n of the noise, so a slice
        of which K members are drawn stands there K times.
        """
        ...


@dataclass
class DeterministicSegmenter:
    """One pass of a network that gives mask logits. Its members would be equal, so there is one."""

    network: nn.Module
    samples: int = 1
    evaluations: int = 1

    @property
    def divisor(self) -> int:
        return self.network.divisor

    def __call__(self, image: Tensor, presegmentation: Tensor | None, noise: MemberNoise) -> Tensor:
        return self.network(image).float().sigmoid()


@dataclass
class DiffusionSegmenter:
    """A reverse chain of a denoiser from some start.

    sampler: (denoise, x, times, noise=noise) -> x0; steps: network evaluations per member.
    """

    denoiser: Denoiser
    start: Start
    sampler: Callable[..., Tensor]
    steps: int
    samples: int

    @property
    def evaluations(self) -> int:
        return self.steps * self.samples

    @property
    def divisor(self) -> int:
        return self.denoiser.divisor

    def __call__(self, image: Tensor, presegmentation: Tensor | None, noise: MemberNoise) -> Tensor:
        x = self.start((1, *image.shape[2:]), presegmentation, noise).to(image.device)
        times = reverse_times(self.start.t_start, self.steps)
        x0 = self.sampler(lambda x_t, t: self.denoiser(x_t, image, t), x, times, noise=noise)
        return self.denoiser.coding.decode(x0)
