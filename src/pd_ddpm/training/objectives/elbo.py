"""What the Probabilistic U-Net is trained on (Kohl et al. 2018, Eq. 4)."""

from dataclasses import dataclass

import numpy as np
from torch import Tensor
from torch.distributions import Independent, kl_divergence
from torch.nn import functional

from pd_ddpm.models.networks.probabilistic_unet import ProbabilisticUNet
from pd_ddpm.training.objectives.base import Objective
from pd_ddpm.training.objectives.noise import normal
from pd_ddpm.training.patches import Batch


@dataclass(frozen=True)
class EvidenceLowerBound(Objective):
    """The negative evidence lower bound of an image: its summed cross-entropy + `kl_weight` * KL(posterior || prior).

    It is averaged over the batch and divided by the pixels of an image. The first keeps the weight of the divergence (beta)
    independent of the batch size, as in the paper; the public PyTorch port sums the cross-entropy over the batch but
    averages the divergence, so that its beta of 10 is a weight of 10 / batch here. The second changes no optimum and makes
    the loss, and so its gradient, as large as that of other objectives. Pixels that do not count add nothing, and the
    posterior sees them as background. There is no penalty on the weights besides the optimiser's.
    """

    kl_weight: float

    def loss(self, model: ProbabilisticUNet, batch: Batch, stream: np.random.Generator) -> dict[str, Tensor]:
        """One draw of z from the posterior. "cross_entropy" is per pixel; "kl" is in nats per image."""
        posterior = model.posterior(batch.image, batch.mask * batch.counted)
        logits = model.decode(model.features(batch.image), _draw(posterior, stream)).float()
        cross_entropy = functional.binary_cross_entropy_with_logits(logits, batch.mask, batch.counted, reduction="none").mean()
        kl = kl_divergence(posterior, model.prior(batch.image)).mean()
        pixels = batch.mask[0].numel()
        return {"loss": cross_entropy + self.kl_weight * kl / pixels, "cross_entropy": cross_entropy, "kl": kl}

    def estimates(self, model: ProbabilisticUNet, batch: Batch, stream: np.random.Generator) -> list[Tensor]:
        """Lesion probabilities of the prior's mean and of two draws from it."""
        features, prior = model.features(batch.image), model.prior(batch.image)
        vectors = [prior.mean, _draw(prior, stream), _draw(prior, stream)]
        return [model.decode(features, z).float().sigmoid() for z in vectors]


def _draw(gaussian: Independent, stream: np.random.Generator) -> Tensor:
    """A draw (B, latent) through which gradients flow, its noise from the stream."""
    centre = gaussian.mean
    return centre + gaussian.stddev * normal(stream, len(centre), centre.shape[1:], centre.device)
