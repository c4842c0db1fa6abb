"""The denoiser's network: a U-Net that is told the time, for slices and for volumes."""

from collections.abc import Collection, Sequence
from functools import partial

from torch import Tensor, nn

from pd_ddpm.models.networks.blocks import (
    Downsample,
    ResidualBlock,
    TimeEmbedding,
    Upsample,
    convolution,
    group_norm,
    join_skip,
    require_divisible,
    zero,
)

SKIPS = ("concatenate", "average")


class DenoisingUNet(nn.Module):
    """The U-Net of Ho et al. 2020 in the form of guided diffusion (Dhariwal & Nichol 2021), for slices and volumes.

    spatial_dims      2 for slices (H, W), 3 for volumes (D, H, W)
    in_channels       image channels and noisy mask channels together
    out_channels      channels of what is estimated
    channels          width at full resolution (PD-DDPM: 128)
    multipliers       width of each level as a multiple of `channels`, finest level first (PD-DDPM: 1, 1, 2, 2, 4, 4)
    residual_blocks   blocks per level on the way down; one more on the way up (PD-DDPM: 2)
    attention_at      down-sampling factors at which attention follows each residual block (PD-DDPM: 16)
    heads             attention heads (PD-DDPM: 1)
    skip              "concatenate", or "average" as PatchDDM does: (h + skip) / 2, for which each block of the decoder
                      gives as many channels as the skip that is to come
    scale_shift       False: the time is added; True: it scales and shifts
    dropout           probability, before the last convolution of each residual block
    middle_attention  attention in the middle, between the two residual blocks of the coarsest level
    groups            groups of the normalisations; None: 32 or fewer (see `group_norm`); PatchDDM: 29

    Spatial sizes must be multiples of `divisor`, 2 to the power of levels - 1. At the start the output is zero.
    Raises ValueError where a keyword is out of its range.
    """

    def __init__(
        self,
        *,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        channels: int,
        multipliers: Sequence[int],
        residual_blocks: int,
        attention_at: Collection[int],
        heads: int = 1,
        skip: str = "concatenate",
        scale_shift: bool = False,
        dropout: float = 0.0,
        middle_attention: bool = True,
        groups: int | None = None,
    ) -> None:
        super().__init__()
        factors = [2**level for level in range(len(multipliers))]
        if skip not in SKIPS:
            raise ValueError(f"skip is {skip!r}; it must be one of {', '.join(SKIPS)}")
        if unknown := sorted(set(attention_at) - set(factors)):
            raise ValueError(
                f"attention_at names the down-sampling factors {unknown}; {len(multipliers)} multipliers give {factors}"
            )
        self.divisor = factors[-1]
        self.skip = skip

        block = partial(
            ResidualBlock,
            spatial_dims,
            embedding_channels=4 * channels,
            groups=groups,
            scale_shift=scale_shift,
            dropout=dropout,
        )
        heads_at = {factor: heads if factor in attention_at else 0 for factor in factors}
        levels = [(factor, channels * multiplier) for factor, multiplier in zip(factors, multipliers, strict=True)]

        self.time_embedding = TimeEmbedding(channels, 4 * channels)
        self.first = convolution(spatial_dims, in_channels, channels)

        self.down = nn.ModuleDict()
        width = channels
        skip_widths = [width]
        for factor, level_width in levels:
            for number in range(1, residual_blocks + 1):
                self.down[f"factor_{factor}_block_{number}"] = block(width, level_width, heads=heads_at[factor])
                width = level_width
                skip_widths.append(width)
            if factor < self.divisor:
                self.down[f"factor_{factor}_to_{2 * factor}"] = Downsample(spatial_dims, width)
                skip_widths.append(width)

        self.middle = nn.ModuleDict(
            {"block_1": block(width, width, heads=heads if middle_attention else 0), "block_2": block(width, width)}
        )

        self.up = nn.ModuleDict()
        for factor, level_width in reversed(levels):
            for number in range(1, residual_blocks + 2):
                skip_width = skip_widths.pop()
                if skip == "average":
                    joined_width, block_width = skip_width, skip_widths[-1] if skip_widths else channels
                else:
                    joined_width, block_width = width + skip_width, level_width
                self.up[f"factor_{factor}_block_{number}"] = block(joined_width, block_width, heads=heads_at[factor])
                width = block_width
            if factor > 1:
                self.up[f"factor_{factor}_to_{factor // 2}"] = Upsample(spatial_dims, width)

        self.last = nn.Sequential(group_norm(width, groups), nn.SiLU(), zero(convolution(spatial_dims, width, out_channels)))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Noisy masks beside their images (B, in_channels, *S) and times (B,), whole or not, to (B, out_channels, *S).

        Raises ValueError where a spatial size is not a multiple of `divisor`.
        """
        require_divisible(x.shape[2:], self.divisor)
        embedding = self.time_embedding(t)
        h = self.first(x)
        skips = [h]
        for module in self.down.values():
            h = module(h, embedding) if isinstance(module, ResidualBlock) else module(h)
            skips.append(h)
        for module in self.middle.values():
            h = module(h, embedding)
        for module in self.up.values():
            if isinstance(module, ResidualBlock):
                h = module(join_skip(h, skips.pop(), self.skip), embedding)
            else:
                h = module(h)
        return self.last(h)
