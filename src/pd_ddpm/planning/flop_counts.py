"""One network of the configuration, counted and timed. PyTorch is loaded here; `planned_flops` keeps what comes out."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from pd_ddpm.models.factory import build_model
from pd_ddpm.planning import flops
from pd_ddpm.runtime.precision import (
    Precision,
    autocast,
    choose_device,
    choose_precision,
    prepare_for_inference,
    set_matmul_precision,
)
from pd_ddpm.training.factory import build_objective

MEASURING_SECONDS = 1.0  # for training and for sampling
Settings = Mapping[str, Any]


def count(chosen: Settings, channels: int, what: str, size: Sequence[int]) -> list[int]:
    """FLOPs of a network with these settings: of "steps", all of its training; of "validation" of a slice as large as a
    training patch; of "evaluation" at this size, once for a slice and for each member. Or its "divisor", of which sizes must
    be multiples, or its number of "parameters".
    """
    with torch.device("meta"):
        network = build_model(chosen, channels)
    if what == "steps":
        return [_all_steps(network, chosen, channels)]
    if what == "validation":
        return [flops.validation(network, build_objective(chosen), channels, tuple(chosen["crop"]))]
    if what == "evaluation":
        return list(flops.evaluation(network, channels, tuple(size)))
    if what == "divisor":
        return [network.divisor]
    return [sum(parameter.numel() for parameter in network.parameters())]


def _all_steps(network: nn.Module, chosen: Settings, channels: int) -> int:
    phases = flops.training_phases(network, build_objective(chosen), channels, chosen["batch"], tuple(chosen["crop"]))
    steps = range(1, chosen["steps"] + 1)
    return sum(each * sum(phase.is_due(step, chosen["steps"]) for step in steps) for phase, each in phases)


def device_at_hand(name: str, precisions: Sequence[str]) -> tuple[torch.device, str, list[Precision]]:
    """The device that a configuration names, what it calls itself, and its formats for these precisions."""
    device = choose_device(name)
    title = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    return device, title, [choose_precision(precision, device) for precision in precisions]


def measure(
    chosen: Settings, channels: int, batch: int, threads: int, device: torch.device, formats: Sequence[Precision]
) -> tuple[float, float]:
    """FLOP/s of training and of sampling of a network with these settings, in these two formats.

    Where a CPU needs a second or more for one patch, training is taken to be as fast as sampling.
    """
    torch.set_num_threads(threads)
    size, own = tuple(chosen["crop"]), build_objective(chosen)
    with torch.device("meta"):
        empty = build_model(chosen, channels)
    each = sum(flops.evaluation(empty, channels, size))
    (_, step), *_ = flops.training_phases(empty, own, channels, 1, size)
    placed = prepare_for_inference(build_model(chosen, channels), device, formats[1])

    @torch.inference_mode()
    def sample(number: int) -> None:
        flops.forward(placed, torch.zeros((number, channels, *size), device=device))

    set_matmul_precision(formats[1])
    sampling = flops.measured_rate(sample, each, batch, device, MEASURING_SECONDS)
    if device.type == "cpu" and each > sampling:
        return sampling, sampling
    network = build_model(chosen, channels).to(device).train()
    phase, *_ = own.phases(network)

    def train(number: int) -> None:
        with autocast(device, formats[0]):
            flops.backward(network, phase, flops.empty_batch(channels, number, size, device))

    set_matmul_precision(formats[0])
    return flops.measured_rate(train, step, chosen["batch"], device, MEASURING_SECONDS), sampling
