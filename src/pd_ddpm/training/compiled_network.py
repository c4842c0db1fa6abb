"""Compile the network of a training, if enough steps are ahead to pay for it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import nn

from pd_ddpm.diffusion.denoiser import Denoiser
from pd_ddpm.runtime.compilation import CompiledFunction, is_compiled
from pd_ddpm.runtime.progress import log

# Ours, not measured. Forward and backward of the paper's denoiser take about two minutes to compile. On an H200 its step of 12
# patches keeps the GPU busy for 58 ms, half of them in elementwise kernels and changes of layout, which compiling merges.
_STEPS_WORTH_COMPILING = 5000


def compile_network(
    model: nn.Module, setting: Literal["auto", True, False], device: torch.device, num_steps: int
) -> CompiledFunction | None:
    """Compile the network of a model for training, at its first call; log whether.

    Args:
        model: a denoiser or a network, changed in place. Its parameters and their names stay.
        setting: key `compile`; "auto" compiles if many steps are ahead.
        device: where the model computes.
        num_steps: steps that are ahead.

    Returns:
        The compiled network; None if it is not compiled.
    """
    if not is_compiled(setting, device):
        return None
    if setting == "auto" and num_steps < _STEPS_WORTH_COMPILING:
        log.info("compile auto: %d steps are too few to compile the network for", num_steps)
        return None
    log.info("the network is compiled for %d steps", num_steps)
    network = network_of(model)
    network.forward = CompiledFunction(network.forward, "the network in training")
    return network.forward


def restore_network(model: nn.Module) -> None:
    """Undo `compile_network`, for steps with batches of many sizes, each of which would be compiled."""
    if network_of(model).__dict__.pop("forward", None) is not None:
        log.info("the network is not compiled either, since the sizes of its batches vary")


def network_of(model: nn.Module) -> nn.Module:
    """Return the network of a denoiser, or the model itself if it is a network."""
    return model.network if isinstance(model, Denoiser) else model


@contextmanager
def uncompiled() -> Iterator[None]:
    """Run compiled networks uncompiled inside the block, as for images of many sizes."""
    with torch.compiler.set_stance("force_eager"):
        yield
