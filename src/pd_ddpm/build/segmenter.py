"""A method's settings and its trained model to a segmenter."""

from functools import partial
from typing import Any

from torch import nn

from pd_ddpm.samplers import ancestral, ddim
from pd_ddpm.segmenters import DeterministicSegmenter, DiffusionSegmenter, Segmenter
from pd_ddpm.starts import NoiseStart, PresegmentationStart


def segmenter(settings: dict[str, Any], model: nn.Module) -> Segmenter:
    """The segmenter of these method settings (one entry of `methods` in the configuration) over its trained model."""
    if settings["segmenter"] == "deterministic":
        return DeterministicSegmenter(model)
    t_start = settings["t_start"]
    start = {
        "noise": NoiseStart(t_start),
        "presegmentation": PresegmentationStart(t_start, model.schedule, model.coding),
    }[settings["start"]]
    sampler = {
        "ancestral": partial(ancestral, variance=settings.get("variance")),
        "ddim": partial(ddim, eta=settings.get("eta", 0.0)),
    }[settings["sampler"]]
    steps = max(1, round(settings["reverse_steps"] * t_start / model.schedule.T))
    return DiffusionSegmenter(model, start, partial(sampler, schedule=model.schedule), steps, settings["samples"])
