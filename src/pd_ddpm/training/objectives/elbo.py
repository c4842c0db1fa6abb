"""Objective of the Probabilistic U-Net: the evidence lower bound."""

from dataclasses import dataclass

import numpy as np
from torch import Tensor
from torch.distributions import Independent, kl_divergence
from torch.nn import functional

from pd_ddpm.models.networks.probabilistic_unet import ProbabilisticUNet
from pd_ddpm.training.objectives.base import Objective
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

    Reference: Kohl et al. 2018 (Probabilistic U-Net), Eq. 4.
    """

    kl_weight: float

    def loss(self, model: ProbabilisticUNet, batch: Batch, rng: np.random.Generator) -> dict[str, Tensor]:
        """Return the loss with one z from the posterior. See `Objective.loss`.

        Returns:
            "loss"; "cross_entropy", per pixel; "kl", in nats per image.
        """
        posterior = model.posterior(batch.image, batch.mask * batch.loss_mask)
        logits = model.decode(model.features(batch.image), _sample_latent(posterior, rng)).float()
        cross_entropy = functional.binary_cross_entropy_with_logits(
            logits, batch.mask, batch.loss_mask, reduction="none"
        ).mean()
        kl = kl_divergence(posterior, model.prior(batch.image)).mean()
        pixels = batch.mask[0].numel()
        return {"loss": cross_entropy + self.kl_weight * kl / pixels, "cross_entropy": cross_entropy, "kl": kl}

    def estimates(self, model: ProbabilisticUNet, batch: Batch, rng: np.random.Generator) -> list[Tensor]:
        """Return the lesion probabilities of the prior's mean and of two samples from it. See `Objective.estimates`."""
        features, prior = model.features(batch.image), model.prior(batch.image)
        vectors = [prior.mean, _sample_latent(prior, rng), _sample_latent(prior, rng)]
        return [model.decode(features, z).float().sigmoid() for z in vectors]


def _sample_latent(gaussian: Independent, rng: np.random.Generator) -> Tensor:
    """Sample z (B, latent) by the reparameterisation trick, so that gradients flow through it."""
    mean = gaussian.mean
    return mean + gaussian.stddev * sample_normal(rng, len(mean), mean.shape[1:], mean.device)
