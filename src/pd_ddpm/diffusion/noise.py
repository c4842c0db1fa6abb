"""Noise that belongs to an ensemble member, not to a batch.

Every member has its own random stream, named (method, seed, case, slice, member), and its noise is sampled on the CPU.
Samples therefore do not depend on batch size, order, shards or device.
"""

import hashlib
from collections.abc import Callable, Hashable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


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
        self._prefetched: Future[Tensor] | None = None

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
        if self._prefetched is None:
            noise = self._sample(np.random.Generator.standard_normal, shape)
        else:
            noise, self._prefetched = self._prefetched.result(), None
        # A copy from pinned memory does not block; PyTorch does not reuse that memory before the copy is done.
        return noise.to(device, non_blocking=True)

    def prefetch_normal(self, shape: Sequence[int], device: torch.device) -> None:
        """Sample the noise of the next call, `sample_normal(shape, device)`, in a thread while the GPU computes.

        On the CPU this does nothing, since the thread would compete with the network for cores. No number changes.

        Args:
            shape: shape of one member's noise.
            device: where the noise will be needed.
        """
        if device.type == "cuda":
            self._prefetched = _PREFETCH_THREAD.submit(self._sample, np.random.Generator.standard_normal, shape, pinned=True)

    def sample_uniform(self, shape: Sequence[int]) -> Tensor:
        """Return the next noise of every member, uniform on [0, 1) in steps of 2^-24: (N, *shape) float32 on the CPU.

        Uniform noise costs a small part of the time of normal noise.
        """
        return self._sample(np.random.Generator.random, shape)

    def _sample(self, distribution: Callable[..., np.ndarray], shape: Sequence[int], pinned: bool = False) -> Tensor:
        noise = torch.empty((len(self.streams), *shape), pin_memory=pinned)
        for row, generator in zip(noise.numpy(), self.streams, strict=True):
            distribution(generator, dtype=np.float32, out=row)
        return noise


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


_PREFETCH_THREAD = ThreadPoolExecutor(1, "noise")
