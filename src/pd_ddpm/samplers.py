"""The reverse process: a walk from x at the first of some times down to the clean mask at time 0.

A sampler does not know where x came from or what the network predicts. Truncation (T' < T) is a list of times that
starts lower, respacing one that has fewer entries.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from pd_ddpm.noise import MemberNoise
from pd_ddpm.schedule import Schedule

Denoise = Callable[[Tensor, Tensor], Tensor]  # x_t (N, C, *S), t (N,) -> estimate of x0 (N, C, *S)


def reverse_times(t_start: int, steps: int) -> list[int]:
    """t_start = t_0 > t_1 > ... > t_steps = 0, as evenly spaced as whole numbers allow.

    Raises ValueError unless 1 <= steps <= t_start.
    """
    if not 1 <= steps <= t_start:
        raise ValueError(f"a chain from t = {t_start} takes 1 to {t_start} steps, not {steps}")
    return [round(t_start * left / steps) for left in range(steps, -1, -1)]


def ancestral(
    denoise: Denoise,
    x: Tensor,
    times: Sequence[int],
    schedule: Schedule,
    noise: MemberNoise,
    variance: Literal["large", "small"],
) -> Tensor:
    """Ancestral sampling of p(x_s | x_t) along the times (PD-DDPM Eqs. 2 and 4). x: (N, C, *S), times end in 0.

    variance "small" is that of the posterior, "large" that of the forward jump (beta_t for single steps); these are the two
    of Ho et al. 2020, Sec. 3.2. The last step adds no noise in either. Returns the estimate of x0, (N, C, *S).
    """
    for t, s in pairwise(times):
        x0 = denoise(x, torch.full((len(x),), t, device=x.device))
        x, spread = schedule.posterior(x0, x, t, s)
        if s > 0:
            if variance == "large":
                spread = schedule.jump_variance(t, s)
            x = x + math.sqrt(spread) * noise.draw(x.shape[1:], x.device)
    return x


def ddim(denoise: Denoise, x: Tensor, times: Sequence[int], schedule: Schedule, noise: MemberNoise, eta: float = 0.0) -> Tensor:
    """DDIM along the times (Song et al. 2021, Eq. 12). x: (N, C, *S), times end in 0; returns the estimate of x0.

    eta 0 is deterministic after the start; eta 1 has the marginals and the variance of ancestral "small" sampling.
    """
    for t, s in pairwise(times):
        x0 = denoise(x, torch.full((len(x),), t, device=x.device))
        signal_t, signal_s = schedule.signal(t), schedule.signal(s)
        predicted_noise = (x - math.sqrt(signal_t) * x0) / math.sqrt(1 - signal_t)
        spread = eta**2 * (1 - signal_s) / (1 - signal_t) * (1 - signal_t / signal_s)
        x = math.sqrt(signal_s) * x0 + math.sqrt(max(1 - signal_s - spread, 0.0)) * predicted_noise
        if spread > 0:
            x = x + math.sqrt(spread) * noise.draw(x.shape[1:], x.device)
    return x
