"""Noise that belongs to an ensemble member, not to a batch.

Every member has its own random stream, named (method, seed, case, slice, member), and its noise is sampled on the CPU.
Samples therefore do not depend on batch size, order, shards or device.
"""

import hashlib
import math
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

_STEPS_AHEAD = 4  # a slow moment of the threads does not stop the GPU
_BYTES_AHEAD = 2**28  # of pinned memory; 60 members of 128 x 192 pixels need 6 MB for a step


def stream(*name: Hashable) -> np.random.Generator:
    """Return the random stream with this name; equal names give equal numbers on every machine."""
    digest = hashlib.sha256(repr(name).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "big"))


class MemberNoise:
    """Noise for N ensemble members, each from its own stream.

    Args:
        names: N stream names, for instance ("ddpm", 0, "Utrecht-3", 17, 2) for member 2 of slice 17.
    """

    def __init__(self, names: Sequence[tuple]):
        self.streams = [stream(*name) for name in names]
        self._ahead: _NoiseAhead | None = None

    def __len__(self) -> int:
        return len(self.streams)

    def sample_normal(self, shape: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
        """Return the next standard normal noise of every member.

        Args:
            shape: shape of one member's noise.
            device: where the noise is needed.

        Returns:
            (N, *shape) float32 on the device. The caller may overwrite it.
        """
        noise = self._ahead.next() if self._ahead else None
        noise = self._sample(np.random.Generator.standard_normal, shape) if noise is None else noise
        # A copy from pinned memory does not block; PyTorch does not reuse that memory before the copy is done.
        return noise.to(device, non_blocking=True)

    def prefetch_normal(self, shape: Sequence[int], device: torch.device, count: int) -> None:
        """Sample the noise of the next calls, `sample_normal(shape, device)`, in threads while the GPU computes.

        On the CPU this does nothing, since the threads would compete with the network for cores. No number changes. Until all
        of it is used, no other noise may be sampled.

        Args:
            shape: shape of one member's noise.
            device: where the noise will be needed.
            count: number of the calls.
        """
        if device.type == "cuda" and count:
            self._ahead = _NoiseAhead(self.streams, shape, count)

    def sample_uniform(self, shape: Sequence[int]) -> Tensor:
        """Return the next noise of every member, uniform on [0, 1) in steps of 2^-24: (N, *shape) float32 on the CPU.

        Uniform noise costs a small part of the time of normal noise.
        """
        return self._sample(np.random.Generator.random, shape)

    def _sample(self, distribution: Callable[..., np.ndarray], shape: Sequence[int]) -> Tensor:
        noise = torch.empty((len(self.streams), *shape))
        for row, generator in zip(noise.numpy(), self.streams, strict=True):
            distribution(generator, dtype=np.float32, out=row)
        return noise


class _NoiseAhead:
    """Normal noise of the next steps, which threads sample into pinned memory.

    Each thread has some of the members and samples their steps in order, so that their streams give the same numbers as without
    threads. At most `_STEPS_AHEAD` steps are in memory, and no more than one if they exceed `_BYTES_AHEAD`.

    Args:
        streams: the random streams of the N members.
        shape: shape of one member's noise.
        count: number of steps.
    """

    def __init__(self, streams: Sequence[np.random.Generator], shape: Sequence[int], count: int) -> None:
        self._streams = streams
        self._shape = (len(streams), *shape)
        self._num_threads = min(max(1, torch.get_num_threads() - 1), len(streams))
        self._unsampled = count
        self._steps: deque[tuple[Tensor, list[Future[None]]]] = deque()
        step_bytes = 4 * math.prod(self._shape)
        for _ in range(max(1, min(_STEPS_AHEAD, _BYTES_AHEAD // max(1, step_bytes)))):
            self._start_step()

    def next(self) -> Tensor | None:
        """Return the noise of the next step, (N, *shape); None if all of it was returned before."""
        if not self._steps:
            return None
        noise, parts = self._steps.popleft()
        for part in parts:
            part.result()
        self._start_step()
        return noise

    def _start_step(self) -> None:
        """Let the threads sample a further step, unless all are sampled."""
        if not self._unsampled:
            return
        self._unsampled -= 1
        noise = _pinned_memory(self._shape)
        parts = [_thread(first).submit(self._sample_rows, noise.numpy(), first) for first in range(self._num_threads)]
        self._steps.append((noise, parts))

    def _sample_rows(self, noise: np.ndarray, first: int) -> None:
        """Sample the rows of thread number `first`."""
        for row, generator in zip(noise[first :: self._num_threads], self._streams[first :: self._num_threads], strict=True):
            generator.standard_normal(dtype=np.float32, out=row)


def _pinned_memory(shape: Sequence[int]) -> Tensor:
    return torch.empty(shape, pin_memory=True)


@cache
def _thread(number: int) -> ThreadPoolExecutor:
    """Return a thread that works in the order of its tasks."""
    return ThreadPoolExecutor(1, f"noise-{number}")


@dataclass(frozen=True)
class MethodNoise:
    """The noise of a method.

    The streams are named with the method, so that two methods never share noise. A chain's noise, above all, must not depend on
    the noise in its own pre-segmentation. Variations of a method, such as another T', share the noise of the method. Their
    comparison therefore has less variance (common random numbers).

    Attributes:
        method: name of the method, without the overrides of a variation.
        seed: seed of the run.
        first_member: number of the member that counts as member 0, if only later members are sampled.
    """

    method: str
    seed: int
    first_member: int = 0

    def for_members(self, case: str, members: Iterable[tuple[int, int]]) -> MemberNoise:
        """Return the noise of some members of a case.

        Args:
            case: name of the case.
            members: (slice, member), each counted from 0.
        """
        streams = [(slice_, member + self.first_member) for slice_, member in members]
        return MemberNoise([(self.method, self.seed, case, *stream) for stream in streams])
