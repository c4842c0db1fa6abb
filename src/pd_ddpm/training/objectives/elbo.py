"""Objective of the Probabilistic U-Net: the evidence lower bound."""

from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor
from torch.distributions import Independent, kl_divergence

from pd_ddpm.diffusion.mask_coding import class_probabilities
from pd_ddpm.models.networks.probabilistic_unet import ProbabilisticUNet
from pd_ddpm.training.objectives import losses
from pd_ddpm.training.objectives.base import Estimate, Objective, Phase
from pd_ddpm.training.objectives.noise import sample_normal
from pd_ddpm.training.patches import Batch


@dataclass(frozen=True)
class EvidenceLowerBound(Objective):
    """Negative evidence lower bound of an image: summed cross-entropy + `kl_weight` * KL(posterior || prior).

    It is averaged over the batch, which keeps the weight of the KL divergence (beta) independent of the batch size, as in the
    paper. The public PyTorch port sums the cross-entropy over the batch but averages the divergence. Its beta of 10 is
    therefore a weight of 10 / batch here. The bound is also divided by the number of pixels. That changes no optimum, but
    gives losses and gradients the size of other objectives. Ignored pixels add nothing, and the posterior sees them as
    background. The only penalty on the weights is the optimiser's.

    The posterior may collapse onto the prior before the decoder learns to use z. All samples are then equal. Two remedies
    change the penalty, but not the logged divergence:

    * Free bits: the penalty is sum_j max(free_bits, KL_j). KL_j is the divergence of latent dimension j, mean over the batch.
      Below the threshold it has no gradient, so that collapse saves nothing.
    * Warm-up: the weight rises linearly from 0 to `kl_weight` in the first steps.

    Attributes:
        kl_weight: weight beta of the divergence.
        free_bits: divergence per latent dimension that is free, in nats.
        kl_warm_up: fraction of the steps in which the weight rises.

    Reference: Kohl et al. 2018 (Probabilistic U-Net), Eq. 4; Kingma et al. 2016 (inverse autoregressive flow; free bits);
    Bowman et al. 2016 and Sønderby et al. 2016 (warm-up).
    """

    kl_weight: float
    free_bits: float = 0.0
    kl_warm_up: float = 0.0

    def phases(self, model: ProbabilisticUNet) -> list[Phase]:
        """Return the only phase. With a warm-up its loss depends on the progress of the training. See `Objective.phases`."""
        return [replace(phase, needs_progress=self.kl_warm_up > 0) for phase in super().phases(model)]

    def loss(
        self, model: ProbabilisticUNet, batch: Batch, rng: np.random.Generator, progress: float = 1.0
    ) -> dict[str, Tensor]:
        """Return the loss with one z from the posterior. See `Objective.loss`.

        Args:
            model: the network in training mode.
            batch: B patches.
            rng: source of z.
            progress: number of this step as a fraction of all steps.

        Returns:
            "loss"; "cross_entropy", per pixel; "kl", in nats per image.
        """
        posterior, prior = model.posterior(batch.image, batch.known_mask), model.prior(batch.image)
        logits = model.decode(model.features(batch.image), _sample_latent(posterior, rng)).float()
        cross_entropy = (losses.pixel_cross_entropy(logits, batch.mask) * batch.loss_mask).mean()
        kl_of_dimensions = kl_divergence(posterior.base_dist, prior.base_dist).mean(dim=0)
        penalty = kl_of_dimensions.clamp(min=self.free_bits).sum()
        weight = self.kl_weight * (min(1.0, progress / self.kl_warm_up) if self.kl_warm_up else 1.0)
        pixels = batch.loss_mask[0].numel()
        loss = cross_entropy + weight * penalty / pixels
        return {"loss": loss, "cross_entropy": cross_entropy, "kl": kl_of_dimensions.sum()}

    def estimates(self, model: ProbabilisticUNet, batch: Batch, rng: np.random.Generator) -> list[Estimate]:
        """Return the probabilities of the prior's mean and of two samples from it. See `Objective.estimates`."""
        features, prior = model.features(batch.image), model.prior(batch.image)
        vectors = [prior.mean, _sample_latent(prior, rng), _sample_latent(prior, rng)]
        return [Estimate(class_probabilities(model.decode(features, z).float())) for z in vectors]


def _sample_latent(gaussian: Independent, rng: np.random.Generator) -> Tensor:
    """Sample z (B, latent) by the reparameterisation trick, so that gradients flow through it."""
    mean = gaussian.mean
    return mean + gaussian.stddev * sample_normal(rng, len(mean), mean.shape[1:], mean.device)
