"""The discriminator of TDPM: distinguishes real x_T' from generated ones, given the image."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from pd_ddpm.models.networks.blocks import convolution

MULTIPLIERS = (1, 2, 4, 8)
SLOPE = 0.2  # of the leaky ReLU, for negative values


class PatchDiscriminator(nn.Module):
    """A fully convolutional network that classifies patches, for slices and volumes of any size.

    Each logit has a receptive field of 63 voxels along each axis. There is no normalisation. It would mix voxels whose
    gradients R1 penalises one by one, and batch statistics would tie the images of a batch together.

    Args:
        spatial_dims: 2 for slices (H, W), 3 for volumes (D, H, W).
        in_channels: channels of the image and of x together.
        channels: width of the first of four levels; each level has twice the width and half the resolution of the previous.

    Raises:
        ValueError: if `spatial_dims` is neither 2 nor 3.

    Reference: Isola et al. 2017 (pix2pix), Sec. 3.2.2.
    """

    def __init__(self, *, spatial_dims: int, in_channels: int, channels: int) -> None:
        super().__init__()
        widths = [in_channels, *(channels * multiplier for multiplier in MULTIPLIERS)]
        layers: list[nn.Module] = []
        for before, width in pairwise(widths):
            layers += [convolution(spatial_dims, before, width, stride=2), nn.LeakyReLU(SLOPE)]
        self.layers = nn.Sequential(*layers, convolution(spatial_dims, widths[-1], 1))
        for layer in self.layers[::2]:  # PyTorch's default initialisation would let the signal vanish without normalisation
            nn.init.kaiming_normal_(layer.weight, a=SLOPE)
            nn.init.zeros_(layer.bias)

    def forward(self, image: Tensor, x: Tensor) -> Tensor:
        """Return one logit per patch, positive for real: (B, 1, *ceil(S / 16)).

        Args:
            image: (B, M, *S), z-scored.
            x: (B, C, *S), the noisy mask at T', real or generated.
        """
        return self.layers(torch.cat([image, x], dim=1))
