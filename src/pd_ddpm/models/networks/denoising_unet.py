"""The denoiser's network: a U-Net conditioned on the timestep, for slices and volumes."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from pd_ddpm.models.networks.blocks import (
    Downsample,
    ResidualBlock,
    TimeEmbedding,
    Upsample,
    compute_again,
    convolution,
    group_norm,
    join_skip,
    require_divisible,
    zero,
)

SKIPS = ("concatenate", "average")


@dataclass(frozen=True, kw_only=True)
class DenoisingUNetSettings:
    """Sizes and options of a `DenoisingUNet`.

    Attributes:
        spatial_dims: 2 for slices (H, W), 3 for volumes (D, H, W).
        in_channels: image channels plus noisy mask channels.
        out_channels: channels of the prediction.
        channels: width at full resolution (PD-DDPM: 128).
        multipliers: width of each level as a multiple of `channels`, finest level first (PD-DDPM: 1, 1, 2, 2, 4, 4).
        residual_blocks: blocks per level of the encoder; the decoder has one more (PD-DDPM: 2).
        attention_at: down-sampling factors at which attention follows each residual block (PD-DDPM: 16).
        heads: attention heads (PD-DDPM: 1).
        skip: "concatenate", or "average" for (h + skip) / 2 as in PatchDDM. Each block of the decoder then has as many
            output channels as the next skip.
        scale_shift: if true, the timestep scales and shifts the features; otherwise it is added to them.
        time_injection: what happens to an added timestep where a normalisation has groups of one channel, see
            `ResidualBlock`: "fixed", or "as_released" in PatchDDM.
        activation_checkpointing: whether the backward pass computes the activations within each residual block again, in
            place of keeping them. Gradients are the same.
        dropout: probability of dropout before the last convolution of each residual block.
        middle_attention: whether there is attention between the two residual blocks of the coarsest level.
        groups: groups of the normalisations (PatchDDM: 29); None: at most 32, see `group_norm`.
    """

    spatial_dims: int
    in_channels: int
    out_channels: int
    channels: int
    multipliers: Sequence[int]
    residual_blocks: int
    attention_at: Collection[int]
    heads: int = 1
    skip: str = "concatenate"
    scale_shift: bool = False
    dropout: float = 0.0
    middle_attention: bool = True
    groups: int | None = None
    time_injection: Literal["fixed", "as_released"] = "fixed"
    activation_checkpointing: bool = False


class DenoisingUNet(nn.Module):
    """The U-Net of DDPM in the form of guided diffusion, for slices and volumes.

    Spatial sizes must be multiples of `divisor`, 2 ** (levels - 1). The output is zero before training.

    Raises:
        ValueError: if a setting is out of range.

    Reference: Ho et al. 2020 (DDPM), App. B; Dhariwal & Nichol 2021 (guided diffusion), Sec. 3; PD-DDPM, Sec. 3.2
    (sizes); Bieder et al. 2023 (PatchDDM), Fig. 2 (averaged skips); Chen et al. 2016 (activation checkpointing).
    """

    def __init__(self, settings: DenoisingUNetSettings) -> None:
        super().__init__()
        spatial_dims, channels = settings.spatial_dims, settings.channels
        factors = [2**level for level in range(len(settings.multipliers))]
        if settings.skip not in SKIPS:
            raise ValueError(f"`skip` is {settings.skip!r}. It must be one of {', '.join(SKIPS)}.")
        if unknown := sorted(set(settings.attention_at) - set(factors)):
            raise ValueError(
                f"`attention_at` has down-sampling factors that do not exist ({unknown}). "
                f"With {len(factors)} multipliers, choose from {factors}."
            )
        self.divisor = factors[-1]
        self.skip = settings.skip
        self.activation_checkpointing = settings.activation_checkpointing

        block = partial(
            ResidualBlock,
            spatial_dims,
            embedding_channels=4 * channels,
            groups=settings.groups,
            time_injection="scale_shift" if settings.scale_shift else settings.time_injection,
            dropout=settings.dropout,
        )
        heads_at = {factor: settings.heads if factor in settings.attention_at else 0 for factor in factors}
        levels = [(factor, channels * multiplier) for factor, multiplier in zip(factors, settings.multipliers, strict=True)]

        self.time_embedding = TimeEmbedding(channels, 4 * channels)
        self.first = convolution(spatial_dims, settings.in_channels, channels)

        self.down = nn.ModuleDict()
        width = channels
        skip_widths = [width]
        for factor, level_width in levels:
            for number in range(1, settings.residual_blocks + 1):
                self.down[f"factor_{factor}_block_{number}"] = block(width, level_width, heads=heads_at[factor])
                width = level_width
                skip_widths.append(width)
            if factor < self.divisor:
                self.down[f"factor_{factor}_to_{2 * factor}"] = Downsample(spatial_dims, width)
                skip_widths.append(width)

        middle_heads = settings.heads if settings.middle_attention else 0
        self.middle = nn.ModuleDict({"block_1": block(width, width, heads=middle_heads), "block_2": block(width, width)})

        self.up = nn.ModuleDict()
        for factor, level_width in reversed(levels):
            for number in range(1, settings.residual_blocks + 2):
                skip_width = skip_widths.pop()
                if settings.skip == "average":
                    joined_width, block_width = skip_width, skip_widths[-1] if skip_widths else channels
                else:
                    joined_width, block_width = width + skip_width, level_width
                self.up[f"factor_{factor}_block_{number}"] = block(joined_width, block_width, heads=heads_at[factor])
                width = block_width
            if factor > 1:
                self.up[f"factor_{factor}_to_{factor // 2}"] = Upsample(spatial_dims, width)

        output = zero(convolution(spatial_dims, width, settings.out_channels))
        self.last = nn.Sequential(group_norm(width, settings.groups), nn.SiLU(), output)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Predict the noise or the mask logits.

        Args:
            x: (B, in_channels, *S), images and noisy masks concatenated.
            t: (B,), timesteps, integers or floats.

        Returns:
            (B, out_channels, *S).

        Raises:
            ValueError: if a spatial size is not a multiple of `divisor`.
        """
        require_divisible(x.shape[2:], self.divisor)
        embedding = self.time_embedding(t)
        h = self.first(x)
        skips = [h]
        for module in self.down.values():
            h = self._block(module, h, embedding) if isinstance(module, ResidualBlock) else module(h)
            skips.append(h)
        for module in self.middle.values():
            h = self._block(module, h, embedding)
        for module in self.up.values():
            if isinstance(module, ResidualBlock):
                h = self._block(module, join_skip(h, skips.pop(), self.skip), embedding)
            else:
                h = module(h)
        return self.last(h)

    def _block(self, block: ResidualBlock, h: Tensor, embedding: Tensor) -> Tensor:
        """Return the block's output, with or without its activations for the backward pass."""
        if self.activation_checkpointing and torch.is_grad_enabled():
            return compute_again(block, h, embedding)
        return block(h, embedding)
