"""Noise that belongs to a member, not to a batch.

Every member of an ensemble has its own stream, named by what it is for: (seed, case, slice, member). It is drawn on the
CPU. Batch size, order, sharding and device therefore change no sample.
"""

import hashlib
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

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
        self._begun: Future[Tensor] | None = None

    def __len__(self) -> int:
        return len(self.streams)

    def draw(self, shape: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
        """The next standard normal noise of every member: (N, *shape) float32 on the device; the caller may write into it."""
        if self._begun is None:
            drawn = self._next(np.random.Generator.standard_normal, shape)
        else:
            drawn, self._begun = self._begun.result(), None
        # From pinned memory the copy waits for nothing; PyTorch does not reuse that memory before it is done.
        return drawn.to(device, non_blocking=True)

    def begin(self, shape: Sequence[int], device: torch.device) -> None:
        """Say that the next noise is `draw(shape, device)`; it is then drawn beside what is done meanwhile.

        This is for a GPU, whose work a thread of the CPU need not share its core with. It changes no number.
        """
        if device.type == "cuda":
            self._begun = _BESIDE.submit(self._next, np.random.Generator.standard_normal, shape, pinned=True)

    def draw_uniform(self, shape: Sequence[int]) -> Tensor:
        """The next noise of every member, uniform on [0, 1) in steps of 2^-24: (N, *shape) float32 on the CPU.

        It takes a small part of the time of normal noise.
        """
        return self._next(np.random.Generator.random, shape)

    def _next(self, distribution: Callable[..., np.ndarray], shape: Sequence[int], pinned: bool = False) -> Tensor:
        noise = torch.empty((len(self.streams), *shape), pin_memory=pinned)
        for row, generator in zip(noise.numpy(), self.streams, strict=True):
            distribution(generator, dtype=np.float32, out=row)
        return noise


_BESIDE = ThreadPoolExecutor(1, "noise")
