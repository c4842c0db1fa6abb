"""A discriminator: is this map, which was drawn for this image, a real one?"""

from itertools import pairwise

import torch
from torch import Tensor, nn

from pd_ddpm.models.networks.blocks import convolution

MULTIPLIERS = (1, 2, 4, 8)
SLOPE = 0.2  # of the rectifiers, for negative values


class PatchDiscriminator(nn.Module):
    """A convolutional network that judges patches (Isola et al. 2017, Sec. 3.2.2), for slices and volumes of any size.

    spatial_dims   2 for slices (H, W), 3 for volumes (D, H, W)
    in_channels    channels of the image and of the map beside it
    channels       width of the first of four levels; each has twice the width of the one before, and half its resolution

    A judgement looks at 63 voxels along each axis. There is no normalisation: it would mix what R1 penalises voxel by voxel,
    and statistics of a batch would tie its images together. Raises ValueError where `spatial_dims` is neither 2 nor 3.
    """

    def __init__(self, *, spatial_dims: int, in_channels: int, channels: int) -> None:
        super().__init__()
        widths = [in_channels, *(channels * multiplier for multiplier in MULTIPLIERS)]
        layers: list[nn.Module] = []
        for before, width in pairwise(widths):
            layers += [convolution(spatial_dims, before, width, stride=2), nn.LeakyReLU(SLOPE)]
        self.layers = nn.Sequential(*layers, convolution(spatial_dims, widths[-1], 1))
        for layer in self.layers[::2]:  # PyTorch's own start would let the signal fade, as there is no normalisation
            nn.init.kaiming_normal_(layer.weight, a=SLOPE)
            nn.init.zeros_(layer.bias)

    def forward(self, image: Tensor, x: Tensor) -> Tensor:
        """Image (B, M, *S) and map (B, C, *S) to one logit per patch, (B, 1, *S / 16 rounded up): positive for real."""
        return self.layers(torch.cat([image, x], dim=1))
