"""Build a method's segmenter from its settings and its trained model."""

from functools import partial
from typing import Any

from torch import nn

from pd_ddpm.config.chain_length import chain_steps
from pd_ddpm.diffusion.reliability import Reliability
from pd_ddpm.diffusion.samplers import ancestral, ddim, reverse_times
from pd_ddpm.diffusion.starts import LearnedPriorStart, NoiseStart, PresegmentationStart, ReliabilityStart
from pd_ddpm.inference.segmenters import (
    DeterministicSegmenter,
    DiffusionSegmenter,
    DropoutSegmenter,
    LatentSegmenter,
    Segmenter,
)
from pd_ddpm.models.mask_channels import mask_channels


def build_segmenter(settings: dict[str, Any], model: nn.Module, reliability: Reliability | None = None) -> Segmenter:
    """Return the segmenter of a method.

    Args:
        settings: one entry of `methods` in the configuration.
        model: the trained network.
        reliability: reliability of the pre-segmentation, if the first reverse step uses it.
    """
    if settings["segmenter"] == "deterministic":
        return DeterministicSegmenter(model)
    if settings["segmenter"] == "dropout":
        return DropoutSegmenter(model, num_members=settings["pool"])
    if settings["segmenter"] == "latent":
        return LatentSegmenter(model, num_members=settings["pool"])
    t_start, spacing = settings["t_start"], settings.get("step_spacing", "trailing")
    steps = chain_steps(settings["reverse_steps"], t_start, model.schedule.T)
    start = {
        "noise": lambda: NoiseStart(t_start, channels=mask_channels(model)),
        "presegmentation": lambda: PresegmentationStart(t_start, model.schedule, model.coding),
        "learned_prior": lambda: LearnedPriorStart(t_start, model),
    }[settings["start"]]()
    if reliability:
        start = ReliabilityStart(reverse_times(t_start, steps, spacing)[1], t_start, model, reliability)
        steps -= 1  # the first step is part of the start
    sampler = {
        "ancestral": partial(ancestral, variance=settings.get("variance")),
        "ddim": partial(ddim, eta=settings.get("eta", 0.0)),
    }[settings["sampler"]]
    sampler = partial(sampler, schedule=model.schedule)
    stop_after = settings.get("stop_after")
    return DiffusionSegmenter(model, start, sampler, steps, settings["pool"], spacing, stop_after)
