"""Building blocks of the networks, in 2D and 3D: convolutions, normalisation, time embedding, residual and attention blocks."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

CONVOLUTIONS = {2: nn.Conv2d, 3: nn.Conv3d}

TimeInjection = Literal["fixed", "as_released", "scale_shift"]


def convolution(spatial_dims: int, in_channels: int, out_channels: int, kernel_size: int = 3, stride: int = 1) -> nn.Module:
    """Return a padded 2D or 3D convolution: stride 1 keeps the spatial size, stride 2 halves an even one.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: odd size of the kernel along every axis.
        stride: 1 or 2.

    Returns:
        (B, in_channels, *S) -> (B, out_channels, *S / stride).

    Raises:
        ValueError: if `spatial_dims` is neither 2 nor 3.
    """
    if spatial_dims not in CONVOLUTIONS:
        raise ValueError(f"`spatial_dims` is {spatial_dims}. It must be 2 (slices) or 3 (volumes).")
    return CONVOLUTIONS[spatial_dims](in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2)


def group_norm(channels: int, groups: int | None = None) -> nn.GroupNorm:
    """Return group normalisation with `groups` groups; None: 32, or fewer so that each has at least four channels.

    Raises:
        ValueError: if `groups` does not divide `channels`.

    Reference: Wu & He 2018 (group normalisation).
    """
    if groups is None:
        groups = math.gcd(32, max(channels // 4, 1), channels)
    if channels % groups:
        raise ValueError(f"`groups` is {groups}, which does not divide a layer's {channels} channels. Leave it out.")
    return nn.GroupNorm(groups, channels)


def zero(module: nn.Module) -> nn.Module:
    """Set a module's parameters to zero and return it, so that a branch ending in it adds nothing before training."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


def silu(h: Tensor) -> Tensor:
    """Return SiLU of h, in place if gradients are disabled: allocating memory takes longer than the arithmetic."""
    return functional.silu(h, inplace=not torch.is_grad_enabled())


def add(h: Tensor, other: Tensor) -> Tensor:
    """Return h + other, in place if gradients are disabled and both have the same dtype."""
    return h + other if torch.is_grad_enabled() or h.dtype != other.dtype else h.add_(other)


def halve(h: Tensor) -> Tensor:
    """Return h / 2, in place if gradients are disabled."""
    return h / 2 if torch.is_grad_enabled() else h.div_(2)


def join_skip(h: Tensor, skip: Tensor, mode: str) -> Tensor:
    """Join a skip connection to the decoder's features; may overwrite `h`.

    Args:
        h: (B, C, *S), features of the decoder.
        skip: (B, D, *S), features of the encoder.
        mode: "concatenate", or "average" if C = D.

    Returns:
        (B, C + D, *S) or (B, C, *S).

    Reference: Ronneberger et al. 2015 (U-Net), Fig. 1; Bieder et al. 2023 (PatchDDM), Fig. 2 (averaging).
    """
    return torch.cat([h, skip], dim=1) if mode == "concatenate" else halve(add(h, skip))


def require_divisible(size: Sequence[int], divisor: int) -> None:
    """Raise ValueError unless every spatial size is a multiple of `divisor`."""
    if any(length % divisor for length in size):
        raise ValueError(
            f"the spatial size {' x '.join(map(str, size))} is not a multiple of {divisor} along every axis, which this "
            "network's down-sampling needs. Crop or pad the image."
        )


def sinusoids(t: Tensor, width: int) -> Tensor:
    """Return cosines and sines of the timesteps t (B,) at geometric frequencies from 1 to 1/10000: (B, width) float32.

    An odd width ends in a column of zeros. The columns are ordered as in guided diffusion.

    Reference: Vaswani et al. 2017 (Transformer), Sec. 3.5.
    """
    half = width // 2
    frequency = torch.exp(-math.log(10_000) / half * torch.arange(half, dtype=torch.float32, device=t.device))
    angle = t.float()[:, None] * frequency
    return functional.pad(torch.cat([angle.cos(), angle.sin()], dim=1), (0, width % 2))


def compute_again(block: nn.Module, x: Tensor, embedding: Tensor | None) -> Tensor:
    """Return a block's output without keeping its activations, which the backward pass computes again.

    Args:
        block: has a layer `dropout`.
        x: (B, channels, *S).
        embedding: (B, width), or None.

    Reference: Chen et al. 2016 (activation checkpointing).
    """
    # Only dropout needs the state of the random numbers, which cannot be read while a CUDA graph is recorded.
    return checkpoint(block, x, embedding, use_reentrant=False, preserve_rng_state=block.dropout.p > 0)


class TimeEmbedding(nn.Sequential):
    """Timesteps (B,), integers or floats, to features (B, out_channels): sinusoids, then two linear layers with SiLU.

    Guided diffusion computes the last SiLU in every residual block; here it is computed once for all of them.

    Reference: Ho et al. 2020 (DDPM), App. B.
    """

    def __init__(self, width: int, out_channels: int) -> None:
        super().__init__(nn.Linear(width, out_channels), nn.SiLU(), nn.Linear(out_channels, out_channels), nn.SiLU())
        self.width = width

    def forward(self, t: Tensor) -> Tensor:
        """Return features (B, out_channels) of the timesteps t (B,)."""
        # The angles need float32: in bfloat16, t = 999 equals t = 1000. The layers may have another dtype.
        return super().forward(sinusoids(t, self.width).to(self[0].weight.dtype))


class AttentionBlock(nn.Module):
    """Residual self-attention over all positions of a feature map: (B, channels, *S) to the same shape.

    Raises:
        ValueError: if `heads` does not divide `channels`.

    Reference: Vaswani et al. 2017 (Transformer), Sec. 3.2; Ho et al. 2020 (DDPM), App. B.
    """

    def __init__(self, channels: int, heads: int, groups: int | None = None) -> None:
        super().__init__()
        if channels % heads:
            raise ValueError(f"`heads` is {heads}. It must divide the {channels} channels of an attention block.")
        self.heads = heads
        self.norm = group_norm(channels, groups)
        self.query_key_value = nn.Linear(channels, 3 * channels)
        self.projection = zero(nn.Linear(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        """Return x plus attention, in the shape of x; may overwrite x."""
        tokens = self.norm(x).flatten(2).transpose(1, 2)  # (B, N, channels), N positions
        parts = self.query_key_value(tokens).unflatten(2, (3, self.heads, -1))  # (B, N, 3, heads, channels / heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)  # each (B, heads, N, channels / heads)
        mixed = functional.scaled_dot_product_attention(query, key, value)
        mixed = self.projection(mixed.transpose(1, 2).flatten(2))  # (B, N, channels)
        return add(x, mixed.transpose(1, 2).unflatten(2, x.shape[2:]))


class ResidualBlock(nn.Module):
    """Two convolutions conditioned on the timestep with a shortcut, followed by attention if `heads` > 0.

    The second convolution is zero before training.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the input.
        out_channels: channels of the output.
        embedding_channels: width of the time embedding.
        groups: groups of the normalisations, see `group_norm`.
        time_injection: "as_released": the time embedding is added before the second normalisation, which removes it again
            if its groups have one channel; "fixed": it is then added after this normalisation; "scale_shift": it scales and
            shifts the result of this normalisation.
        dropout: probability of dropout before the second convolution.
        heads: attention heads; 0 for no attention.

    Reference: Ho et al. 2020 (DDPM), App. B; Dhariwal & Nichol 2021 (guided diffusion), Sec. 3 (scale and shift); the released
    code of Bieder et al. 2023 (PatchDDM), whose 29 groups have one channel each at full resolution.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        *,
        embedding_channels: int,
        groups: int | None = None,
        time_injection: TimeInjection = "fixed",
        dropout: float = 0.0,
        heads: int = 0,
    ) -> None:
        super().__init__()
        self.scale_shift = time_injection == "scale_shift"
        self.norm_1 = group_norm(in_channels, groups)
        self.convolution_1 = convolution(spatial_dims, in_channels, out_channels)
        self.time = nn.Linear(embedding_channels, 2 * out_channels if self.scale_shift else out_channels)
        self.norm_2 = group_norm(out_channels, groups)
        self.time_after_norm = time_injection == "fixed" and self.norm_2.num_groups == out_channels
        self.dropout = nn.Dropout(dropout)
        self.convolution_2 = zero(convolution(spatial_dims, out_channels, out_channels))
        self.shortcut = (
            nn.Identity() if in_channels == out_channels else convolution(spatial_dims, in_channels, out_channels, 1)
        )
        self.attention = AttentionBlock(out_channels, heads, groups) if heads else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Map x (B, in_channels, *S) and the time embedding (B, embedding_channels) to (B, out_channels, *S)."""
        h = self.convolution_1(silu(self.norm_1(x)))
        time = self.time(embedding).reshape(len(embedding), -1, *[1] * (x.ndim - 2))
        if self.scale_shift:
            scale, shift = time.chunk(2, dim=1)
            h = self.norm_2(h) * (1 + scale) + shift
        elif self.time_after_norm:
            h = add(self.norm_2(h), time)
        else:
            h = self.norm_2(add(h, time))
        h = self.convolution_2(self.dropout(silu(h)))
        return self.attention(add(h, self.shortcut(x)))


class Downsample(nn.Module):
    """A convolution of stride 2 that halves the spatial size: (B, channels, *S) to (B, channels, *S / 2)."""

    def __init__(self, spatial_dims: int, channels: int) -> None:
        super().__init__()
        self.convolution = convolution(spatial_dims, channels, channels, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """Return features of half the spatial size."""
        return self.convolution(x)


class Upsample(nn.Module):
    """Nearest-neighbour up-sampling by 2, then a convolution: (B, channels, *S) to (B, channels, *2 S)."""

    def __init__(self, spatial_dims: int, channels: int) -> None:
        super().__init__()
        self.convolution = convolution(spatial_dims, channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return features of twice the spatial size."""
        return self.convolution(functional.interpolate(x, scale_factor=2.0, mode="nearest"))
