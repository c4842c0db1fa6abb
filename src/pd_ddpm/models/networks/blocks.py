"""Parts of the networks, in 2D and 3D: convolution, normalisation, time embedding, residual and attention blocks."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

CONVOLUTIONS = {2: nn.Conv2d, 3: nn.Conv3d}


def convolution(spatial_dims: int, in_channels: int, out_channels: int, kernel_size: int = 3, stride: int = 1) -> nn.Module:
    """A 2D or 3D convolution, padded so that stride 1 keeps the size and stride 2 halves an even one.

    Raises ValueError where `spatial_dims` is neither 2 nor 3.
    """
    if spatial_dims not in CONVOLUTIONS:
        raise ValueError(f"spatial_dims is {spatial_dims}; it must be 2 (slices) or 3 (volumes)")
    return CONVOLUTIONS[spatial_dims](in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2)


def group_norm(channels: int, groups: int | None = None) -> nn.GroupNorm:
    """Group normalisation; by default with 32 groups, or fewer where a group would hold less than four channels.

    Raises ValueError where a given number of `groups` does not divide `channels`.
    """
    if groups is None:
        groups = math.gcd(32, max(channels // 4, 1), channels)
    if channels % groups:
        raise ValueError(f"groups is {groups}, which does not divide a layer's {channels} channels; leave it out")
    return nn.GroupNorm(groups, channels)


def zero(module: nn.Module) -> nn.Module:
    """The same module with its parameters set to zero, so that a branch that ends in it starts by adding nothing."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


def silu(h: Tensor) -> Tensor:
    """SiLU, in the place of its input where no gradient is asked for: new memory takes longer than the arithmetic."""
    return functional.silu(h, inplace=not torch.is_grad_enabled())


def add(h: Tensor, other: Tensor) -> Tensor:
    """h + other, likewise in the place of `h`, unless they are of different types."""
    return h + other if torch.is_grad_enabled() or h.dtype != other.dtype else h.add_(other)


def halve(h: Tensor) -> Tensor:
    """h / 2, likewise in its own place."""
    return h / 2 if torch.is_grad_enabled() else h.div_(2)


def join_skip(h: Tensor, skip: Tensor, mode: str) -> Tensor:
    """Bring a skip connection into the decoder: "concatenate" the channels, or "average" them (PatchDDM, 2023).

    `h` may then hold anything.
    """
    return torch.cat([h, skip], dim=1) if mode == "concatenate" else halve(add(h, skip))


def require_divisible(size: Sequence[int], divisor: int) -> None:
    """Raise ValueError unless every spatial size is a multiple of `divisor`."""
    if any(length % divisor for length in size):
        raise ValueError(
            f"the spatial size {' x '.join(map(str, size))} is not a multiple of {divisor} along every axis, as this "
            "network's down-samplings need; crop or pad the image"
        )


def sinusoids(t: Tensor, width: int) -> Tensor:
    """Cosines and sines of the times `t` (B,) at geometric frequencies from 1 to 1/10000: (B, width) in float32.

    An odd width ends in a column of zeros (Vaswani et al. 2017, Section 3.5; columns ordered as in guided diffusion).
    """
    half = width // 2
    frequency = torch.exp(-math.log(10_000) / half * torch.arange(half, dtype=torch.float32, device=t.device))
    angle = t.float()[:, None] * frequency
    return functional.pad(torch.cat([angle.cos(), angle.sin()], dim=1), (0, width % 2))


class TimeEmbedding(nn.Sequential):
    """Times (B,), whole or not, to features (B, out_channels): sinusoids, then two linear layers with SiLU.

    The last SiLU belongs to the residual blocks in other descriptions; here it is computed once for all of them.
    """

    def __init__(self, width: int, out_channels: int) -> None:
        super().__init__(nn.Linear(width, out_channels), nn.SiLU(), nn.Linear(out_channels, out_channels), nn.SiLU())
        self.width = width

    def forward(self, t: Tensor) -> Tensor:
        # The angles need float32 (bfloat16 cannot tell t = 999 from 1000); the layers may be kept in another type.
        return super().forward(sinusoids(t, self.width).to(self[0].weight.dtype))


class AttentionBlock(nn.Module):
    """Self-attention among all positions of a feature map, (B, channels, *S) to the same, added to its input.

    Raises ValueError where `heads` does not divide `channels`.
    """

    def __init__(self, channels: int, heads: int, groups: int | None = None) -> None:
        super().__init__()
        if channels % heads:
            raise ValueError(f"heads is {heads}, which does not divide the {channels} channels of an attention block")
        self.heads = heads
        self.norm = group_norm(channels, groups)
        self.query_key_value = nn.Linear(channels, 3 * channels)
        self.projection = zero(nn.Linear(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.norm(x).flatten(2).transpose(1, 2)  # (B, N, channels), N positions
        parts = self.query_key_value(tokens).unflatten(2, (3, self.heads, -1))  # (B, N, 3, heads, channels / heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)  # each (B, heads, N, channels / heads)
        mixed = functional.scaled_dot_product_attention(query, key, value)
        mixed = self.projection(mixed.transpose(1, 2).flatten(2))  # (B, N, channels)
        return add(x, mixed.transpose(1, 2).unflatten(2, x.shape[2:]))


class ResidualBlock(nn.Module):
    """Two convolutions that are told the time, a shortcut around them, and attention after them if `heads` > 0.

    `scale_shift` False: the time's features are added between the convolutions (Ho et al. 2020); True: they scale and
    shift the second normalisation (Dhariwal & Nichol 2021). The second convolution starts at zero.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        *,
        embedding_channels: int,
        groups: int | None = None,
        scale_shift: bool = False,
        dropout: float = 0.0,
        heads: int = 0,
    ) -> None:
        super().__init__()
        self.scale_shift = scale_shift
        self.norm_1 = group_norm(in_channels, groups)
        self.convolution_1 = convolution(spatial_dims, in_channels, out_channels)
        self.time = nn.Linear(embedding_channels, 2 * out_channels if scale_shift else out_channels)
        self.norm_2 = group_norm(out_channels, groups)
        self.dropout = nn.Dropout(dropout)
        self.convolution_2 = zero(convolution(spatial_dims, out_channels, out_channels))
        self.shortcut = (
            nn.Identity() if in_channels == out_channels else convolution(spatial_dims, in_channels, out_channels, 1)
        )
        self.attention = AttentionBlock(out_channels, heads, groups) if heads else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """(B, in_channels, *S) and the time embedding (B, embedding_channels) to (B, out_channels, *S)."""
        h = self.convolution_1(silu(self.norm_1(x)))
        time = self.time(embedding).reshape(len(embedding), -1, *[1] * (x.ndim - 2))
        if self.scale_shift:
            scale, shift = time.chunk(2, dim=1)
            h = self.norm_2(h) * (1 + scale) + shift
        else:
            h = self.norm_2(add(h, time))
        h = self.convolution_2(self.dropout(silu(h)))
        return self.attention(add(h, self.shortcut(x)))


class Downsample(nn.Module):
    """Halve the spatial size with a convolution of stride 2: (B, channels, *S) to (B, channels, *S / 2)."""

    def __init__(self, spatial_dims: int, channels: int) -> None:
        super().__init__()
        self.convolution = convolution(spatial_dims, channels, channels, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.convolution(x)


class Upsample(nn.Module):
    """Double the spatial size by repeating voxels, then convolve: (B, channels, *S) to (B, channels, *2 S)."""

    def __init__(self, spatial_dims: int, channels: int) -> None:
        super().__init__()
        self.convolution = convolution(spatial_dims, channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.convolution(functional.interpolate(x, scale_factor=2.0, mode="nearest"))
