"""Samplers: reverse steps from x at the first of some timesteps down to the clean mask at timestep 0.

A sampler is independent of where x comes from and of what the network predicts. Truncation (T' < T) is a list of timesteps
that starts lower. Respacing is a list with fewer entries.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal

from torch import Tensor

from pd_ddpm.diffusion.noise import MemberNoise
from pd_ddpm.diffusion.schedule import Schedule

StepSpacing = Literal["trailing", "linspace"]
Denoise = Callable[[Tensor, int], Tensor]  # x_t (N, C, *S) and its timestep t -> estimate of x_0 (N, C, *S)


def reverse_times(t_start: int, steps: int, spacing: StepSpacing = "trailing") -> list[int]:
    """Return the timesteps t_start = t_0 > t_1 > ... > t_steps = 0, as evenly spaced as integers allow.

    Args:
        t_start: start timestep T'.
        steps: number of reverse steps.
        spacing: "trailing": all steps are equally long. "linspace": the last step leads from 1 to 0, and those before it are
            equally long. A chain of one step is the same in both.

    Raises:
        ValueError: unless 1 <= steps <= t_start.

    Reference: Lin et al. 2024 (*Common diffusion noise schedules and sample steps are flawed*), Table 2, for both names.
    """
    if not 1 <= steps <= t_start:
        raise ValueError(f"a chain from t = {t_start} takes 1 to {t_start} steps, not {steps}")
    if spacing == "trailing" or steps == 1:
        return [round(t_start * remaining / steps) for remaining in range(steps, -1, -1)]
    return [*(1 + round((t_start - 1) * remaining / (steps - 1)) for remaining in range(steps - 1, -1, -1)), 0]


def ancestral(
    denoise: Denoise,
    x: Tensor,
    times: Sequence[int],
    schedule: Schedule,
    noise: MemberNoise,
    variance: Literal["large", "small"],
) -> Tensor:
    """Sample x_0 by ancestral sampling of p(x_s | x_t) along the timesteps.

    Args:
        denoise: estimates x_0 from x_t and t.
        x: (N, C, *S), the state at times[0].
        times: decreasing timesteps that end in 0.
        schedule: the forward process.
        noise: noise of the N ensemble members; the last step adds none.
        variance: "small" is the variance of the posterior q(x_s | x_t, x_0), with which x_t keeps the noise level of the
            forward process over any jump. "large" is that of the forward jump q(x_t | x_s), which is beta_t for single
            steps. Over a jump from t to s it adds alpha_bar[s] (1 - alpha_bar[t] / alpha_bar[s])^2 / (1 - alpha_bar[t]) to
            the variance of x_s. From T' = 300 in 2 steps (cosine schedule), the standard deviation of the noise at s = 150
            is 1.73 times that of the forward process, and 1.004 times in 300 steps.

    Returns:
        (N, C, *S), the estimate of x_0 in mask coding.

    Reference: PD-DDPM, Eqs. 2 and 4; Ho et al. 2020 (DDPM), Sec. 3.2 (both variances), Algorithm 2.
    """
    noise.prefetch_normal(x.shape[1:], x.device, len(times) - 2)  # all steps but the last
    for t, s in pairwise(times):
        x0_weight, x_t_weight, step_variance = schedule.posterior(t, s)
        if s > 0 and variance == "large":
            step_variance = schedule.jump_variance(t, s)
        x = _step(denoise, x, t, (x0_weight, x_t_weight), math.sqrt(step_variance), noise)
    return x


def ddim(denoise: Denoise, x: Tensor, times: Sequence[int], schedule: Schedule, noise: MemberNoise, eta: float = 0.0) -> Tensor:
    """Sample x_0 by DDIM along the timesteps.

    Args:
        denoise: estimates x_0 from x_t and t.
        x: (N, C, *S), the state at times[0].
        times: decreasing timesteps that end in 0.
        schedule: the forward process.
        noise: noise of the N ensemble members, used if `eta` is above 0.
        eta: 0 is deterministic after the start; 1 has the marginals and the variance of ancestral sampling with "small".

    Returns:
        (N, C, *S), the estimate of x_0 in mask coding.

    Reference: Song et al. 2021 (DDIM), Eqs. 12 and 16.
    """
    noise.prefetch_normal(x.shape[1:], x.device, len(times) - 2 if eta > 0 else 0)
    for t, s in pairwise(times):
        signal_t, signal_s = schedule.signal(t), schedule.signal(s)
        step_variance = eta**2 * (1 - signal_s) / (1 - signal_t) * (1 - signal_t / signal_s)
        # Eq. 12 with the predicted noise written as a function of x_t and x_0.
        x_t_weight = math.sqrt(max(1 - signal_s - step_variance, 0.0) / (1 - signal_t))
        weights = (math.sqrt(signal_s) - x_t_weight * math.sqrt(signal_t), x_t_weight)
        x = _step(denoise, x, t, weights, math.sqrt(step_variance), noise)
    return x


def _step(denoise: Denoise, x_t: Tensor, t: int, weights: tuple[float, float], deviation: float, noise: MemberNoise) -> Tensor:
    """Return weights[0] x_0 + weights[1] x_t + deviation * noise, where x_0 is the estimate of `denoise`.

    No line here waits for a GPU. Apart from the network, only the noise allocates memory.
    """
    x0 = denoise(x_t, t)
    if deviation > 0:
        sample = noise.sample_normal(x_t.shape[1:], x_t.device)
        return sample.mul_(deviation).add_(x0, alpha=weights[0]).add_(x_t, alpha=weights[1])
    return (weights[0] * x0).add_(x_t, alpha=weights[1])
