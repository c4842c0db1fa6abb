"""Objective of TDPM: denoising up to T', and an adversarial game for the distribution at T'."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from pd_ddpm.diffusion.mask_coding import foreground_masks
from pd_ddpm.diffusion.starts import LearnedPriorStart
from pd_ddpm.diffusion.truncated_denoiser import TruncatedDenoiser
from pd_ddpm.runtime.precision import PRECISIONS, autocast
from pd_ddpm.training.objectives import losses
from pd_ddpm.training.objectives.base import Estimate, Objective, Phase
from pd_ddpm.training.objectives.chains import ValidationChains
from pd_ddpm.training.objectives.denoising import Denoising, MaskLoss
from pd_ddpm.training.objectives.noise import diffuse_mask, sample_normal
from pd_ddpm.training.objectives.strategies import PlainDiffusion, Strategy
from pd_ddpm.training.patches import Batch

# No momentum, since the gradients of an adversarial game keep changing direction (Karras et al. 2019; Zheng et al. 2022).
BETAS = (0.0, 0.99)


@dataclass(frozen=True)
class TruncatedDiffusion(Objective):
    """Denoising at t = 1..T', and a conditional GAN whose generator is the same network at the timestep T' + 1.

    The discriminator also sees the image, since otherwise the generator could ignore it. Its real examples are masks
    diffused to T'. At ignored pixels real and generated examples get the same values, those of diffused background. No loss
    depends on the mask or on the generator there.

    Attributes:
        t_max: T'.
        mask_loss: as in `Denoising`.
        generator_factor: learning rate of the generator, as a multiple of that of denoising.
        discriminator_factor: learning rate of the discriminator, as a multiple of that of denoising.
        gradient_penalty: weight gamma of R1.
        penalty_every: number of steps between two gradient penalties.
        warm_up: fraction of the steps that train denoising alone, before the game begins.
        chains: how reverse chains are run in validation.
        strategy: as in `Denoising`.
        focal_weight: as in `Denoising`.

    Reference: Zheng et al. 2022 (TDPM).
    """

    t_max: int
    mask_loss: MaskLoss
    generator_factor: float
    discriminator_factor: float
    gradient_penalty: float
    penalty_every: int
    warm_up: float
    chains: ValidationChains = field(default_factory=ValidationChains)
    strategy: Strategy = field(default_factory=PlainDiffusion)
    focal_weight: float = 1.0

    @property
    def denoising(self) -> Denoising:
        """The objective of the denoising phase."""
        return Denoising(self.t_max, self.mask_loss, self.chains, self.strategy, focal_weight=self.focal_weight)

    def phases(self, model: TruncatedDenoiser) -> list[Phase]:
        """Return denoising, generator, discriminator and gradient penalty. See `Objective.phases`."""
        network, discriminator = list(model.network.parameters()), list(model.discriminator.parameters())
        adversarial = {"betas": BETAS, "start_fraction": self.warm_up}
        opponent = adversarial | {"learning_rate_factor": self.discriminator_factor}
        return [
            Phase("denoising", self.loss, network),
            Phase("generator", self.generator_loss, network, self.generator_factor, **adversarial),
            Phase("discriminator", self.discriminator_loss, discriminator, **opponent),
            Phase("penalty", self.penalty, discriminator, **opponent, every=self.penalty_every, optimiser="discriminator"),
        ]

    def loss(self, model: TruncatedDenoiser, batch: Batch, rng: np.random.Generator) -> dict[str, Tensor]:
        """Return the denoising loss. See `Objective.loss`."""
        return self.denoising.loss(model, batch, rng)

    def generator_loss(self, model: TruncatedDenoiser, batch: Batch, rng: np.random.Generator) -> dict[str, Tensor]:
        """Return the non-saturating loss softplus(-D(image, G(image, z))), mean over patches and batch.

        Args:
            model: generator and discriminator.
            batch: B patches.
            rng: source of z.

        Reference: Goodfellow et al. 2014, Sec. 3.
        """
        _, fake = self.real_and_fake(model, batch, rng)
        return {"loss": functional.softplus(-model.discriminator(batch.image, fake).float()).mean()}

    def discriminator_loss(self, model: TruncatedDenoiser, batch: Batch, rng: np.random.Generator) -> dict[str, Tensor]:
        """Return softplus(-D(real)) + softplus(D(fake)); 2 log 2 = 1.39 if D cannot distinguish them.

        Args:
            model: generator and discriminator.
            batch: B patches.
            rng: source of the noise in the real examples, then of z.
        """
        with torch.no_grad():
            real, fake = self.real_and_fake(model, batch, rng)
        real_logits, fake_logits = (model.discriminator(batch.image, x).float() for x in (real, fake))
        return {"loss": functional.softplus(-real_logits).mean() + functional.softplus(fake_logits).mean()}

    def penalty(self, model: TruncatedDenoiser, batch: Batch, rng: np.random.Generator) -> dict[str, Tensor]:
        """Return R1, gamma / 2 |grad_x D(image, x)|^2 at real x, times `penalty_every`, and signs of a collapsed generator.

        |grad|^2 is a mean over patches, as the other losses are. Gamma therefore does not depend on the size of the slices.

        Args:
            model: generator and discriminator.
            batch: B patches.
            rng: source of the noise in the real examples, then of z.

        Returns:
            "loss"; "empty_masks" and "true_empty_masks", the fractions of empty masks among the generated and the true ones;
            "generated_variance", the mean over pixels of the variance of two generated masks of the same image.

        Reference: Mescheder et al. 2018, Eq. 9.
        """
        with torch.no_grad():
            real = self._real(model, batch, rng)
            first, second = (self.estimate(model, batch, rng) for _ in range(2))
        diagnostics = {
            "empty_masks": _empty_fraction(first, batch),
            "true_empty_masks": _empty_fraction(batch.mask, batch),
            "generated_variance": losses.masked_mean((first - second) ** 2 / 2, batch.loss_mask),
        }
        with autocast(real.device, PRECISIONS["float32"]):  # gradients of gradients are too small for half precision
            logits = model.discriminator(batch.image, real.requires_grad_())
            (gradient,) = torch.autograd.grad(logits.sum(), real, create_graph=True)
        squared = (gradient * batch.loss_mask).square().sum() / logits.numel()
        return {"loss": self.gradient_penalty / 2 * self.penalty_every * squared} | diagnostics

    def estimates(self, model: TruncatedDenoiser, batch: Batch, rng: np.random.Generator) -> list[Estimate]:
        """Return the results of reverse chains, and of single steps from the diffused ground truth. See `Objective.estimates`.

        The chains select: one from the learned prior, and one from the pre-segmentation, if the batch has one.
        """
        starts = {"learned_prior": LearnedPriorStart(self.t_max, model)}
        starts |= self.chains.presegmentation_starts(model, batch, self.t_max)
        seeds = rng.integers(2**63, size=len(batch.image)).tolist()
        return self.chains.estimates(model, batch, starts, seeds) + self.denoising.estimates_from_truth(model, batch, rng)

    def estimate(self, model: TruncatedDenoiser, batch: Batch, rng: np.random.Generator) -> Tensor:
        """Generate x_T' and return the probabilities, of lesion or of classes, of one reverse step from it.

        Args:
            model: generator and denoiser.
            batch: B images.
            rng: source of z.

        Returns:
            (B, C, *S).
        """
        x = model.sample_prior(batch.image, _normal_sampler(batch.image, rng))
        return model.coding.probabilities(model(x, batch.image, self.t_max))

    def real_and_fake(self, model: TruncatedDenoiser, batch: Batch, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Return the discriminator's real and generated examples, equal at ignored pixels.

        Args:
            model: schedule and generator.
            batch: B patches.
            rng: source of the noise in the real examples, then of z.

        Returns:
            Diffused masks and generated x_T', (B, C, *S) each.
        """
        real = self._real(model, batch, rng)
        fake = model.sample_prior(batch.image, _normal_sampler(batch.image, rng))
        return real, torch.where(batch.loss_mask > 0, fake, real)

    def _real(self, model: TruncatedDenoiser, batch: Batch, rng: np.random.Generator) -> Tensor:
        """Return the masks diffused to T', with background in place of ignored pixels."""
        t = torch.full((len(batch.mask),), self.t_max, device=batch.mask.device)
        real, _ = diffuse_mask(model, batch.known_mask, t, rng)
        return real


def _normal_sampler(image: Tensor, rng: np.random.Generator) -> Callable[[Sequence[int]], Tensor]:
    """Return a function from a shape to noise of that shape for each image of a batch."""
    return lambda shape: sample_normal(rng, len(image), shape, image.device)


def _empty_fraction(probability: Tensor, batch: Batch) -> Tensor:
    """Return the fraction of masks without any lesion, at a threshold of 0.5."""
    lesion = foreground_masks(probability) & (batch.loss_mask > 0)
    return 1 - lesion.flatten(1).any(dim=1).float().mean()
