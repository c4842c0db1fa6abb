"""The forward process: how much of the mask remains at each timestep, and the Gaussian steps between timesteps.

Timestep t = 0 is the clean mask and t = T is the noisiest, as in the PD-DDPM paper. `alpha_bar` therefore has T + 1 entries.
"Diffuse to T', then take T' reverse steps" (Eq. 4) needs no index shift.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

CPU = torch.device("cpu")  # set explicitly, since a network without weights is built inside `torch.device("meta")`


@dataclass(frozen=True)
class Schedule:
    """Noise schedule of the forward process, x_t = sqrt(alpha_bar[t]) x_0 + sqrt(1 - alpha_bar[t]) noise.

    Attributes:
        alpha_bar: (T + 1,) float64, decreasing from alpha_bar[0] = 1: the share of the signal in the variance of x_t.

    Reference: PD-DDPM, Sec. 2.1, Eq. 1; Ho et al. 2020 (DDPM), Eq. 4.
    """

    alpha_bar: Tensor
    _coefficients: dict[tuple, tuple[Tensor, Tensor]] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def T(self) -> int:
        """Number of noising steps."""
        return len(self.alpha_bar) - 1

    @classmethod
    def from_betas(cls, beta: Tensor) -> "Schedule":
        """Return the schedule with the variances `beta` (T,) of the single steps 1 to T.

        Reference: PD-DDPM, Sec. 2.1, Eq. 1.
        """
        return cls(torch.cat([torch.ones(1, dtype=torch.float64, device=beta.device), torch.cumprod(1 - beta, dim=0)]))

    @classmethod
    def cosine(cls, T: int = 1000, offset: float = 0.008, max_beta: float = 0.999) -> "Schedule":
        """Return the cosine schedule; alpha_bar is computed from the clipped betas.

        Args:
            T: number of noising steps.
            offset: the paper's s, which keeps the first betas from being too small.
            max_beta: upper limit of every beta, as in the paper.

        Returns:
            The schedule.

        Reference: Nichol & Dhariwal 2021 (Improved DDPM), Sec. 3.2, Eq. 17.
        """
        angle = (torch.arange(T + 1, dtype=torch.float64, device=CPU) / T + offset) / (1 + offset) * math.pi / 2
        level = torch.cos(angle) ** 2
        return cls.from_betas((1 - level[1:] / level[:-1]).clamp(max=max_beta))

    @classmethod
    def linear(cls, T: int = 1000) -> "Schedule":
        """Return the linear schedule: beta rises from 1e-4 to 0.02 at T = 1000.

        For another T the betas are scaled by 1000 / T, so that x_T is about as noisy.

        Reference: Ho et al. 2020 (DDPM), Sec. 4.
        """
        scale = 1000 / T
        beta = torch.linspace(1e-4 * scale, 0.02 * scale, T, dtype=torch.float64, device=CPU)
        return cls.from_betas(beta.clamp(max=0.999))

    @classmethod
    def linear_unscaled(cls, T: int = 1000) -> "Schedule":
        """Return the linear schedule whose beta rises from 1e-4 to 0.02 for every T. With small T, x_T is not pure noise.

        Reference: the released code of Fu et al. 2024 (recycling), where T is 1001.
        """
        return cls.from_betas(torch.linspace(1e-4, 0.02, T, dtype=torch.float64, device=CPU))

    def diffuse(self, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """Return x_t, a sample of q(x_t | x_0).

        Args:
            x0: (B, C, *S), the clean mask in mask coding.
            t: (B,) integers in 0..T.
            noise: (B, C, *S), standard normal.

        Returns:
            x_t: (B, C, *S).

        Reference: PD-DDPM, Sec. 2.1, Eq. 1, in closed form; Ho et al. 2020 (DDPM), Eq. 4.
        """
        signal, noise_level = self.coefficients(t, x0)
        return torch.addcmul(signal * x0, noise_level, noise)

    def coefficients(self, t: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
        """Return the factors of x_0 and of the noise in x_t, sqrt(alpha_bar) and sqrt(1 - alpha_bar).

        They are computed in float64 and cached per device and dtype, so that no step waits for a copy.

        Args:
            t: (B,) integers in 0..T.
            reference: (B, ...); the factors take its device and dtype, and broadcast with it.

        Returns:
            Two tensors (B, 1, ...) with as many dimensions as `reference`.
        """
        key = (reference.device, reference.dtype)
        if key not in self._coefficients:
            # Tensors made in inference mode could not be used in a training that follows in the same process.
            with torch.inference_mode(False):
                factors = (self.alpha_bar.sqrt(), (1 - self.alpha_bar).sqrt())
                self._coefficients[key] = tuple(factor.to(*key) for factor in factors)
        return tuple(factor[t].reshape(-1, *[1] * (reference.ndim - 1)) for factor in self._coefficients[key])

    def posterior(self, t: int, s: int) -> tuple[float, float, float]:
        """Return the mean's weights and the variance of q(x_s | x_t, x_0) for any 0 <= s < t.

        At s = 0 the result is (1, 0, 0), so the last reverse step needs no special case.

        Args:
            t: timestep of x_t.
            s: timestep to jump to; t - 1 in the paper.

        Returns:
            Weight of x_0 in the mean, weight of x_t in the mean, variance.

        Reference: Ho et al. 2020 (DDPM), Sec. 2, Eqs. 6 and 7, extended to jumps of several steps.
        """
        signal_t, signal_s = self.signal(t), self.signal(s)
        signal_ratio = signal_t / signal_s
        x0_weight = math.sqrt(signal_s) * (1 - signal_ratio) / (1 - signal_t)
        x_t_weight = math.sqrt(signal_ratio) * (1 - signal_s) / (1 - signal_t)
        return x0_weight, x_t_weight, (1 - signal_ratio) * (1 - signal_s) / (1 - signal_t)

    def posterior_mean(self, x0: Tensor, x_t: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """Return the mean of q(x_s | x_t, x_0) for rows with timesteps of their own.

        Args:
            x0: (B, C, *S), the clean masks or estimates of them.
            x_t: (B, C, *S), the noisy masks.
            t: (B,), their timesteps.
            s: (B,), timesteps 0 <= s <= t to jump to; where s = t, the mean is x_t.

        Returns:
            (B, C, *S).

        Reference: see `posterior`.
        """
        alpha_bar = self.alpha_bar.to(t.device)
        signal_t, signal_s = (alpha_bar[times].reshape(-1, *[1] * (x0.ndim - 1)) for times in (t, s))
        x0_weight = signal_s.sqrt() * (1 - signal_t / signal_s) / (1 - signal_t)
        x_t_weight = (signal_t / signal_s).sqrt() * (1 - signal_s) / (1 - signal_t)
        return x0_weight.to(x0.dtype) * x0 + x_t_weight.to(x0.dtype) * x_t

    def jump_variance(self, t: int, s: int) -> float:
        """Return the variance of q(x_t | x_s) for 0 <= s < t, which is beta_t if s = t - 1."""
        return 1 - self.signal(t) / self.signal(s)

    def signal(self, t: int) -> float:
        """Return alpha_bar[t] as a Python float."""
        return self._alpha_bar_floats[t]

    @cached_property
    def _alpha_bar_floats(self) -> list[float]:
        return self.alpha_bar.tolist()


SCHEDULES: dict[str, Callable[[int], Schedule]] = {
    "cosine": Schedule.cosine,
    "linear": Schedule.linear,
    "linear_unscaled": Schedule.linear_unscaled,
}
