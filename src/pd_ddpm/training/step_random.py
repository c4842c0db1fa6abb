"""Random numbers of a training step on a GPU.

Both classes have the methods of NumPy's generator that losses use. Integers come from the stream of the step, as on the CPU.
Normal noise is sampled on the device, since the CPU needs longer for it than a GPU for the whole step.
"""

from collections.abc import Sequence
from typing import NamedTuple, NoReturn

import numpy as np
import torch
from torch import Tensor

from pd_ddpm.training.patches import to_device


class DeviceRandom(np.random.Generator):
    """NumPy's generator, except that normal noise is sampled on a device, by a generator of its own.

    Args:
        rng: generator of the step, which is continued.
        seed: seed of the noise.
        device: where the noise is sampled.
    """

    def __init__(self, rng: np.random.Generator, seed: int, device: torch.device):
        super().__init__(rng.bit_generator)
        self.device = device
        self.noise = torch.Generator(device).manual_seed(seed)

    def standard_normal(self, size: Sequence[int], dtype: type = np.float32) -> Tensor:
        """Return standard normal noise of this shape, float32 on the device."""
        return torch.empty(tuple(size), device=self.device).normal_(generator=self.noise)


class ChangingStepError(RuntimeError):
    """Raised if a loss draws other random numbers than before, so that its step cannot be replayed; the message says which."""


class _Draw(NamedTuple):
    method: str
    arguments: tuple
    values: Tensor

    def sample(self, source: DeviceRandom) -> None:
        self.values.copy_(to_device(getattr(source, self.method)(*self.arguments), self.values.device))


class ReplayedRandom:
    """Random numbers in tensors that stay where they are, as a CUDA graph needs them.

    The first step records what its loss draws. `renew` samples the numbers of another step into the same tensors. Losses may
    draw integers and normal noise only, and the same in each step.
    """

    def __init__(self) -> None:
        self.source: DeviceRandom | None = None
        self.draws: list[_Draw] = []
        self.num_used = 0
        self.is_recorded = False

    def renew(self, source: DeviceRandom) -> None:
        """Sample the numbers of a step; `source` is its generator."""
        self.is_recorded = self.source is not None
        self.source = source
        for draw in self.draws:
            draw.sample(source)
        self.rewind()

    def rewind(self) -> None:
        """Begin with the first number again."""
        self.num_used = 0

    def check_complete(self) -> None:
        """Raise ChangingStepError if fewer numbers were drawn than in the first step."""
        if self.num_used < len(self.draws):
            raise ChangingStepError("its loss draws fewer random numbers than in earlier steps")

    def integers(self, low: int, high: int, size: int) -> Tensor:
        """Return integers in low..high - 1, (size,) on the device."""
        return self._next("integers", (low, high, size))

    def standard_normal(self, size: Sequence[int], dtype: type = np.float32) -> Tensor:
        """Return standard normal noise of this shape, float32 on the device."""
        return self._next("standard_normal", (tuple(size),))

    def _next(self, method: str, arguments: tuple) -> Tensor:
        if self.num_used == len(self.draws) and not self.is_recorded:
            values = to_device(getattr(self.source, method)(*arguments), self.source.device)
            self.draws.append(_Draw(method, arguments, values))
        draw = self.draws[self.num_used] if self.num_used < len(self.draws) else None
        if draw is None or (draw.method, draw.arguments) != (method, arguments):
            raise ChangingStepError(f"its loss draws `{method}` with other arguments than in earlier steps")
        self.num_used += 1
        return draw.values

    def __getattr__(self, name: str) -> NoReturn:
        raise ChangingStepError(f"its loss draws `{name}`, which may differ between steps")
