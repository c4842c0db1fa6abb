"""Memory of networks, added up from the sizes of their tensors, on the device meta or on any other.

The account follows each tensor from its allocation until nothing refers to it any more, through the forward pass, the backward
pass and the optimiser. On the device meta nothing is computed, so that volumes can be counted which no device could hold. Two
kinds of memory are not in the account: what an operation allocates and frees by itself, such as the workspace of a convolution,
and what the allocator of a device reserves in addition.
"""

import copy
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pd_ddpm.diffusion.denoiser import Denoiser
from pd_ddpm.diffusion.noise import MemberNoise
from pd_ddpm.diffusion.samplers import ddim
from pd_ddpm.planning.flops import META, OperationCounter, empty_batch
from pd_ddpm.training.objectives.base import Phase


class LiveBytes(TorchDispatchMode):
    """Context that counts the bytes of tensors that operations within it allocate and still hold, without views of others.

    Args:
        device: only tensors on this type of device count.

    Attributes:
        live: bytes that are held now.
        peak: the largest number of them since `reset_peak`.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device = device
        self.live = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        before = {value.untyped_storage()._cdata for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)}
        outputs = (value for value in tree_leaves(result) if isinstance(value, Tensor))
        self.hold(value for value in outputs if value.untyped_storage()._cdata not in before)
        return result

    def hold(self, tensors: Iterable[Tensor]) -> None:
        """Count tensors until they are freed; several that share one storage count once."""
        for tensor in tensors:
            storage = tensor.untyped_storage()
            if tensor.device.type != self.device.type or storage._cdata in self._known:
                continue
            self._known.add(storage._cdata)
            self.live += storage.nbytes()
            self.peak = max(self.peak, self.live)
            weakref.finalize(storage, self._release, storage._cdata, storage.nbytes())

    def reset_peak(self) -> None:
        """Begin a new peak with what is held now."""
        self.peak = self.live

    def _release(self, key: int, num_bytes: int) -> None:
        self._known.discard(key)
        self.live -= num_bytes


@dataclass(frozen=True)
class Step:
    """A step of training or sampling that can be repeated.

    Attributes:
        device: where it computes.
        held: tensors that exist before and after it.
        run: runs it once.
    """

    device: torch.device
    held: Sequence[Tensor]
    run: Callable[[], object]

    def held_bytes(self) -> int:
        """Return the bytes that exist before and after it."""
        with LiveBytes(self.device) as count:
            count.hold(self.held)
        return count.live

    def count(self) -> "StepCount":
        """Run it twice, and return what its tensors take and what it computes.

        The counter of operations splits some of them up, whose intermediate tensors must not count as memory.
        """
        with LiveBytes(self.device) as memory:
            memory.hold(self.held)
            self.run()
        with OperationCounter() as operations:
            self.run()
        return StepCount(memory.peak, operations.get_total_flops())


class StepCount(NamedTuple):
    """The largest number of bytes that the tensors of a step take at the same time, and its floating-point operations."""

    peak_bytes: int
    flops: int


def training_step(model: Denoiser, phase: Phase, image_inputs: int, patches: tuple[int, Sequence[int]]) -> Step:
    """Return a step of a training as `training.trainer` runs it, in float32, with Adam and the moving average.

    Args:
        model: the denoiser, on the device where it is trained.
        phase: what the training minimises.
        image_inputs: channels of the network's image, with coordinates.
        patches: number of patches, and their size, a multiple of the denoiser's divisor.
    """
    device = next(model.parameters()).device
    model.train()
    average = copy.deepcopy(model).requires_grad_(False)
    optimiser = torch.optim.Adam(phase.parameters, fused=device.type != META.type)
    for parameter in phase.parameters:  # a step without change, with which Adam allocates its moments
        parameter.grad = torch.zeros_like(parameter)
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    moments = [value for state in optimiser.state.values() for value in state.values()]
    batch = empty_batch(image_inputs, *patches, device)

    def run() -> None:
        phase.loss(model, batch, np.random.default_rng(0))["loss"].backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    return Step(device, [*model.parameters(), *average.parameters(), *moments, *batch[:3]], run)


def sampling_step(model: Denoiser, image_inputs: int, size: Sequence[int]) -> Step:
    """Return a reverse step of DDIM for one ensemble member of one image.

    Args:
        model: the denoiser in evaluation mode, on the device where it samples, with weights in its precision.
        image_inputs: channels of the network's image, with coordinates.
        size: size of the image, a multiple of the denoiser's divisor.
    """
    device = next(model.parameters()).device
    image, x = (torch.zeros((1, channels, *size), device=device) for channels in (image_inputs, 1))
    noise = MemberNoise([])  # none is added

    @torch.inference_mode()
    def run() -> None:
        ddim(lambda x_t, t: model(x_t, image, t), x, [1, 0], model.schedule, noise)

    return Step(device, [*model.parameters(), image, x], run)
