"""What every method finally is: an image in, K probability maps out."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol, Self

from torch import Tensor, nn

from pd_ddpm.diffusion.denoiser import Denoiser
from pd_ddpm.diffusion.noise import MemberNoise
from pd_ddpm.diffusion.samplers import reverse_times
from pd_ddpm.diffusion.starts import Start
from pd_ddpm.models.networks.dropout import monte_carlo_dropout
from pd_ddpm.models.networks.probabilistic_unet import ProbabilisticUNet
from pd_ddpm.runtime.precision import cast_to_weights


class Segmenter(Protocol):
    num_members: int  # how many are drawn of each slice
    evaluations_shared: int  # network evaluations of one slice that serve all its members
    evaluations_per_member: int  # network evaluations of one member of one slice besides
    divisor: int  # spatial sizes must be multiples of it

    def __call__(self, image: Tensor, presegmentation: Tensor | None, noise: MemberNoise) -> Tensor:
        """Probabilities (N, C, *S) in [0, 1] of N members.

        image: (N, M, *S), presegmentation: (N, C, *S) in [0, 1] or None; row n belongs to member n of the noise, so a slice
        of which K members are drawn stands there K times, one row after the other.
        """
        ...

    def shortened(self) -> Self:
        """The same with as few evaluations as it can do with; it takes as much memory."""
        ...


@dataclass
class _OnePass:
    """What the segmenters have in common that ask one network for a mask."""

    network: nn.Module
    num_members: int
    evaluations_shared: int = 0
    evaluations_per_member: int = 1

    @property
    def divisor(self) -> int:
        return self.network.divisor

    def shortened(self) -> Self:
        return self


@dataclass
class DeterministicSegmenter(_OnePass):
    """One pass of a network that gives mask logits. Its members would be equal, so there is one."""

    num_members: int = 1

    def __call__(self, image: Tensor, presegmentation: Tensor | None, noise: MemberNoise) -> Tensor:
        return self.network(cast_to_weights(image, self.network)).float().sigmoid()


class DropoutSegmenter(_OnePass):
    """The Bayesian U-Net: passes of a segmentation network whose dropout is on, each member with masks of its own.

    Raises ValueError when called over a network without dropout.
    """

    def __call__(self, image: Tensor, presegmentation: Tensor | None, noise: MemberNoise) -> Tensor:
        with monte_carlo_dropout(self.network, noise.sample_uniform):
            return self.network(cast_to_weights(image, self.network)).float().sigmoid()


@dataclass
class LatentSegmenter(_OnePass):
    """The Probabilistic U-Net: each member is a draw from the prior (Kohl et al. 2018).

    As there, a slice is evaluated once and only the last 1x1 convolutions, which are not counted, for each draw; a slice
    whose rows lie in two batches is evaluated in both.
    """

    network: ProbabilisticUNet
    evaluations_shared: int = 1
    evaluations_per_member: int = 0

    def __call__(self, image: Tensor, presegmentation: Tensor | None, noise: MemberNoise) -> Tensor:
        z = noise.sample_normal((self.network.latent,), image.device)
        return self.network(cast_to_weights(image, self.network), z).float().sigmoid()


@dataclass
class DiffusionSegmenter:
    """A reverse chain of a denoiser from some start.

    sampler: (denoise, x, times, noise=noise) -> x0; steps: of the chain, each an evaluation of the denoiser.
    """

    denoiser: Denoiser
    start: Start
    sampler: Callable[..., Tensor]
    steps: int
    num_members: int
    evaluations_shared: int = 0

    @property
    def evaluations_per_member(self) -> int:
        return self.steps + self.start.evaluations

    @property
    def divisor(self) -> int:
        return self.denoiser.divisor

    def shortened(self) -> Self:
        return replace(self, steps=1)

    def __call__(self, image: Tensor, presegmentation: Tensor | None, noise: MemberNoise) -> Tensor:
        x = self.start(image, presegmentation, noise).to(image.device)
        times = reverse_times(self.start.t_start, self.steps)
        x0 = self.sampler(lambda x_t, t: self.denoiser(x_t, image, t), x, times, noise=noise)
        return self.denoiser.coding.decode(x0)
