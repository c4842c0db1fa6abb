"""What TDPM is trained on: denoising up to T', and an adversarial game for what lies at T' (Zheng et al. 2022)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from pd_ddpm.diffusion.truncated_denoiser import TruncatedDenoiser
from pd_ddpm.runtime.precision import PRECISIONS, autocast
from pd_ddpm.training.objectives import losses
from pd_ddpm.training.objectives.base import Objective, Phase
from pd_ddpm.training.objectives.denoising import Denoising
from pd_ddpm.training.objectives.noise import diffused, normal
from pd_ddpm.training.patches import Batch

# Without momentum, as the opponents of a game change direction all the time (Karras et al. 2019; Zheng et al. 2022).
BETAS = (0.0, 0.99)


@dataclass(frozen=True)
class TruncatedDiffusion(Objective):
    """Denoising on t = 1..T', and a conditional GAN whose generator is the same network at the time T' + 1.

    The discriminator sees the image beside x_T', since otherwise the generator could leave the image out of account. Its real
    examples are masks diffused to T'. Where a label does not count both kinds get the same values, those of diffused
    background, so that no loss depends on the mask or on the generator there.

    mask_loss           as in `Denoising`
    generator_factor    learning rate of the generator's phase as a multiple of the denoising's
    discriminator_factor   the same of the discriminator's
    gradient_penalty    weight gamma of R1
    penalty_every       steps between two gradient penalties
    warm_up             share of the steps that go before the game and train the denoising alone
    """

    t_max: int
    mask_loss: Literal["squared_error", "cross_entropy_dice"]
    generator_factor: float
    discriminator_factor: float
    gradient_penalty: float
    penalty_every: int
    warm_up: float

    @property
    def denoising(self) -> Denoising:
        return Denoising(self.t_max, self.mask_loss)

    def phases(self, model: TruncatedDenoiser) -> list[Phase]:
        network, judge = list(model.network.parameters()), list(model.discriminator.parameters())
        game = {"betas": BETAS, "from_share": self.warm_up}
        against = game | {"learning_rate_factor": self.discriminator_factor}
        return [
            Phase("denoising", self.loss, network),
            Phase("generator", self.generator_loss, network, self.generator_factor, **game),
            Phase("discriminator", self.discriminator_loss, judge, **against),
            Phase("penalty", self.penalty, judge, **against, every=self.penalty_every, optimiser="discriminator"),
        ]

    def loss(self, model: TruncatedDenoiser, batch: Batch, stream: np.random.Generator) -> dict[str, Tensor]:
        return self.denoising.loss(model, batch, stream)

    def generator_loss(self, model: TruncatedDenoiser, batch: Batch, stream: np.random.Generator) -> dict[str, Tensor]:
        """The non-saturating loss softplus(-D(image, G(image, z))), mean over patches and batch (Goodfellow et al. 2014)."""
        _, fake = self.real_and_fake(model, batch, stream)
        return {"loss": functional.softplus(-model.discriminator(batch.image, fake).float()).mean()}

    def discriminator_loss(self, model: TruncatedDenoiser, batch: Batch, stream: np.random.Generator) -> dict[str, Tensor]:
        """softplus(-D(real)) + softplus(D(fake)); 2 log 2 = 1.39 where it cannot tell them apart."""
        with torch.no_grad():
            real, fake = self.real_and_fake(model, batch, stream)
        judged_real, judged_fake = (model.discriminator(batch.image, x).float() for x in (real, fake))
        return {"loss": functional.softplus(-judged_real).mean() + functional.softplus(judged_fake).mean()}

    def penalty(self, model: TruncatedDenoiser, batch: Batch, stream: np.random.Generator) -> dict[str, Tensor]:
        """R1, gamma / 2 |grad_x D(image, x)|^2 at real x (Mescheder et al. 2018), times `penalty_every` as it is that rare.

        |grad|^2 is a mean over patches, as the other losses are, so that gamma does not depend on the size of the slices.
        Besides, what tells a collapsed generator: the share of `empty_masks` among the generated and among the true ones, and
        the `generated_variance`, the mean over voxels of the variance of two generated masks of the same image.
        """
        with torch.no_grad():
            real = self._real(model, batch, stream)
            one, other = (self.estimate(model, batch, stream) for _ in range(2))
        found = {
            "empty_masks": _share_of_empty(one, batch),
            "true_empty_masks": _share_of_empty(batch.mask, batch),
            "generated_variance": losses.mean((one - other) ** 2 / 2, batch.counted),
        }
        with autocast(real.device, PRECISIONS["float32"]):  # gradients of gradients are too small for short formats
            logits = model.discriminator(batch.image, real.requires_grad_())
            (slope,) = torch.autograd.grad(logits.sum(), real, create_graph=True)
        squared = (slope * batch.counted).square().sum() / logits.numel()
        return {"loss": self.gradient_penalty / 2 * self.penalty_every * squared} | found

    def estimates(self, model: TruncatedDenoiser, batch: Batch, stream: np.random.Generator) -> list[Tensor]:
        """What the method really does, cut short to one reverse step from x_T' of its own; and the denoising's estimates.

        The first follows the generator, the others say whether the network still denoises well.
        """
        return [self.estimate(model, batch, stream), *self.denoising.estimates(model, batch, stream)]

    def estimate(self, model: TruncatedDenoiser, batch: Batch, stream: np.random.Generator) -> Tensor:
        """Lesion probabilities (B, 1, *S) of one reverse step from x_T' of the generator."""
        x = model.sample_prior(batch.image, _drawing(batch.image, stream))
        return model.coding.decode(model(x, batch.image, self.t_max))

    def real_and_fake(self, model: TruncatedDenoiser, batch: Batch, stream: np.random.Generator) -> tuple[Tensor, Tensor]:
        """A diffused mask and a generated map for each image, (B, 1, *S), equal where labels do not count."""
        real = self._real(model, batch, stream)
        fake = model.sample_prior(batch.image, _drawing(batch.image, stream))
        return real, torch.where(batch.counted > 0, fake, real)

    def _real(self, model: TruncatedDenoiser, batch: Batch, stream: np.random.Generator) -> Tensor:
        t = torch.full((len(batch.mask),), self.t_max, device=batch.mask.device)
        real, _ = diffused(model, batch.mask * batch.counted, t, stream)
        return real


def _drawing(image: Tensor, stream: np.random.Generator) -> Callable[[Sequence[int]], Tensor]:
    """Noise for each image of a batch, from one stream."""
    return lambda shape: normal(stream, len(image), shape, image.device)


def _share_of_empty(probability: Tensor, batch: Batch) -> Tensor:
    lesion = (probability >= 0.5) & (batch.counted > 0)
    return 1 - lesion.flatten(1).any(dim=1).float().mean()
