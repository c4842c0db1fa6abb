"""Segmentation networks that are trained on masks directly: an image in, the logits of the lesion out.

MONAI is imported where it is used: its import takes longer than that of all else together.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from pd_ddpm.networks.blocks import require_divisible


class SegmentationNetwork(nn.Module):
    """Image (B, M, *S) to lesion logits (B, 1, *S), whose spatial sizes must be multiples of `divisor`."""

    def __init__(self, network: nn.Module, divisor: int) -> None:
        super().__init__()
        self.network = network
        self.divisor = divisor

    def forward(self, image: Tensor) -> Tensor:
        """Raises ValueError where a spatial size is not a multiple of `divisor`."""
        require_divisible(image.shape[2:], self.divisor)
        return self.network(image)


def unet(
    *, spatial_dims: int, in_channels: int, channels: Sequence[int] = (64, 128, 256, 512, 1024), dropout: float = 0.0
) -> SegmentationNetwork:
    """The U-Net (Ronneberger et al. 2015; Falk et al. 2019) with batch normalisation and five levels of `channels`.

    `dropout` is the probability in every convolution block. Raises ValueError unless there are five levels.
    """
    from monai.networks.nets import BasicUNet

    if len(channels) != 5:
        raise ValueError(f"channels is {list(channels)}; the U-Net has five levels, so it must be five widths")
    network = BasicUNet(spatial_dims, in_channels, 1, (*channels, channels[0]), norm="batch", dropout=dropout)
    return SegmentationNetwork(network, divisor=16)


def attention_unet(
    *, spatial_dims: int, in_channels: int, channels: Sequence[int] = (64, 128, 256, 512, 1024), dropout: float = 0.0
) -> SegmentationNetwork:
    """The attention U-Net (Oktay et al. 2018), one level for each of `channels`, which are at least two.

    `dropout` is the probability in every convolution block. Raises ValueError where there are fewer than two levels.
    """
    from monai.networks.nets import AttentionUnet

    if len(channels) < 2:
        raise ValueError(f"channels is {list(channels)}; the attention U-Net needs at least two widths")
    halvings = len(channels) - 1
    network = AttentionUnet(spatial_dims, in_channels, 1, tuple(channels), strides=(2,) * halvings, dropout=dropout)
    return SegmentationNetwork(network, divisor=2**halvings)
