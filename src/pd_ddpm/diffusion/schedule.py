"""The forward process: how much of the mask is left after t noising steps, and what lies between two of them.

Time t = 0 is the clean mask and t = T the last step, as in the PD-DDPM paper, so `alpha_bar` has T + 1 entries and
"diffuse T' times, then denoise T' times" (Eq. 4) cannot be off by one.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

CPU = torch.device("cpu")  # a schedule has numbers even where a network without any is built, on the device "meta"


@dataclass(frozen=True)
class Schedule:
    """Signal level of the forward chain.

    alpha_bar: (T + 1,) float64, decreasing from alpha_bar[0] = 1; x_t = sqrt(alpha_bar[t]) x_0 + sqrt(1 - alpha_bar[t]) noise.
    """

    alpha_bar: Tensor
    _roots: dict[tuple, tuple[Tensor, Tensor]] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def T(self) -> int:
        return len(self.alpha_bar) - 1

    @classmethod
    def from_betas(cls, beta: Tensor) -> "Schedule":
        """From the step variances beta[0..T-1] of times 1..T (PD-DDPM Eq. 1)."""
        return cls(torch.cat([torch.ones(1, dtype=torch.float64, device=beta.device), torch.cumprod(1 - beta, dim=0)]))

    @classmethod
    def cosine(cls, T: int = 1000, offset: float = 0.008, largest_beta: float = 0.999) -> "Schedule":
        """Nichol & Dhariwal 2021, Eq. 17; the clipping of beta is theirs too and alpha_bar follows from the clipped ones."""
        angle = (torch.arange(T + 1, dtype=torch.float64, device=CPU) / T + offset) / (1 + offset) * math.pi / 2
        level = torch.cos(angle) ** 2
        return cls.from_betas((1 - level[1:] / level[:-1]).clamp(max=largest_beta))

    @classmethod
    def linear(cls, T: int = 1000) -> "Schedule":
        """Ho et al. 2020, Sec. 4: beta from 1e-4 to 0.02 at T = 1000, scaled so that other T end at the same noise."""
        scale = 1000 / T
        beta = torch.linspace(1e-4 * scale, 0.02 * scale, T, dtype=torch.float64, device=CPU)
        return cls.from_betas(beta.clamp(max=0.999))

    def diffuse(self, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """Draw from q(x_t | x_0), the closed form of PD-DDPM Eq. 1.

        x0, noise: (B, C, *S); t: (B,) integers in 0..T. Returns (B, C, *S).
        """
        signal, noise_level = self.roots(t, x0)
        return torch.addcmul(signal * x0, noise_level, noise)

    def roots(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """sqrt(alpha_bar) and sqrt(1 - alpha_bar) at times t (B,), each (B, 1, ...) beside `like` (B, ...) and of its type.

        They are computed in float64 and kept on each device, so that no step waits for a copy.
        """
        key = (like.device, like.dtype)
        if key not in self._roots:
            with torch.inference_mode(False):  # the training may come to use them, too
                roots = (self.alpha_bar.sqrt(), (1 - self.alpha_bar).sqrt())
                self._roots[key] = tuple(root.to(*key) for root in roots)
        return tuple(root[t].reshape(-1, *[1] * (like.ndim - 1)) for root in self._roots[key])

    def posterior(self, t: int, s: int) -> tuple[float, float, float]:
        """q(x_s | x_t, x_0) for any 0 <= s < t: the weights of x_0 and x_t in its mean, and its variance.

        (Ho et al. 2020, Eq. 7, for jumps.) At s = 0 they are 1, 0 and 0, so the last reverse step is no special case.
        """
        signal_t, signal_s = self.signal(t), self.signal(s)
        kept = signal_t / signal_s
        of_x0 = math.sqrt(signal_s) * (1 - kept) / (1 - signal_t)
        of_x_t = math.sqrt(kept) * (1 - signal_s) / (1 - signal_t)
        return of_x0, of_x_t, (1 - kept) * (1 - signal_s) / (1 - signal_t)

    def jump_variance(self, t: int, s: int) -> float:
        """Variance of q(x_t | x_s): beta_t when s = t - 1."""
        return 1 - self.signal(t) / self.signal(s)

    def signal(self, t: int) -> float:
        """alpha_bar[t] as a Python number."""
        return self._numbers[t]

    @cached_property
    def _numbers(self) -> list[float]:
        return self.alpha_bar.tolist()


SCHEDULES: dict[str, Callable[[int], Schedule]] = {"cosine": Schedule.cosine, "linear": Schedule.linear}
