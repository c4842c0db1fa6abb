"""Batches that a network processes in parts, so that its activations need the memory of one part.

The loss sees the outputs of the whole batch, as without parts. Losses of whole batches, random numbers and gradients are
therefore those of the undivided batch, up to rounding. The backward pass computes the activations of each part again.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pd_ddpm.training.compiled_network import network_of


class DividedForward:
    """A forward pass in parts.

    Args:
        forward: forward pass of a network without batch statistics, from tensors with B rows to one.
        size: largest number of rows in a part.
    """

    def __init__(self, forward: Callable[..., Tensor], size: int):
        self.forward, self.size = forward, size

    def __call__(self, *inputs: Tensor) -> Tensor:
        """Return the outputs of all rows."""
        if len(inputs[0]) <= self.size:
            return self.forward(*inputs)
        parts = zip(*(values.split(self.size) for values in inputs), strict=True)
        if not torch.is_grad_enabled():
            return torch.cat([self.forward(*part) for part in parts])
        return torch.cat([checkpoint(self.forward, *part, use_reentrant=False) for part in parts])


def divide_batches(model: nn.Module, size: int | None) -> None:
    """Let the network of a model process batches in parts. Parameters and their names stay.

    Args:
        model: a denoiser or a network, changed in place.
        size: largest number of patches in a part; None: batches are not divided.

    Reference: Chen et al. 2016 (activation checkpointing).
    """
    if size is not None:
        network = network_of(model)
        network.forward = DividedForward(network.forward, size)
