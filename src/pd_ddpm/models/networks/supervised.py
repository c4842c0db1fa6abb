"""Segmentation networks that are trained on masks directly: an image in, the logits of the lesion out.

MONAI is imported where it is used: its import takes longer than that of all else together.
"""

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn

from pd_ddpm.models.networks.blocks import require_divisible
from pd_ddpm.models.networks.dropout import Dropout


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


class NestedSegmentationNetwork(SegmentationNetwork):
    """The same over a network that gives its logits in a list."""

    def forward(self, image: Tensor) -> Tensor:
        (logits,) = super().forward(image)
        return logits


def unet(
    *, spatial_dims: int, in_channels: int, channels: Sequence[int] = (64, 128, 256, 512, 1024), dropout: float = 0.0
) -> SegmentationNetwork:
    """The U-Net (Ronneberger et al. 2015; Falk et al. 2019) with batch normalisation and five levels of `channels`.

    At the usual widths 31.1 million parameters. A `dropout` above 0 makes it the Bayesian U-Net: whole channels are dropped
    after each of the four poolings, single elements after each of the four skip concatenations, the eight places of the
    PD-DDPM first author's later code. The weights have the same names with and without.
    Raises ValueError unless there are five levels.
    """
    from monai.networks.nets import BasicUNet

    _require_five_levels("U-Net", channels)
    network = BasicUNet(spatial_dims, in_channels, 1, (*channels, channels[0]), norm="batch")
    if dropout:
        for level in (1, 2, 3, 4):
            down, up = getattr(network, f"down_{level}"), getattr(network, f"upcat_{level}")
            down.max_pooling = nn.Sequential(down.max_pooling, Dropout(dropout, whole_channels=True))
            up.convs = nn.Sequential(OrderedDict(dropout=Dropout(dropout), **dict(up.convs.named_children())))
    return SegmentationNetwork(network, divisor=16)


def attention_unet(
    *, spatial_dims: int, in_channels: int, channels: Sequence[int] = (64, 128, 256, 512, 1024)
) -> SegmentationNetwork:
    """The attention U-Net (Oktay et al. 2018), one level for each of `channels`, which are at least two.

    At the usual widths 31.7 million parameters. Raises ValueError where there are fewer than two levels.
    """
    from monai.networks.nets import AttentionUnet

    if len(channels) < 2:
        raise ValueError(f"channels is {list(channels)}; the attention U-Net needs at least two widths")
    halvings = len(channels) - 1
    network = AttentionUnet(spatial_dims, in_channels, 1, tuple(channels), strides=(2,) * halvings)
    return SegmentationNetwork(network, divisor=2**halvings)


def unet_plus_plus(
    *, spatial_dims: int, in_channels: int, channels: Sequence[int] = (64, 128, 256, 512, 1024)
) -> SegmentationNetwork:
    """U-Net++ (Zhou et al. 2018) with batch normalisation and five levels of `channels`, without deep supervision.

    At the usual widths 36.5 million parameters. Raises ValueError unless there are five levels.
    """
    from monai.networks.nets import BasicUNetPlusPlus

    _require_five_levels("U-Net++", channels)
    network = BasicUNetPlusPlus(spatial_dims, in_channels, 1, (*channels, channels[0]), norm="batch")
    for depth in (1, 2, 3):
        # The outputs of deep supervision, of which none is used: layers without a gradient would be saved for nothing.
        setattr(network, f"final_conv_0_{depth}", nn.Identity())
    return NestedSegmentationNetwork(network, divisor=16)


def _require_five_levels(name: str, channels: Sequence[int]) -> None:
    if len(channels) != 5:
        raise ValueError(f"channels is {list(channels)}; the {name} has five levels, so it must be five widths")
