"""One batch shared by several processes, so that losses, gradients and statistics are those of the whole batch.

A loss over a batch is no mean of losses over its parts: the soft Dice is one ratio, means go over the voxels that count, and
batch normalisation looks at all images. Sums are therefore added up over the processes where they stand in a formula, with a
gradient, and every process has the loss of the whole batch. Every process draws the random numbers of all rows and keeps
those of its own. One process alone computes as if this module were not there.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch import distributed as processes
from torch.nn import functional

from pd_ddpm.networks.dropout import Dropout

Value = TypeVar("Value")
_share: tuple[slice, int] | None = None  # the rows of this process, and how many the whole batch has


def rank() -> int:
    """Number of this process, from 0."""
    return processes.get_rank() if processes.is_initialized() else 0


def size() -> int:
    """How many processes share each batch."""
    return processes.get_world_size() if processes.is_initialized() else 1


@contextmanager
def sharing(whole: int) -> Iterator[slice]:
    """Inside the block a batch holds the rows of a whole batch that are given here, which are this process's own."""
    global _share
    if size() == 1:
        yield slice(None)
        return
    rows = slice(whole * rank() // size(), whole * (rank() + 1) // size())
    _share = rows, whole
    try:
        yield rows
    finally:
        _share = None


def of_rows(draw: Callable[[int], np.ndarray | Tensor], rows: int) -> Any:
    """`draw` of so many rows; where they are a share, those of the whole batch's that belong to it."""
    if _share is None:
        return draw(rows)
    own, whole = _share
    return draw(whole)[own]


class _Sum(torch.autograd.Function):
    """The sum over processes. What is minimised is the sum of all their losses, so its gradient is a sum as well."""

    @staticmethod
    def forward(_: Any, values: Tensor) -> Tensor:
        values = values.clone(memory_format=torch.contiguous_format)
        processes.all_reduce(values)
        return values

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        return _Sum.apply(gradient)


def total(values: Tensor) -> Tensor:
    """The sum of these values over the processes that share the batch, with its gradient."""
    return values if _share is None else _Sum.apply(values)


def mean(values: Tensor) -> Tensor:
    """The mean over all values of the whole batch."""
    if _share is None:
        return values.mean()
    return total(values.sum()) / count(values)


def count(values: Tensor) -> Tensor | int:
    """The number of such values in the whole batch."""
    return values.numel() if _share is None else total(values.new_full((), values.numel(), dtype=torch.float32))


def backward(loss: Tensor, parameters: Sequence[nn.Parameter]) -> None:
    """Gradients of a loss that every process has, in all of them alike."""
    if size() == 1:
        loss.backward()
        return
    (loss / size()).backward()  # together they minimise the sum
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    together = torch.cat([gradient.flatten() for gradient in gradients])  # one message, not hundreds
    processes.all_reduce(together)
    parts = together.split([gradient.numel() for gradient in gradients])
    torch._foreach_copy_(gradients, [part.view_as(gradient) for part, gradient in zip(parts, gradients, strict=True)])


def from_first(value: Value) -> Value:
    """What process 0 says."""
    told = [value]
    if size() > 1:
        processes.broadcast_object_list(told, device=torch.device("cpu"))
    return told[0]


def of_any(answer: bool) -> bool:
    """Whether it is true of any process."""
    return any(of_all(answer))


def of_all(value: Value) -> list[Value]:
    """What each process says."""
    if size() == 1:
        return [value]
    told: list[Any] = [None] * size()
    processes.all_gather_object(told, value)
    return told


def share_layers(module: nn.Module) -> nn.Module:
    """The same module with every layer that looks at a whole batch, or draws for one, in a form that knows the others' rows.

    Names and values of its parameters and buffers stay.
    """
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        return _SharedBatchNorm.of(module)
    if isinstance(module, Dropout):
        return _SharedDropout(module.probability, whole_channels=module.whole_channels)
    if isinstance(module, nn.Dropout) and module.p:
        return _SharedDropout(module.p)
    for name, child in module.named_children():
        setattr(module, name, share_layers(child))
    return module


class _SharedBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch normalisation over the rows of all processes, on CPUs and GPUs (PyTorch's own is for GPUs only)."""

    @classmethod
    def of(cls, layer: nn.modules.batchnorm._BatchNorm) -> "_SharedBatchNorm":
        shared = cls(layer.num_features, layer.eps, layer.momentum, layer.affine, layer.track_running_stats)
        shared.weight, shared.bias = layer.weight, layer.bias
        for name, buffer in layer.named_buffers():
            setattr(shared, name, buffer)
        return shared

    def _check_input_dim(self, x: Tensor) -> None:
        """Any number of spatial axes."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or _share is None:
            return super().forward(x)
        axes, shape = [0, *range(2, x.ndim)], (1, -1, *[1] * (x.ndim - 2))
        values = x.float()
        elements = count(values[:, 0])
        mean_ = total(values.sum(axes)) / elements
        centred = values - mean_.view(shape)
        variance = total(centred.square().sum(axes)) / elements
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean_, self.momentum)
            self.running_var.lerp_(variance * (elements / (elements - 1)), self.momentum)
        normalised = centred * (variance + self.eps).rsqrt().view(shape)
        if self.affine:
            normalised = normalised * self.weight.view(shape) + self.bias.view(shape)
        return normalised.to(x.dtype)


class _SharedDropout(Dropout):
    """Dropout whose mask is that of the whole batch, drawn alike in all processes."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        size_ = (*x.shape[1:2], *[1] * (x.ndim - 2)) if self.whole_channels else x.shape[1:]
        return x * of_rows(lambda rows: functional.dropout(x.new_ones((rows, *size_)), self.probability), len(x))
