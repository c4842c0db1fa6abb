"""The reverse process: a walk from x at the first of some times down to the clean mask at time 0.

A sampler does not know where x came from or what the network predicts. Truncation (T' < T) is a list of times that
starts lower, respacing one that has fewer entries.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal

from torch import Tensor

from pd_ddpm.diffusion.noise import MemberNoise
from pd_ddpm.diffusion.schedule import Schedule

Denoise = Callable[[Tensor, int], Tensor]  # x_t (N, C, *S) and its time t -> estimate of x0 (N, C, *S)


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
        of_x0, of_x_t, spread = schedule.posterior(t, s)
        if s > 0 and variance == "large":
            spread = schedule.jump_variance(t, s)
        x = _step(denoise, x, t, (of_x0, of_x_t), math.sqrt(spread), noise)
    return x


def ddim(denoise: Denoise, x: Tensor, times: Sequence[int], schedule: Schedule, noise: MemberNoise, eta: float = 0.0) -> Tensor:
    """DDIM along the times (Song et al. 2021, Eq. 12). x: (N, C, *S), times end in 0; returns the estimate of x0.

    eta 0 is deterministic after the start; eta 1 has the marginals and the variance of ancestral "small" sampling.
    """
    for t, s in pairwise(times):
        signal_t, signal_s = schedule.signal(t), schedule.signal(s)
        spread = eta**2 * (1 - signal_s) / (1 - signal_t) * (1 - signal_t / signal_s)
        of_x_t = math.sqrt(max(1 - signal_s - spread, 0.0) / (1 - signal_t))  # by way of the noise that x_t and x0 mean
        weights = (math.sqrt(signal_s) - of_x_t * math.sqrt(signal_t), of_x_t)
        x = _step(denoise, x, t, weights, math.sqrt(spread), noise)
    return x


def _step(denoise: Denoise, x_t: Tensor, t: int, weights: tuple[float, float], deviation: float, noise: MemberNoise) -> Tensor:
    """weights[0] x0 + weights[1] x_t + deviation * noise, where x0 is what `denoise` makes of x_t.

    Nothing in here waits for a GPU, and beside the network nothing but the noise takes new memory.
    """
    if deviation > 0:
        noise.begin(x_t.shape[1:], x_t.device)
    x0 = denoise(x_t, t)
    if deviation > 0:
        return noise.draw(x_t.shape[1:], x_t.device).mul_(deviation).add_(x0, alpha=weights[0]).add_(x_t, alpha=weights[1])
    return (weights[0] * x0).add_(x_t, alpha=weights[1])
