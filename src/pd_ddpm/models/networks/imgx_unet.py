"""The U-Net of Fu et al. 2024, for slices and volumes, with the timestep as an input and without it.

Written after the architecture of the released code (ImgX-DiffSeg, Apache License 2.0). Skips are added, the first down-sampling
may differ between axes, and a transformer layer lies at the bottom.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from pd_ddpm.models.networks.blocks import CONVOLUTIONS, compute_again, require_divisible, sinusoids

TRANSPOSED = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
HEAD_SHARE = 4  # a head has the width of the model divided by this
MLP_FACTOR = 4


@dataclass(frozen=True, kw_only=True)
class ImgXUNetSettings:
    """Sizes and options of an `ImgXUNet`.

    Attributes:
        spatial_dims: 2 for slices, 3 for volumes.
        in_channels: channels of the input.
        out_channels: channels of the logits.
        channels: width of each level, finest first (Fu et al.: 32, 64, 128, 256).
        residual_blocks: blocks per level of the encoder; the decoder has one more (Fu et al.: 2).
        heads: heads of the transformer layer (Fu et al.: 8).
        first_downsampling: factor of the first down-sampling along each axis; None: 2 along all. All others are 2.
        dropout: probability of dropout between the convolutions of a block.
        num_timesteps: T of the diffusion process; None: the network has no timestep.
        time_injection: "fixed": the timestep is added after the second normalisation of a block; "as_released": before this
            normalisation, which removes it again, since it is constant over space.
        activation_checkpointing: whether the backward pass computes the activations within each block again.
    """

    spatial_dims: int
    in_channels: int
    out_channels: int
    channels: Sequence[int] = (32, 64, 128, 256)
    residual_blocks: int = 2
    heads: int = 8
    first_downsampling: Sequence[int] | None = None
    dropout: float = 0.0
    num_timesteps: int | None = None
    time_injection: Literal["fixed", "as_released"] = "fixed"
    activation_checkpointing: bool = False


class ImgXBlock(nn.Module):
    """Two convolutions with instance normalisation and GELU, a shortcut, and the timestep if it has one.

    Args:
        settings: those of the network.
        channels: width of input and output.
    """

    def __init__(self, settings: ImgXUNetSettings, channels: int) -> None:
        super().__init__()
        self.convolution_1 = _convolution(settings.spatial_dims, channels, channels)
        self.norm_1 = _norm(settings.spatial_dims, channels)
        self.dropout = nn.Dropout(settings.dropout)
        self.convolution_2 = _convolution(settings.spatial_dims, channels, channels)
        self.norm_2 = _norm(settings.spatial_dims, channels)
        self.time = None if settings.num_timesteps is None else nn.Linear(settings.channels[-1], channels)
        self.time_after_norm = settings.time_injection == "fixed"

    def forward(self, x: Tensor, embedding: Tensor | None) -> Tensor:
        """Map x (B, channels, *S) and the activated time embedding (B, width) to the shape of x."""
        h = self.convolution_2(self.dropout(functional.gelu(self.norm_1(self.convolution_1(x)))))
        if self.time is None:
            return functional.gelu(self.norm_2(h) + x)
        time = self.time(embedding).reshape(len(embedding), -1, *[1] * (x.ndim - 2))
        h = self.norm_2(h) + time if self.time_after_norm else self.norm_2(h + time)
        return functional.gelu(h + x)


class TransformerLayer(nn.Module):
    """A pre-norm transformer layer over all positions, without position embedding: (B, channels, *S) to the same shape.

    Reference: Vaswani et al. 2017 (Transformer), Sec. 3; Xiong et al. 2020 (pre-norm).
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_1, self.norm_2, self.norm_3 = (nn.LayerNorm(channels) for _ in range(3))
        width = channels // HEAD_SHARE * heads
        self.query_key_value = nn.Linear(channels, 3 * width)
        self.projection = nn.Linear(width, channels)
        self.mlp = nn.Sequential(
            nn.Linear(channels, MLP_FACTOR * channels), nn.GELU(), nn.Linear(MLP_FACTOR * channels, channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the features after attention and MLP."""
        tokens = x.flatten(2).transpose(1, 2)  # (B, N, channels), N positions
        parts = self.query_key_value(self.norm_1(tokens)).unflatten(2, (3, self.heads, -1))
        query, key, value = parts.permute(2, 0, 3, 1, 4)  # each (B, heads, N, width / heads)
        mixed = functional.scaled_dot_product_attention(query, key, value)
        tokens = tokens + self.projection(mixed.transpose(1, 2).flatten(2))
        tokens = self.norm_3(tokens + self.mlp(self.norm_2(tokens)))
        return tokens.transpose(1, 2).unflatten(2, x.shape[2:])


class ImgXUNet(nn.Module):
    """The U-Net of Fu et al. 2024, with the timestep for a denoiser, and without it for a segmentation network.

    Spatial sizes must be multiples of `divisor`.

    Raises:
        ValueError: there are fewer than two levels, or a width or a factor does not fit.

    Reference: Fu et al. 2024 (recycling), Sec. 3 ("U-Net with transformer at bottom").
    """

    def __init__(self, settings: ImgXUNetSettings) -> None:
        super().__init__()
        dims, channels = settings.spatial_dims, settings.channels
        first = tuple(settings.first_downsampling or [2] * dims)
        if len(channels) < 2 or channels[-1] % HEAD_SHARE:
            raise ValueError(
                f"`channels` is {list(channels)}. Give at least two widths, the last one a multiple of {HEAD_SHARE}."
            )
        if len(first) != dims or not set(first) <= {1, 2, 4}:
            raise ValueError(f"`first_downsampling` is {list(first)}. Give a factor of 1, 2 or 4 for each of the {dims} axes.")
        self.divisor = max(first) * 2 ** (len(channels) - 2)
        self.num_timesteps = settings.num_timesteps
        self.embedding_width = channels[-1]
        self.activation_checkpointing = settings.activation_checkpointing
        factors = [first, *[(2,) * dims] * (len(channels) - 2)]

        self.first = nn.Sequential(_convolution(dims, settings.in_channels, channels[0]), _norm(dims, channels[0]), nn.GELU())
        self.down, self.up = nn.ModuleDict(), nn.ModuleDict()
        for level, width in enumerate(channels):
            for number in range(1, settings.residual_blocks + 1):
                self.down[f"level_{level}_block_{number}"] = ImgXBlock(settings, width)
            if level < len(factors):
                down = CONVOLUTIONS[dims](width, channels[level + 1], factors[level], factors[level], bias=False)
                self.down[f"level_{level}_down"] = nn.Sequential(down, _norm(dims, channels[level + 1]))
        self.bottom_1, self.bottom_2 = (ImgXBlock(settings, channels[-1]) for _ in range(2))
        self.transformer = TransformerLayer(channels[-1], settings.heads)
        for level in range(len(channels) - 1, -1, -1):
            for number in range(1, settings.residual_blocks + 2):
                self.up[f"level_{level}_block_{number}"] = ImgXBlock(settings, channels[level])
            if level > 0:
                factor, width = factors[level - 1], channels[level - 1]
                up = TRANSPOSED[dims](channels[level], width, factor, factor, bias=False)
                self.up[f"level_{level}_up"] = nn.Sequential(up, _norm(dims, width))
        self.last = CONVOLUTIONS[dims](channels[0], settings.out_channels, 1)

    def forward(self, x: Tensor, t: Tensor | None = None) -> Tensor:
        """Predict logits.

        Args:
            x: (B, in_channels, *S), images and, for a denoiser, noisy masks.
            t: (B,), timesteps in 1..T for a denoiser.

        Returns:
            (B, out_channels, *S).

        Raises:
            ValueError: if a spatial size is not a multiple of `divisor`.
        """
        require_divisible(x.shape[2:], self.divisor)
        embedding = None
        if self.num_timesteps is not None:
            # The reference's times lie in (0, 1] and are multiplied by 10,000. The angles need float32.
            embedding = sinusoids(10_000 * t.float() / self.num_timesteps, self.embedding_width).to(self.last.weight.dtype)
            embedding = functional.gelu(embedding)
        h = self.first(x)
        skips = [h]
        for module in self.down.values():
            h = self._run(module, h, embedding)
            skips.append(h)
        h = self._run(self.bottom_1, h, embedding)
        h = self._run(self.bottom_2, self.transformer(h), embedding)
        for module in self.up.values():
            h = self._run(module, h + skips.pop() if isinstance(module, ImgXBlock) else h, embedding)
        return self.last(h)

    def _run(self, module: nn.Module, h: Tensor, embedding: Tensor | None) -> Tensor:
        """Return the output of a block or of a change of resolution."""
        if not isinstance(module, ImgXBlock):
            return module(h)
        if self.activation_checkpointing and torch.is_grad_enabled():
            return compute_again(module, h, embedding)
        return module(h, embedding)


def imgx_unet(*, spatial_dims: int, in_channels: int, out_channels: int = 1, **settings: Any) -> ImgXUNet:
    """Return the untrained segmentation network without a timestep: image (B, M, *S) to lesion logits (B, 1, *S).

    Args:
        spatial_dims: 2 for slices, 3 for volumes.
        in_channels: image channels M.
        out_channels: 1 for lesions, or the number of classes with background, C.
        settings: further fields of `ImgXUNetSettings`.
    """
    sizes = {"spatial_dims": spatial_dims, "in_channels": in_channels, "out_channels": out_channels}
    return ImgXUNet(ImgXUNetSettings(**sizes, **settings))


def _convolution(spatial_dims: int, in_channels: int, out_channels: int) -> nn.Module:
    return CONVOLUTIONS[spatial_dims](in_channels, out_channels, 3, padding=1, bias=False)


class _ContiguousGradient(torch.autograd.Function):
    """The identity, with a contiguous gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient.contiguous()


class _RightGradient:
    """A normalisation whose gradient is right for batches of one image.

    On the CPU, PyTorch's instance normalisation (version 2.13) computes wrong ones if its incoming gradient is not contiguous,
    as that of a transformer layer.
    """

    def forward(self, x: Tensor) -> Tensor:
        output = super().forward(x)
        return _ContiguousGradient.apply(output) if torch.is_grad_enabled() else output


class _InstanceNorm2d(_RightGradient, nn.InstanceNorm2d):
    pass


class _InstanceNorm3d(_RightGradient, nn.InstanceNorm3d):
    pass


def _norm(spatial_dims: int, channels: int) -> nn.Module:
    return {2: _InstanceNorm2d, 3: _InstanceNorm3d}[spatial_dims](channels, affine=True)
