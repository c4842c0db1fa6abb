"""The denoisers' architectures in MONAI and diffusers, and a test with their weights in our network that all are equal.

MONAI's network of volumes has the widths and groups of PatchDDM's, but its skips are concatenated, and it has attention in the
middle. In the comparison ours has both, too. diffusers has no network of volumes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from pd_ddpm.models.networks.denoising_unet import DenoisingUNet, DenoisingUNetSettings


@dataclass(frozen=True)
class Architecture:
    """What the networks share, apart from their width.

    Attributes:
        spatial_dims: 2 for slices, 3 for volumes.
        in_channels: image channels plus one noisy mask channel.
        multipliers: width of each level, as a multiple of that of the first.
        attention_levels: levels with attention after each residual block.
        groups: groups of the normalisations.
    """

    spatial_dims: int
    in_channels: int
    multipliers: Sequence[int]
    attention_levels: Sequence[int]
    groups: int

    @property
    def image_channels(self) -> int:
        """Number of image channels."""
        return self.in_channels - 1


SLICES = Architecture(2, 3, (1, 1, 2, 2, 4, 4), (4,), 32)  # of PD-DDPM's denoiser; 32 groups are fixed in diffusers
PATCH_DDM = Architecture(3, 8, (1, 3, 4, 4, 4, 4, 4), (), 29)
VOLUMES = replace(PATCH_DDM, multipliers=(1, 3, 4, 4))  # the finest levels of PatchDDM, for the patches of a CPU


@dataclass(frozen=True)
class ParameterNames:
    """Names of the parameters in a library's network; `{}` stands for the number of a convolution."""

    time: tuple[str, str]
    first: str
    convolution: str
    shortcut: str
    attention_norm: str
    attention_parts: tuple[str, str, str]
    projection: str
    down: str
    up: str
    middle: tuple[str, str, str]
    last: tuple[str, str]


MONAI = ParameterNames(
    time=("time_embed.0", "time_embed.2"),
    first="conv_in.conv",
    convolution="conv{}.conv",
    shortcut="skip_connection.conv",
    attention_norm="norm",
    attention_parts=("attn.to_q", "attn.to_k", "attn.to_v"),
    projection="attn.out_proj",
    down="downsampler.op.conv",
    up="upsampler.postconv.conv",
    middle=("middle_block.resnet_1", "middle_block.attention", "middle_block.resnet_2"),
    last=("out.0", "out.2.conv"),
)
DIFFUSERS = ParameterNames(
    time=("time_embedding.linear_1", "time_embedding.linear_2"),
    first="conv_in",
    convolution="conv{}",
    shortcut="conv_shortcut",
    attention_norm="group_norm",
    attention_parts=("to_q", "to_k", "to_v"),
    projection="to_out.0",
    down="downsamplers.0.conv",
    up="upsamplers.0.conv",
    middle=("mid_block.resnets.0", "mid_block.attentions.0", "mid_block.resnets.1"),
    last=("conv_norm_out", "conv_out"),
)


def architecture_for(size: Sequence[int]) -> Architecture:
    """Return the architecture that is timed on slices (height, width) or volumes (height, width, depth)."""
    return SLICES if len(size) == 2 else VOLUMES


def our_network(channels: int, architecture: Architecture = SLICES) -> DenoisingUNet:
    """Return our network with an architecture that the peers have, too."""
    settings = DenoisingUNetSettings(
        spatial_dims=architecture.spatial_dims,
        in_channels=architecture.in_channels,
        out_channels=1,
        channels=channels,
        multipliers=architecture.multipliers,
        residual_blocks=2,
        attention_at=[2**level for level in architecture.attention_levels],
        groups=architecture.groups,
        time_injection="as_released",  # as in both peers; it differs only if groups have one channel
    )
    return DenoisingUNet(settings)


def monai_network(channels: int, architecture: Architecture = SLICES) -> nn.Module:
    """Return MONAI's network with the same architecture and one attention head."""
    from monai.networks.nets import DiffusionModelUNet

    widths = [channels * multiplier for multiplier in architecture.multipliers]
    return DiffusionModelUNet(
        spatial_dims=architecture.spatial_dims,
        in_channels=architecture.in_channels,
        out_channels=1,
        num_res_blocks=2,
        channels=widths,
        attention_levels=[level in architecture.attention_levels for level in range(len(widths))],
        num_head_channels=widths,
        norm_num_groups=architecture.groups,
        norm_eps=1e-5,
    )


def diffusers_network(channels: int) -> nn.Module:
    """Return the network of diffusers with the architecture for slices. Only this needs the package."""
    from diffusers import UNet2DModel

    kinds = ["Attn" if level in SLICES.attention_levels else "" for level in range(len(SLICES.multipliers))]
    return UNet2DModel(
        in_channels=SLICES.in_channels,
        out_channels=1,
        layers_per_block=2,
        block_out_channels=[channels * multiplier for multiplier in SLICES.multipliers],
        down_block_types=[f"{kind}DownBlock2D" for kind in kinds],
        up_block_types=[f"{kind}UpBlock2D" for kind in reversed(kinds)],
        attention_head_dim=None,
        norm_num_groups=SLICES.groups,
    )


def renamed_weights(network: nn.Module, names: ParameterNames) -> dict[str, Tensor]:
    """Return a peer's state dict with our parameter names."""
    theirs: Mapping[str, Tensor] = network.state_dict()
    renamed: dict[str, Tensor] = {}

    def copy(source: str | Sequence[str], target: str) -> None:
        for kind in ("weight", "bias"):
            parts = [theirs[f"{name}.{kind}"] for name in ([source] if isinstance(source, str) else source)]
            renamed[f"{target}.{kind}"] = torch.cat(parts)

    def copy_block(source: str, target: str, attention: str = "") -> None:
        copy(f"{source}.norm1", f"{target}.norm_1")
        copy(f"{source}.{names.convolution.format(1)}", f"{target}.convolution_1")
        copy(f"{source}.time_emb_proj", f"{target}.time")
        copy(f"{source}.norm2", f"{target}.norm_2")
        copy(f"{source}.{names.convolution.format(2)}", f"{target}.convolution_2")
        if f"{source}.{names.shortcut}.weight" in theirs:
            copy(f"{source}.{names.shortcut}", f"{target}.shortcut")
        if f"{attention}.{names.attention_norm}.weight" in theirs:
            copy(f"{attention}.{names.attention_norm}", f"{target}.attention.norm")
            copy([f"{attention}.{part}" for part in names.attention_parts], f"{target}.attention.query_key_value")
            copy(f"{attention}.{names.projection}", f"{target}.attention.projection")

    def copy_level(source: str, blocks: Any, target: str, sampling: str, to: str) -> None:
        for number in range(len(blocks)):
            copy_block(f"{source}.resnets.{number}", f"{target}_block_{number + 1}", f"{source}.attentions.{number}")
        if f"{source}.{sampling}.weight" in theirs:
            copy(f"{source}.{sampling}", f"{target}_to_{to}.convolution")

    for number, source in zip((0, 2), names.time, strict=True):
        copy(source, f"time_embedding.{number}")
    copy(names.first, "first")
    levels = len(network.down_blocks)
    for level, (down, up) in enumerate(zip(network.down_blocks, reversed(network.up_blocks), strict=True)):
        factor = 2**level
        copy_level(f"down_blocks.{level}", down.resnets, f"down.factor_{factor}", names.down, f"{2 * factor}")
        copy_level(f"up_blocks.{levels - 1 - level}", up.resnets, f"up.factor_{factor}", names.up, f"{factor // 2}")
    copy_block(names.middle[0], "middle.block_1", names.middle[1])
    copy_block(names.middle[2], "middle.block_2")
    for number, source in zip((0, 2), names.last, strict=True):
        copy(source, f"last.{number}")
    return renamed


@torch.inference_mode()
def largest_difference(network: nn.Module, names: ParameterNames, channels: int, architecture: Architecture = SLICES) -> float:
    """Return the largest difference of the outputs of our network and the peer's, with the weights of the peer.

    The difference is relative to the largest output. Every parameter of the peer is changed at random first, so that no branch
    of the network is zero.

    Args:
        network: the peer's network.
        names: parameter names of its library.
        channels: width of the networks.
        architecture: architecture of both.
    """
    noise = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        parameter += 0.05 * torch.randn(parameter.shape, generator=noise)
    copied = our_network(channels, architecture)
    copied.load_state_dict(renamed_weights(network, names))
    size = (64, 96) if architecture.spatial_dims == 2 else (16, 16, 8)
    x, t = torch.randn((2, architecture.in_channels, *size), generator=noise), torch.tensor([1, 700])
    expected = network.eval()(x, t)
    expected = getattr(expected, "sample", expected)
    return ((copied.eval()(x, t) - expected).abs().max() / expected.abs().max()).item()
