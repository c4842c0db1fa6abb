"""Which timesteps a denoiser is trained at: all or a few, equally often, or those with large losses more often."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class SpreadTimesteps:
    """A few timesteps from 1 to t_max, evenly spaced: those of a chain of as many steps with the spacing "linspace".

    Attributes:
        t_max: the last one.
        count: their number, at least 2.
    """

    t_max: int
    count: int

    def at(self, number: np.ndarray | Tensor) -> np.ndarray | Tensor:
        """Return the timesteps with these numbers, counted from 1."""
        position = (self.t_max - 1) * (number - 1)
        if isinstance(position, Tensor):
            return 1 + (position.double() / (self.count - 1)).round().long()
        return 1 + (position / (self.count - 1)).round().astype(np.int64)

    def number(self, t: np.ndarray | Tensor) -> np.ndarray | Tensor:
        """Return the numbers of these timesteps, counted from 1."""
        position = (t - 1) * (self.count - 1)
        if isinstance(position, Tensor):
            return 1 + (position.double() / (self.t_max - 1)).round().long()
        return 1 + (position / (self.t_max - 1)).round().astype(np.int64)

    def next(self, t: Tensor) -> Tensor:
        """Return for each timestep the one that precedes it in a chain, which is larger; t_max for t_max."""
        return self.at((self.number(t) + 1).clamp(max=self.count))


class TimeSampler(Protocol):
    """Source of the timesteps of a training step."""

    def sample(self, rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Sample timesteps in 1..t_max.

        Args:
            rng: source of the random numbers.
            count: number of timesteps.

        Returns:
            (count,) integers, and (count,) weights of their losses; None if all weights are 1.
        """
        ...

    def update(self, t: Iterable[int], losses: Iterable[float]) -> None:
        """Take note of the losses at these timesteps."""
        ...


class UniformTimes:
    """Every timestep of 1..t_max equally often."""

    def __init__(self, t_max: int):
        self.t_max = t_max

    def sample(self, rng: np.random.Generator, count: int) -> tuple[np.ndarray, None]:
        """Return `count` timesteps. See `TimeSampler.sample`."""
        return rng.integers(1, self.t_max + 1, count), None

    def update(self, t: Iterable[int], losses: Iterable[float]) -> None:
        """Ignore the losses."""


class ImportanceTimes:
    """Timesteps with a probability that is proportional to the root of their mean squared loss.

    The mean squared loss of a timestep is an exponential moving average over the losses that were seen there. A small share of
    the timesteps is sampled uniformly, so that none is lost. Until each timestep has been seen ten times, half of the samples
    prefer those that are missing.

    Args:
        t_max: largest timestep.
        weights: "fixed": the weight of a loss is 1 / (t_max p), with which the expected loss is that of uniform timesteps;
            "as_released": it is t_max p, which counts large losses twice. There it is 1 until every timestep has been seen ten
            times, and all samples are of missing ones.

    Reference: Nichol & Dhariwal 2021 (Improved DDPM), Sec. 3.3; the released code of Fu et al. 2024.
    """

    seen_often = 10
    decay = 0.9
    uniform_share = 0.01

    def __init__(self, t_max: int, weights: Literal["fixed", "as_released"] = "fixed"):
        self.t_max = t_max
        self.weights = weights
        self.counts = np.zeros(t_max, dtype=np.int64)
        self.squares = np.zeros(t_max)

    @property
    def is_warm(self) -> bool:
        """Whether every timestep has been seen often enough."""
        return bool(self.counts.min() >= self.seen_often)

    def probabilities(self) -> np.ndarray:
        """Return the probability of each timestep 1..t_max, (t_max,)."""
        preference = np.sqrt(self.squares) if self.is_warm else np.maximum(self.seen_often - self.counts, 0.0)
        total = preference.sum()
        preference = preference / total if total > 0 else np.full(self.t_max, 1 / self.t_max)
        uniform_share = self.uniform_share
        if not self.is_warm:
            uniform_share = 0.5 if self.weights == "fixed" else 0.0
        return (1 - uniform_share) * preference + uniform_share / self.t_max

    def sample(self, rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Return `count` timesteps and the weights of their losses. See `TimeSampler.sample`."""
        probabilities = self.probabilities()
        chosen = rng.choice(self.t_max, count, p=probabilities)
        expected = self.t_max * probabilities[chosen]
        if self.weights == "fixed":
            return chosen + 1, 1 / expected
        return chosen + 1, expected if self.is_warm else np.ones(count)

    def update(self, t: Iterable[int], losses: Iterable[float]) -> None:
        """Add losses to the averages of their timesteps, one after the other."""
        for timestep, loss in zip(t, losses, strict=True):
            self.squares[timestep - 1] += (1 - self.decay) * (loss**2 - self.squares[timestep - 1])
            self.counts[timestep - 1] += 1

    def state_dict(self) -> dict[str, Any]:
        """Return what the saved state of a training holds."""
        return {"counts": torch.from_numpy(self.counts.copy()), "squares": torch.from_numpy(self.squares.copy())}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a state that `state_dict` returned."""
        self.counts, self.squares = state["counts"].numpy().copy(), state["squares"].numpy().copy()


class SpreadTimes:
    """A few timesteps only, which another sampler chooses by their numbers.

    Args:
        timesteps: the timesteps.
        inner: sampler of numbers from 1. The last timestep is never sampled if it stops one number before it.
    """

    def __init__(self, timesteps: SpreadTimesteps, inner: UniformTimes | ImportanceTimes):
        self.timesteps, self.inner = timesteps, inner

    def sample(self, rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Return `count` timesteps and the weights of their losses. See `TimeSampler.sample`."""
        numbers, weights = self.inner.sample(rng, count)
        return self.timesteps.at(numbers), weights

    def update(self, t: Iterable[int], losses: Iterable[float]) -> None:
        """Let the other sampler take note of the losses."""
        self.inner.update(self.timesteps.number(np.asarray(list(t))).tolist(), losses)
