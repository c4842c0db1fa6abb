"""Segmenters map an image to the probabilities of K ensemble members: of lesion, or of each class."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol, Self

from torch import Tensor, nn

from pd_ddpm.diffusion.denoiser import Denoiser
from pd_ddpm.diffusion.mask_coding import class_probabilities
from pd_ddpm.diffusion.noise import MemberNoise
from pd_ddpm.diffusion.samplers import StepSpacing, reverse_times
from pd_ddpm.diffusion.starts import Start
from pd_ddpm.models.coordinates import has_coordinates
from pd_ddpm.models.mask_channels import mask_channels
from pd_ddpm.models.networks.dropout import monte_carlo_dropout
from pd_ddpm.models.networks.probabilistic_unet import ProbabilisticUNet
from pd_ddpm.runtime.precision import cast_to_weights


class Segmenter(Protocol):
    """The interface of all segmenters.

    Attributes:
        num_members: ensemble members sampled for each slice.
        evaluations_shared: network evaluations per slice that serve all its members.
        evaluations_per_member: further network evaluations per slice for each member.
        divisor: spatial sizes must be multiples of it.
        coordinates: whether images have coordinate channels after those of the scan.
        mask_channels: channels C of masks: 1 for lesions, or the number of classes with background.
    """

    num_members: int
    evaluations_shared: int
    evaluations_per_member: int
    divisor: int
    coordinates: bool
    mask_channels: int

    def __call__(self, image: Tensor, presegmentation: Tensor | None, noise: MemberNoise) -> Tensor:
        """Return the probabilities of a batch of N members.

        Row n belongs to member n of the noise. A slice with K members is repeated in K consecutive rows.

        Args:
            image: (N, M, *S) float32, normalised, followed by coordinate channels if `coordinates`.
            presegmentation: (N, C, *S) in [0, 1]; None for a method that starts from no mask.
            noise: the random streams of the N members.

        Returns:
            (N, C, *S) float32 in [0, 1].
        """
        ...

    def shortened(self) -> Self:
        """Return a segmenter with as few network evaluations as possible, but the same use of memory."""
        ...


@dataclass
class _SinglePass:
    """Base of the segmenters that evaluate a segmentation network once per member or once per slice."""

    network: nn.Module
    num_members: int
    evaluations_shared: int = 0
    evaluations_per_member: int = 1

    @property
    def divisor(self) -> int:
        return self.network.divisor

    @property
    def coordinates(self) -> bool:
        return has_coordinates(self.network)

    @property
    def mask_channels(self) -> int:
        return mask_channels(self.network)

    def shortened(self) -> Self:
        return self


@dataclass
class DeterministicSegmenter(_SinglePass):
    """A segmentation network without randomness. It has one member, since all members would be equal."""

    num_members: int = 1

    def __call__(self, image: Tensor, presegmentation: Tensor | None, noise: MemberNoise) -> Tensor:
        return class_probabilities(self.network(cast_to_weights(image, self.network)).float())


class DropoutSegmenter(_SinglePass):
    """The Bayesian U-Net: Monte Carlo dropout, with independent dropout masks for each member.

    A call raises ValueError if the network has no dropout.

    Reference: Gal & Ghahramani 2016.
    """

    def __call__(self, image: Tensor, presegmentation: Tensor | None, noise: MemberNoise) -> Tensor:
        with monte_carlo_dropout(self.network, noise.sample_uniform):
            return class_probabilities(self.network(cast_to_weights(image, self.network)).float())


@dataclass
class LatentSegmenter(_SinglePass):
    """The Probabilistic U-Net: each member has a latent vector sampled from the prior.

    The U-Net is evaluated once per slice. Only the last 1x1 convolutions run once per member; they do not count as a network
    evaluation. A slice whose rows are in two batches is evaluated in both.

    Reference: Kohl et al. 2018, Sec. 2.
    """

    network: ProbabilisticUNet
    evaluations_shared: int = 1
    evaluations_per_member: int = 0

    def __call__(self, image: Tensor, presegmentation: Tensor | None, noise: MemberNoise) -> Tensor:
        z = noise.sample_normal((self.network.latent,), image.device)
        return class_probabilities(self.network(cast_to_weights(image, self.network), z).float())


@dataclass
class DiffusionSegmenter:
    """A reverse diffusion chain.

    Attributes:
        denoiser: predicts the clean mask.
        start: gives x at the start timestep T'.
        sampler: (denoise, x, times, noise=noise) -> x0.
        steps: reverse steps; each is one evaluation of the denoiser.
        num_members: ensemble members sampled for each slice.
        spacing: which timesteps the chain takes, see `reverse_times`.
        stop_after: number of steps after which the chain ends early with its estimate of the mask; None: it takes all.

    Reference: PD-DDPM, Eq. 4.
    """

    denoiser: Denoiser
    start: Start
    sampler: Callable[..., Tensor]
    steps: int
    num_members: int
    spacing: StepSpacing = "trailing"
    stop_after: int | None = None
    evaluations_shared: int = 0

    @property
    def evaluations_per_member(self) -> int:
        return (self.stop_after or self.steps) + self.start.evaluations

    @property
    def divisor(self) -> int:
        return self.denoiser.divisor

    @property
    def coordinates(self) -> bool:
        return has_coordinates(self.denoiser)

    @property
    def mask_channels(self) -> int:
        return mask_channels(self.denoiser)

    def shortened(self) -> Self:
        return replace(self, steps=1, stop_after=None)

    def __call__(self, image: Tensor, presegmentation: Tensor | None, noise: MemberNoise) -> Tensor:
        x = self.start(image, presegmentation, noise).to(image.device)
        times = reverse_times(self.start.t_start, self.steps, self.spacing)
        if self.stop_after is not None:
            # A step to 0 returns the estimate of x_0, without noise. All steps before it are those of the whole chain.
            times = [*times[: self.stop_after], 0]
        x0 = self.sampler(self.denoiser.chain(image), x, times, noise=noise)
        return self.denoiser.coding.probabilities(x0)
