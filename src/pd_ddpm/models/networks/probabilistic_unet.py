"""The Probabilistic U-Net: a segmentation network with a random vector behind what the image leaves open."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal
from torch.nn import functional

from pd_ddpm.models.networks.blocks import convolution, require_divisible

AVERAGE_POOLS = {2: functional.avg_pool2d, 3: functional.avg_pool3d}
INTERPOLATIONS = {2: "bilinear", 3: "trilinear"}
# Logarithm of a standard deviation: far beyond what is learnt, and every divergence of two such Gaussians is finite.
LOG_SIGMA_RANGE = (-10.0, 10.0)


class ProbabilisticUNet(nn.Module):
    """The Probabilistic U-Net (Kohl et al. 2018) for one binary mask, for slices and volumes.

    spatial_dims   2 for slices (H, W), 3 for volumes (D, H, W)
    in_channels    image channels M
    channels       width of each level of the U-Net and of both encoders (public PyTorch port: 32, 64, 128, 192)
    latent         length of the random vector z (public PyTorch port: 6)

    A block is three 3x3 convolutions with ReLU, pooling averages, there is no normalisation; the vector joins at the end in
    four 1x1 convolutions. With two image channels and the port's sizes 5.0 million parameters in 2D. Up-sampling does not
    align corners, unlike the port's: otherwise features would shift with the size of the image, and whole slices are
    larger than training patches. Spatial sizes must be multiples of `divisor`, 2 to the power of levels - 1.
    Raises ValueError where there are fewer than two levels or `spatial_dims` is neither 2 nor 3.
    """

    def __init__(
        self, *, spatial_dims: int, in_channels: int, channels: Sequence[int] = (32, 64, 128, 192), latent: int = 6
    ) -> None:
        super().__init__()
        if len(channels) < 2:
            raise ValueError(f"channels is {list(channels)}; the Probabilistic U-Net needs at least two widths")
        self.latent = latent
        self.divisor = 2 ** (len(channels) - 1)
        self.down = Contraction(spatial_dims, in_channels, channels)
        self.up = nn.ModuleList(_block(spatial_dims, here + below, here) for here, below in pairwise(channels))
        self.prior_encoder = GaussianEncoder(spatial_dims, in_channels, channels, latent)
        self.posterior_encoder = GaussianEncoder(spatial_dims, in_channels + 1, channels, latent)
        width = channels[0]
        self.combination = nn.Sequential(
            convolution(spatial_dims, width + latent, width, 1),
            nn.ReLU(),
            convolution(spatial_dims, width, width, 1),
            nn.ReLU(),
            convolution(spatial_dims, width, width, 1),
            nn.ReLU(),
            convolution(spatial_dims, width, 1, 1),
        )
        _initialise(self)

    def prior(self, image: Tensor) -> Independent:
        """p(z | image), a Gaussian for each image: (B, M, *S) to a distribution over (B, latent), in float32."""
        return self.prior_encoder(image)

    def posterior(self, image: Tensor, mask: Tensor) -> Independent:
        """q(z | image, mask), likewise; mask: (B, 1, *S) in [0, 1], which the encoder sees centred about 0."""
        return self.posterior_encoder(torch.cat([image, mask - 0.5], dim=1))

    def features(self, image: Tensor) -> Tensor:
        """What the U-Net makes of an image: (B, M, *S) to (B, channels[0], *S)."""
        *skips, x = self.down(image)
        for skip, block in zip(reversed(skips), reversed(self.up), strict=True):
            x = functional.interpolate(x, scale_factor=2.0, mode=INTERPOLATIONS[x.ndim - 2], align_corners=False)
            x = block(torch.cat([x, skip], dim=1))
        return x

    def decode(self, features: Tensor, z: Tensor) -> Tensor:
        """Mask logits (B, 1, *S) of these features and vectors z (B, latent)."""
        everywhere = z.to(features.dtype).reshape(*z.shape, *[1] * (features.ndim - 2)).expand(-1, -1, *features.shape[2:])
        return self.combination(torch.cat([features, everywhere], dim=1))

    def forward(self, image: Tensor, noise: Tensor) -> Tensor:
        """Mask logits (B, 1, *S) of a draw from the prior, its mean + standard deviation * noise (B, latent).

        Features and prior of equal images that follow each other, several draws of one image, are computed once.
        """
        begins = torch.ones(len(image), dtype=torch.bool, device=image.device)
        begins[1:] = (image[1:] != image[:-1]).flatten(1).any(dim=1)
        place = begins.cumsum(0) - 1
        prior, features = self.prior(image[begins]), self.features(image[begins])
        return self.decode(features[place], prior.mean[place] + prior.stddev[place] * noise)


class Contraction(nn.Module):
    """The way down of a U-Net: (B, in_channels, *S) to the features of every level, finest first."""

    def __init__(self, spatial_dims: int, in_channels: int, channels: Sequence[int]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(_block(spatial_dims, before, width) for before, width in pairwise([in_channels, *channels]))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Raises ValueError where a spatial size cannot be halved between all levels."""
        require_divisible(x.shape[2:], 2 ** (len(self.blocks) - 1))
        levels = []
        for block in self.blocks:
            x = block(AVERAGE_POOLS[x.ndim - 2](levels[-1], 2) if levels else x)
            levels.append(x)
        return levels


class GaussianEncoder(nn.Module):
    """(B, in_channels, *S) to an axis-aligned Gaussian over (B, latent), whose parameters are read off the spatial mean."""

    def __init__(self, spatial_dims: int, in_channels: int, channels: Sequence[int], latent: int) -> None:
        super().__init__()
        self.down = Contraction(spatial_dims, in_channels, channels)
        self.parameters_of_z = nn.Linear(channels[-1], 2 * latent)

    def forward(self, x: Tensor) -> Independent:
        coarsest = self.down(x)[-1]
        mean, log_sigma = self.parameters_of_z(coarsest.flatten(2).mean(2)).float().chunk(2, dim=1)
        # Unchecked: a NaN is reported by whoever looks at the loss, and a check would wait for the GPU at every call.
        normal = Normal(mean, log_sigma.clamp(*LOG_SIGMA_RANGE).exp(), validate_args=False)
        return Independent(normal, 1, validate_args=False)


def _block(spatial_dims: int, in_channels: int, out_channels: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in (in_channels, out_channels, out_channels):
        layers += [convolution(spatial_dims, width, out_channels), nn.ReLU()]
    return nn.Sequential(*layers)


def _initialise(network: ProbabilisticUNet) -> None:
    """As in the public port: orthogonal where z joins, He et al. 2015 in all other layers.

    Without normalisation PyTorch's own start would let the signal fade, also that of the mask in the parameters of z: the
    posterior then falls back on the prior before z is made use of.
    """
    joined = set(network.combination)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d | nn.Linear):
            start = nn.init.orthogonal_ if module in joined else nn.init.kaiming_normal_
            start(module.weight)
            nn.init.zeros_(module.bias)
