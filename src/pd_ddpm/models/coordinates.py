"""Coordinate channels, which show a network where in the whole grid each pixel of a patch lies.

There is one channel per spatial axis, in the order of the axes. It rises from -1 at the grid's first pixel to 1 at its last.

Reference: Bieder et al. 2023 (PatchDDM), Fig. 1; their released code appends them to the images before it crops a patch.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn


def axis_coordinates(length: int) -> Tensor:
    """Return the coordinates (length,) along an axis of the grid, in float32."""
    return torch.linspace(-1, 1, length)


def coordinate_channels(axes: Sequence[Tensor]) -> Tensor:
    """Return the channels (len(axes), *S) of a window whose coordinates along each axis are given."""
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))


def add_coordinates(image: Tensor) -> Tensor:
    """Append the coordinate channels of the whole grid: (B, M, *S) to (B, M + number of axes, *S)."""
    channels = coordinate_channels([axis_coordinates(length) for length in image.shape[2:]]).to(image)
    return torch.cat([image, channels.expand(len(image), *channels.shape)], dim=1)


def has_coordinates(model: nn.Module) -> bool:
    """Return whether a model was built for images with coordinate channels."""
    return getattr(model, "coordinates", False)


def num_image_inputs(settings: Mapping[str, Any], image_channels: int) -> int:
    """Return the number of channels of a network's image: those of the scan and, if it has them, of the coordinates.

    Args:
        settings: resolved settings of the network.
        image_channels: number of channels of the scan M.
    """
    # Bundles of earlier versions lack the key.
    return image_channels + (settings["spatial_dims"] if settings.get("coordinates", False) else 0)
