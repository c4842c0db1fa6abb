"""Channels of masks: one for lesions, or one for each class of the dataset and the background."""

from collections.abc import Mapping
from typing import Any

from torch import nn


def num_mask_channels(settings: Mapping[str, Any]) -> int:
    """Return the channels of a network's masks: 1 for lesions, or the number of the dataset's classes with background."""
    labels = settings.get("labels")
    return len(labels) + 1 if labels else 1


def mask_channels(model: nn.Module) -> int:
    """Return the channels of a model's masks, see `num_mask_channels`."""
    return getattr(model, "mask_channels", 1)
