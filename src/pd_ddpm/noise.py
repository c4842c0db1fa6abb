"""Noise that belongs to a member, not to a batch.

Every member of an ensemble has its own stream, named by what it is for: (seed, case, slice, member). It is drawn on the
CPU. Batch size, order, sharding and device therefore change no sample.
"""

import hashlib
from collections.abc import Callable, Hashable, Sequence

import numpy as np
import torch
from torch import Tensor


def stream(*name: Hashable) -> np.random.Generator:
    """The random stream of this name; equal names give equal numbers on every machine."""
    digest = hashlib.sha256(repr(name).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "big"))


class MemberNoise:
    """Noise for N members, each from its own stream.

    names: N names, for instance ("seed 0", "Utrecht-3", 17, 2) for member 2 of slice 17.
    """

    def __init__(self, names: Sequence[tuple]):
        self.streams = [stream(*name) for name in names]

    def __len__(self) -> int:
        return len(self.streams)

    def draw(self, shape: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
        """The next standard normal noise of every member: (N, *shape) float32 on the device."""
        return self._next(np.random.Generator.standard_normal, shape).to(device)

    def draw_uniform(self, shape: Sequence[int]) -> Tensor:
        """The next noise of every member, uniform on [0, 1) in steps of 2^-24: (N, *shape) float32 on the CPU.

        It takes a small part of the time of normal noise.
        """
        return self._next(np.random.Generator.random, shape)

    def _next(self, distribution: Callable[..., np.ndarray], shape: Sequence[int]) -> Tensor:
        noise = np.empty((len(self.streams), *shape), dtype=np.float32)
        for row, generator in zip(noise, self.streams, strict=True):
            distribution(generator, dtype=np.float32, out=row)
        return torch.from_numpy(noise)
