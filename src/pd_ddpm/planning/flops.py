"""How many floating-point operations networks take, counted by PyTorch on tensors without contents, and how fast they run.

A multiplication and an addition are two operations. Only convolutions and products of matrices are counted, as PyTorch's
FlopCounterMode does: normalisations, activations and sums take time, but hardly any operations.
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
from pd_ddpm.models.networks.probabilistic_unet import ProbabilisticUNet
from pd_ddpm.training.objectives.base import Objective, Phase
from pd_ddpm.training.patches import Batch

META = torch.device("meta")


class _Counter(FlopCounterMode):
    """Counts the whole only: to tell modules apart takes hooks, which are slow and do not bear gradients of gradients."""

    def __init__(self):
        super().__init__(display=False)
        self.mod_tracker = _Whole()


class _Whole(AbstractContextManager):
    parents = frozenset({"Global"})

    def __exit__(self, *_: Any) -> None:
        pass


def evaluation(model: nn.Module, image_channels: int, size: tuple[int, int]) -> tuple[int, int]:
    """FLOPs of drawing from a trained model, of a slice of this size once, and of each evaluation for a member besides.

    Of a Probabilistic U-Net the slice's features and prior come once, and each member takes the last convolutions.
    model: on the meta device; size: (height, width), multiples of the model's divisor.
    """
    model.eval()
    image = torch.empty((1, image_channels, *size), device=META)
    with torch.inference_mode():
        if isinstance(model, ProbabilisticUNet):
            with _Counter() as shared:
                features, z = model.features(image), model.prior(image).mean
            with _Counter() as each:
                model.decode(features, z)
            return shared.get_total_flops(), each.get_total_flops()
        with _Counter() as each:
            forward(model, image)
        return 0, each.get_total_flops()


def forward(model: nn.Module, image: Tensor) -> Tensor:
    """One evaluation, of a denoiser at time 1, of an image (B, M, *S)."""
    if isinstance(model, Denoiser):
        t = torch.ones(len(image), dtype=torch.long, device=image.device)
        return model.output(torch.zeros_like(image[:, :1]), image, t)
    return model(image)


def training_phases(
    model: nn.Module, objective: Objective, image_channels: int, batch: int, crop: tuple[int, int]
) -> list[tuple[Phase, int]]:
    """Each phase of a training step, with its FLOPs forward and backward on a whole batch. model: on the meta device."""
    model.train()
    found = []
    for phase in objective.phases(model):
        with _Counter() as counter:
            backward(model, phase, empty_batch(image_channels, batch, crop))
        found.append((phase, counter.get_total_flops()))
    return found


def backward(model: nn.Module, phase: Phase, batch: Batch) -> None:
    """The gradients of one phase on a batch, as the training takes them, without the optimiser."""
    changed = set(phase.parameters)
    for parameter in model.parameters():
        parameter.requires_grad_(parameter in changed)
        parameter.grad = None
    phase.loss(model, batch, np.random.default_rng(0))["loss"].backward()


def validation(model: nn.Module, objective: Objective, image_channels: int, crop: tuple[int, int]) -> int:
    """FLOPs of the estimates of one validation slice as large as a training patch. model: on the meta device."""
    model.eval()
    with torch.inference_mode(), _Counter() as counter:
        objective.estimates(model, empty_batch(image_channels, 1, crop), np.random.default_rng(0))
    return counter.get_total_flops()


def empty_batch(image_channels: int, batch: int, size: tuple[int, int], device: torch.device = META) -> Batch:
    """A batch of empty masks all of whose pixels count; (height, width)."""
    image, mask = (torch.zeros((batch, channels, *size), device=device) for channels in (image_channels, 1))
    return Batch(image, mask, torch.ones_like(mask))


def measured_rate(work: Callable[[int], Any], flops: int, largest: int, device: torch.device, seconds: float) -> float:
    """FLOP/s of `work(batch)`, where one of the batch takes `flops`: the mean over some seconds after a first run.

    The batch is `largest` on a GPU; on a CPU it is as large as a first, single run lets hope to be done in a fifth of the time.
    """

    def timed(batch: int) -> float:
        started = time.perf_counter()
        work(batch)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - started

    timed(1)
    batch = largest if device.type == "cuda" else max(1, min(largest, int(seconds / 5 / timed(1))))
    if batch > 1:
        timed(batch)
    taken, runs = 0.0, 0
    while taken < seconds:
        taken += timed(batch)
        runs += 1
    return runs * batch * flops / taken
