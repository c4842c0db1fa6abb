"""Random noise and noised masks for a training batch."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from pd_ddpm.diffusion.denoiser import Denoiser
from pd_ddpm.training.patches import to_device


def diffuse_mask(model: Denoiser, mask: Tensor, t: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Sample x_t and return it with the noise in it.

    Args:
        model: gives the schedule and the mask coding.
        mask: (B, C, *S), fraction of lesion in [0, 1].
        t: (B,), timesteps.
        rng: source of the noise.

    Returns:
        x_t and its noise, (B, C, *S) each.

    Reference: Ho et al. 2020 (DDPM), Eq. 4.
    """
    noise = sample_normal(rng, len(mask), mask.shape[1:], mask.device)
    return model.schedule.diffuse(model.coding.encode(mask), t, noise), noise


def sample_normal(rng: np.random.Generator, rows: int, shape: Sequence[int], device: torch.device) -> Tensor:
    """Sample standard normal noise for a batch.

    Args:
        rng: source of the noise.
        rows: size of the batch.
        shape: shape of one row.
        device: where the noise is needed.

    Returns:
        (rows, *shape) float32 on the device.
    """
    return to_device(rng.standard_normal((rows, *shape), dtype=np.float32), device)
