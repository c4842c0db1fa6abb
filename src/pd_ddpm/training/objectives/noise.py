"""Random noise and noised masks for a training batch."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from pd_ddpm.diffusion.denoiser import Denoiser
from pd_ddpm.runtime.transfer import on_device


def diffused(model: Denoiser, mask: Tensor, t: Tensor, stream: np.random.Generator) -> tuple[Tensor, Tensor]:
    """A draw of x_t for these masks (B, C, *S) and times (B,), and the noise in it."""
    noise = normal(stream, len(mask), mask.shape[1:], mask.device)
    return model.schedule.diffuse(model.coding.encode(mask), t, noise), noise


def normal(stream: np.random.Generator, rows: int, shape: Sequence[int], device: torch.device) -> Tensor:
    """Standard normal noise (rows, *shape) for the rows of a batch, in float32 on the device."""
    return on_device(stream.standard_normal((rows, *shape), dtype=np.float32), device)
