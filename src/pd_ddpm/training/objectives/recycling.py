"""Masks from which x_t is made in training: the ground truth, the denoiser's own estimate (recycling), or a pre-segmentation.

x_t of the ground truth contains the answer, while x_t of a reverse chain contains errors of the network or of the
pre-segmentation. A network that has seen only the former copies the errors. One that has seen only its own ignores x_t, and its
ensemble members are alike. Shares between 0 and 1 mix the masks in each batch.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from pd_ddpm.diffusion.denoiser import Denoiser
from pd_ddpm.training.objectives.noise import diffuse_mask, sample_normal
from pd_ddpm.training.patches import Batch, to_device


@dataclass(frozen=True)
class Recycling:
    """Which masks of a batch are replaced before they are diffused, and by which estimate.

    Attributes:
        share: probability of each row to be recycled.
        estimate: "hard": the estimate, thresholded at one half; "soft": its probabilities; "sampled": a Bernoulli draw of each
            pixel.
        source: what the estimate is made from. "noise": pure noise at T, with which a chain begins; "next": the ground truth,
            diffused to t + 1.
        presegmented_share: probability of each row to be made from its pre-segmentation. If both shares are 0, no random number
            is drawn.

    Reference: Fu et al. 2024 (recycling), whose share is 1 and whose estimate is soft. The share is ours, and so is the pure
    noise: theirs at T contains the ground truth, faintly.
    """

    share: float = 0.0
    estimate: Literal["hard", "soft", "sampled"] = "hard"
    source: Literal["noise", "next"] = "noise"
    presegmented_share: float = 0.0

    def replace_masks(self, model: Denoiser, batch: Batch, t: Tensor, t_max: int, rng: np.random.Generator) -> Tensor:
        """Return the masks of a batch, with the network's own estimate in recycled rows and some pre-segmentations.

        No gradient flows through the estimate. The network stays in training mode: with dropout, errors of the estimate then
        vary between steps, and the next pass sees the same kind of network.

        Args:
            model: the denoiser, which predicts the mask.
            batch: B patches, with pre-segmentations if they have a share.
            t: (B,), timesteps that the masks will be diffused to.
            t_max: largest timestep that is trained. A row at t_max takes "next" from t_max itself.
            rng: source of the rows, then of the noise, then of sampled estimates.

        Returns:
            (B, 1, *S), fraction of lesion in [0, 1].

        Raises:
            ValueError: the network predicts the noise.
        """
        if not self.share + self.presegmented_share:
            return batch.mask
        if model.predicts != "mask":
            key = "recycled_share" if self.share else "presegmented_share"
            raise ValueError(f"`{key}` needs `predicts: mask`: the target is the ground truth, not the noise in x_t.")
        choice, masks = rng.random(len(batch.mask)), batch.mask
        is_presegmented = (self.share <= choice) & (choice < self.share + self.presegmented_share)
        if is_presegmented.any():
            rows = to_device(np.flatnonzero(is_presegmented), masks.device)
            masks = masks.index_copy(0, rows, batch.presegmentation[rows])
        recycled = np.flatnonzero(choice < self.share)
        if not len(recycled):
            return masks
        rows = to_device(recycled, masks.device)
        with torch.no_grad():
            estimate = self._estimate(model, Batch(*(part[rows] for part in batch[:3])), t[rows], t_max, rng)
        return masks.index_copy(0, rows, estimate)

    def _estimate(self, model: Denoiser, batch: Batch, t: Tensor, t_max: int, rng: np.random.Generator) -> Tensor:
        """Return an estimate of every mask. The arguments are those of `replace_masks`."""
        if self.source == "noise":
            source_t = torch.full_like(t, model.schedule.T)
            x = sample_normal(rng, len(batch.mask), batch.mask.shape[1:], batch.mask.device)
        else:
            source_t = (t + 1).clamp(max=t_max)
            x, _ = diffuse_mask(model, batch.mask, source_t, rng)
        probability = model.output(x, batch.image, source_t).sigmoid()
        if self.estimate == "soft":
            return probability
        if self.estimate == "hard":
            return (probability >= 0.5).float()
        uniform = to_device(rng.random(probability.shape, dtype=np.float32), probability.device)
        return (uniform < probability).float()
