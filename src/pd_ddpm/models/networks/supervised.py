"""Segmentation networks that are trained on masks directly: image to logits of lesion or of classes.

MONAI is imported inside the functions, since its import takes longer than all others together.
"""

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn

from pd_ddpm.models.networks.blocks import require_divisible
from pd_ddpm.models.networks.dropout import Dropout


class SegmentationNetwork(nn.Module):
    """Image (B, M, *S) to logits (B, C, *S) of lesion (C = 1) or of C classes; sizes must be multiples of `divisor`."""

    def __init__(self, network: nn.Module, divisor: int) -> None:
        super().__init__()
        self.network = network
        self.divisor = divisor

    def forward(self, image: Tensor) -> Tensor:
        """Return the logits; raise ValueError if a spatial size is not a multiple of `divisor`."""
        require_divisible(image.shape[2:], self.divisor)
        return self.network(image)


class NestedSegmentationNetwork(SegmentationNetwork):
    """A segmentation network around one that returns its logits in a list."""

    def forward(self, image: Tensor) -> Tensor:
        """Return the logits; raise ValueError if a spatial size is not a multiple of `divisor`."""
        (logits,) = super().forward(image)
        return logits


def unet(
    *,
    spatial_dims: int,
    in_channels: int,
    out_channels: int = 1,
    channels: Sequence[int] = (64, 128, 256, 512, 1024),
    dropout: float = 0.0,
) -> SegmentationNetwork:
    """Return a U-Net with batch normalisation, or a Bayesian U-Net if `dropout` is above 0.

    The default widths give 31.1 million parameters in 2D. Dropout acts in eight places, those of the PD-DDPM first author's
    later code: on whole channels after each of the four poolings, and on single elements after each of the four skip
    concatenations. It does not change the names of the weights.

    Args:
        spatial_dims: 2 for slices (H, W), 3 for volumes (D, H, W).
        in_channels: image channels M.
        out_channels: 1 for lesions, or the number of classes with background, C.
        channels: widths of the five levels, finest first.
        dropout: probability of dropout.

    Returns:
        The untrained network.

    Raises:
        ValueError: unless there are five widths.

    Reference: Ronneberger et al. 2015 (U-Net); Falk et al. 2019; Gal & Ghahramani 2016 (Bayesian U-Net).
    """
    from monai.networks.nets import BasicUNet

    _require_five_levels("U-Net", channels)
    network = BasicUNet(spatial_dims, in_channels, out_channels, (*channels, channels[0]), norm="batch")
    if dropout:
        for level in (1, 2, 3, 4):
            down, up = getattr(network, f"down_{level}"), getattr(network, f"upcat_{level}")
            down.max_pooling = nn.Sequential(down.max_pooling, Dropout(dropout, whole_channels=True))
            up.convs = nn.Sequential(OrderedDict(dropout=Dropout(dropout), **dict(up.convs.named_children())))
    return SegmentationNetwork(network, divisor=16)


def attention_unet(
    *, spatial_dims: int, in_channels: int, out_channels: int = 1, channels: Sequence[int] = (64, 128, 256, 512, 1024)
) -> SegmentationNetwork:
    """Return an attention U-Net; the default widths give 31.7 million parameters in 2D.

    Args:
        spatial_dims: 2 for slices (H, W), 3 for volumes (D, H, W).
        in_channels: image channels M.
        out_channels: 1 for lesions, or the number of classes with background, C.
        channels: width of each level, finest first.

    Returns:
        The untrained network.

    Raises:
        ValueError: if there are fewer than two widths.

    Reference: Oktay et al. 2018 (Attention U-Net).
    """
    from monai.networks.nets import AttentionUnet

    if len(channels) < 2:
        raise ValueError(f"`channels` is {list(channels)}. The attention U-Net needs at least two widths.")
    halvings = len(channels) - 1
    network = AttentionUnet(spatial_dims, in_channels, out_channels, tuple(channels), strides=(2,) * halvings)
    return SegmentationNetwork(network, divisor=2**halvings)


def unet_plus_plus(
    *, spatial_dims: int, in_channels: int, out_channels: int = 1, channels: Sequence[int] = (64, 128, 256, 512, 1024)
) -> SegmentationNetwork:
    """Return a U-Net++ with batch normalisation and without deep supervision.

    The default widths give 36.5 million parameters in 2D.

    Args:
        spatial_dims: 2 for slices (H, W), 3 for volumes (D, H, W).
        in_channels: image channels M.
        out_channels: 1 for lesions, or the number of classes with background, C.
        channels: widths of the five levels, finest first.

    Returns:
        The untrained network.

    Raises:
        ValueError: unless there are five widths.

    Reference: Zhou et al. 2018 (UNet++).
    """
    from monai.networks.nets import BasicUNetPlusPlus

    _require_five_levels("U-Net++", channels)
    network = BasicUNetPlusPlus(spatial_dims, in_channels, out_channels, (*channels, channels[0]), norm="batch")
    for depth in (1, 2, 3):
        # The unused outputs of deep supervision: their layers would be saved without ever being trained.
        setattr(network, f"final_conv_0_{depth}", nn.Identity())
    return NestedSegmentationNetwork(network, divisor=16)


def _require_five_levels(name: str, channels: Sequence[int]) -> None:
    if len(channels) != 5:
        raise ValueError(f"`channels` is {list(channels)}. The {name} has five levels and needs five widths.")
