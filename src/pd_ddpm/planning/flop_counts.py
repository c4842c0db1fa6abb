"""FLOPs and speed of one network of the configuration. Imports PyTorch; `planned_flops` caches the results."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import nn

from pd_ddpm.models.coordinates import num_image_inputs
from pd_ddpm.models.factory import build_model
from pd_ddpm.models.mask_channels import mask_channels
from pd_ddpm.planning import flops
from pd_ddpm.runtime.precision import (
    Precision,
    autocast,
    choose_device,
    choose_precision,
    move_model,
    precisions_by_speed,
    prepare_for_inference,
    set_matmul_precision,
)
from pd_ddpm.training.factory import build_objective
from pd_ddpm.training.micro_batches import divide_batches

MEASURING_SECONDS = 1.0  # each for training and for sampling
Settings = Mapping[str, Any]
Quantity = Literal["steps", "validation", "evaluation", "divisor", "parameters"]


def count(settings: Settings, channels: int, quantity: Quantity, size: Sequence[int]) -> list[int]:
    """Return a quantity of a network.

    Args:
        settings: resolved settings of the network.
        channels: number of image channels.
        quantity: "steps": FLOPs of all training steps. "validation": FLOPs of validating a slice that is as large as a patch.
            "evaluation": FLOPs of sampling from a slice, once and for each member. "divisor": sizes must be multiples of it.
            "parameters": number of parameters.
        size: (height, width) of the slice, for "evaluation".

    Returns:
        One number; two for "evaluation".
    """
    with torch.device("meta"):
        network = build_model(settings, channels)
    channels = num_image_inputs(settings, channels)
    if quantity == "steps":
        divide_batches(network, settings.get("micro_batch"))
        return [_all_steps(network, settings, channels)]
    if quantity == "validation":
        has_presegmentation = settings.get("validation_presegmenter") is not None
        return [flops.validation(network, build_objective(settings), channels, tuple(settings["crop"]), has_presegmentation)]
    if quantity == "evaluation":
        return list(flops.evaluation(network, channels, tuple(size)))
    if quantity == "divisor":
        return [network.divisor]
    return [sum(parameter.numel() for parameter in network.parameters())]


def _all_steps(network: nn.Module, settings: Settings, channels: int) -> int:
    """Return the FLOPs of all training steps. The number of rows with an estimate is random; the expected one is counted."""
    without = _steps_of_strategy(network, settings, channels, "diffusion")
    strategy = settings.get("strategy", "diffusion")
    if strategy == "diffusion":
        return without
    share = settings["strategy_share"]
    if strategy == "self_conditioning_next" and settings["self_conditioned_state"] == "fixed":
        share = 1.0  # x_t of every row is made from an estimate
    return without + round(share * (_steps_of_strategy(network, settings, channels, strategy) - without))


def _steps_of_strategy(network: nn.Module, settings: Settings, channels: int, strategy: str) -> int:
    """Return the FLOPs of all training steps if every row has the estimate of this strategy.

    Pre-segmentations are made before the first step. Their FLOPs, less than a thousandth of a training, are not counted.
    Timesteps are sampled uniformly: a sampler that learns from the losses cannot read them on the device meta.
    """
    every_row = {"strategy": strategy, "strategy_share": 1.0, "presegmented_share": 0.0}
    uniform_times = {"time_sampling": "uniform"} if "time_sampling" in settings else {}
    objective = build_objective({**settings, **every_row, **uniform_times})
    phases = flops.training_phases(network, objective, channels, settings["batch"], tuple(settings["crop"]))
    steps = range(1, settings["steps"] + 1)
    return sum(per_step * sum(phase.is_due(step, settings["steps"]) for step in steps) for phase, per_step in phases)


def local_device(name: str, training: str, sampling: str) -> tuple[torch.device, str, list[Precision]]:
    """Return the device of the config key `device`, its title, and its precisions of training and of sampling.

    Args:
        name: config key `device`.
        training: key `precision` of training.
        sampling: key `precision` of sampling; "auto" is the device's fastest, as if networks passed their tests in it.
    """
    device = choose_device(name)
    title = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    fastest, *_ = precisions_by_speed(device)
    sampled = fastest if sampling == "auto" else choose_precision(sampling, device)
    return device, title, [choose_precision(training, device), sampled]


def measure(
    settings: Settings, channels: int, batch: int, threads: int, device: torch.device, precisions: Sequence[Precision]
) -> tuple[float, float]:
    """Measure the speed of a network on a device, without rows that have an estimate, whose number is random.

    If a CPU needs a second or more for one patch, training is taken to be as fast as sampling.

    Args:
        settings: resolved settings of the network.
        channels: number of image channels.
        batch: largest batch of sampling.
        threads: CPU threads.
        device: the device to measure.
        precisions: precision of training and precision of sampling.

    Returns:
        FLOP/s of training and of sampling.
    """
    torch.set_num_threads(threads)
    training_precision, sampling_precision = precisions
    size = tuple(settings["crop"])
    minimised = build_objective({**settings, "strategy": "diffusion", "presegmented_share": 0.0})
    with torch.device("meta"):
        counted = build_model(settings, channels)
    inputs = num_image_inputs(settings, channels)
    per_sample = sum(flops.evaluation(counted, inputs, size))
    (_, per_patch), *_ = flops.training_phases(counted, minimised, inputs, 1, size)
    sampled = prepare_for_inference(build_model(settings, channels), device, sampling_precision)

    @torch.inference_mode()
    def sample(num_images: int) -> None:
        flops.forward(sampled, torch.zeros((num_images, inputs, *size), device=device))

    set_matmul_precision(sampling_precision)
    sampling_rate = flops.measured_rate(sample, per_sample, batch, device, MEASURING_SECONDS)
    if device.type == "cpu" and per_sample > sampling_rate:
        return sampling_rate, sampling_rate
    trained = move_model(build_model(settings, channels), device, training_precision).train()
    phase, *_ = minimised.phases(trained)

    def train(num_patches: int) -> None:
        with autocast(device, training_precision):
            flops.backward(trained, phase, flops.empty_batch(inputs, num_patches, size, device, mask_channels(trained)))

    set_matmul_precision(training_precision)
    return flops.measured_rate(train, per_patch, settings["batch"], device, MEASURING_SECONDS), sampling_rate
