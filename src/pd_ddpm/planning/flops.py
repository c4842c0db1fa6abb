"""Floating-point operations of networks, counted by PyTorch on meta tensors, and the speed at which they run.

A multiplication and an addition are two operations. Only convolutions and matrix products are counted, as PyTorch's
FlopCounterMode does. Normalisations, activations and sums take time, but hardly any operations.
"""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from pd_ddpm.diffusion.denoiser import Denoiser
from pd_ddpm.models.mask_channels import mask_channels
from pd_ddpm.models.networks.probabilistic_unet import ProbabilisticUNet
from pd_ddpm.training.objectives.base import Objective, Phase
from pd_ddpm.training.patches import Batch

META = torch.device("meta")


class OperationCounter(FlopCounterMode):
    """Counts the total only. Counts per module need hooks, which are slow and fail on gradients of gradients."""

    def __init__(self) -> None:
        super().__init__(display=False)
        self.mod_tracker = _NoModules()


class _NoModules(AbstractContextManager):
    parents = frozenset({"Global"})

    def __exit__(self, *_: Any) -> None:
        pass


def evaluation(model: nn.Module, image_channels: int, size: tuple[int, int]) -> tuple[int, int]:
    """Return the FLOPs of sampling from a trained model: those of a slice once, and those of each evaluation for a member.

    All members of a Probabilistic U-Net share the features and the prior; each member takes the last convolutions.

    Args:
        model: a model on the meta device.
        image_channels: number of image channels M.
        size: (height, width) of the slice, multiples of the model's divisor.
    """
    model.eval()
    image = torch.empty((1, image_channels, *size), device=META)
    with torch.inference_mode():
        if isinstance(model, ProbabilisticUNet):
            with OperationCounter() as shared:
                features, z = model.features(image), model.prior(image).mean
            with OperationCounter() as per_member:
                model.decode(features, z)
            return shared.get_total_flops(), per_member.get_total_flops()
        with OperationCounter() as per_member:
            forward(model, image)
        return 0, per_member.get_total_flops()


def forward(model: nn.Module, image: Tensor) -> Tensor:
    """Evaluate a model once on an image (B, M, *S); a denoiser at timestep 1."""
    if isinstance(model, Denoiser):
        t = torch.ones(len(image), dtype=torch.long, device=image.device)
        return model.output(image.new_zeros((len(image), model.mask_channels, *image.shape[2:])), image, t)
    return model(image)


def training_phases(
    model: nn.Module, objective: Objective, image_channels: int, batch: int, crop: tuple[int, int]
) -> list[tuple[Phase, int]]:
    """Return each phase of a training step with the FLOPs of its forward and backward pass.

    Args:
        model: a model on the meta device.
        objective: what the training minimises.
        image_channels: number of image channels M.
        batch: patches of a step.
        crop: (height, width) of a patch.
    """
    model.train()
    phases = []
    for phase in objective.phases(model):
        with OperationCounter() as counter:
            backward(model, phase, empty_batch(image_channels, batch, crop, mask_channels=mask_channels(model)))
        phases.append((phase, counter.get_total_flops()))
    return phases


def backward(model: nn.Module, phase: Phase, batch: Batch) -> None:
    """Compute the gradients of one training phase on a batch, without a step of the optimiser."""
    trained = set(phase.parameters)
    for parameter in model.parameters():
        parameter.requires_grad_(parameter in trained)
        parameter.grad = None
    phase.loss(model, batch, np.random.default_rng(0))["loss"].backward()


def validation(
    model: nn.Module, objective: Objective, image_channels: int, crop: tuple[int, int], has_presegmentation: bool = False
) -> int:
    """Return the FLOPs of validating one slice that is as large as a training patch.

    Args:
        model: a model on the meta device.
        objective: what the training minimises.
        image_channels: number of image channels M.
        crop: (height, width) of a patch.
        has_presegmentation: whether the slice has a pre-segmentation, from which a chain starts.
    """
    model.eval()
    batch = empty_batch(image_channels, 1, crop, mask_channels=mask_channels(model))
    if has_presegmentation:
        batch = batch._replace(presegmentation=torch.zeros((1, *batch.mask.shape[1:])))  # a start computes on the CPU
    with torch.inference_mode(), OperationCounter() as counter:
        objective.estimates(model, batch, np.random.default_rng(0))
    return counter.get_total_flops()


def empty_batch(
    image_channels: int, batch: int, size: tuple[int, int], device: torch.device = META, mask_channels: int = 1
) -> Batch:
    """Return a batch of zero images and masks, all of whose pixels are in the loss mask.

    Args:
        image_channels: number of image channels M.
        batch: number of patches.
        size: (height, width) of a patch.
        device: where the tensors are.
        mask_channels: number of mask channels C.
    """
    channels = (image_channels, mask_channels, 1)
    image, mask, loss_mask = (torch.zeros((batch, count, *size), device=device) for count in channels)
    return Batch(image, mask, torch.ones_like(loss_mask))


def measured_rate(
    work: Callable[[int], Any], flops: int, largest_batch: int, device: torch.device, min_seconds: float
) -> float:
    """Return the FLOP/s of `work(batch)`: the mean over at least `min_seconds`, after a first run.

    On a GPU the batch is the largest. On a CPU it is as large as can be expected to run in a fifth of the time.

    Args:
        work: runs the network on a batch of this size.
        flops: operations for each element of a batch.
        largest_batch: largest batch.
        device: where the network runs.
        min_seconds: duration of the measurement.
    """

    def run_time(batch: int) -> float:
        started = time.perf_counter()
        work(batch)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - started

    run_time(1)
    batch = largest_batch if device.type == "cuda" else max(1, min(largest_batch, int(min_seconds / 5 / run_time(1))))
    if batch > 1:
        run_time(batch)
    seconds, runs = 0.0, 0
    while seconds < min_seconds:
        seconds += run_time(batch)
        runs += 1
    return runs * batch * flops / seconds
