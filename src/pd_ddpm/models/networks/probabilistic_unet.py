"""The Probabilistic U-Net: a segmentation network whose masks vary with a random latent vector."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal
from torch.nn import functional

from pd_ddpm.models.networks.blocks import convolution, require_divisible

AVERAGE_POOLS = {2: functional.avg_pool2d, 3: functional.avg_pool3d}
INTERPOLATIONS = {2: "bilinear", 3: "trilinear"}
# Limits of the logarithm of a standard deviation: far beyond learnt values, and every KL divergence stays finite.
LOG_SIGMA_RANGE = (-10.0, 10.0)


class ProbabilisticUNet(nn.Module):
    """The Probabilistic U-Net for masks of lesions or of classes, for slices and volumes.

    A block is three 3x3 convolutions with ReLU; there is no normalisation. Pooling averages. Four 1x1 convolutions join
    the latent vector to the U-Net's features. With two image channels and the default sizes there are 5.0 million
    parameters in 2D. Unlike in the public PyTorch port, up-sampling does not align corners: features would otherwise
    shift with the size of the image, and whole slices are larger than training patches.

    Spatial sizes must be multiples of `divisor`, 2 ** (levels - 1).

    Args:
        spatial_dims: 2 for slices (H, W), 3 for volumes (D, H, W).
        in_channels: image channels M.
        out_channels: 1 for lesions, or the number of classes with background, C.
        channels: width of each level of the U-Net and of both encoders (public port: 32, 64, 128, 192).
        latent: length of the latent vector z (public port: 6).

    Raises:
        ValueError: if there are fewer than two levels, or `spatial_dims` is neither 2 nor 3.

    Reference: Kohl et al. 2018 (Probabilistic U-Net), Sec. 2.
    """

    def __init__(
        self,
        *,
        spatial_dims: int,
        in_channels: int,
        out_channels: int = 1,
        channels: Sequence[int] = (32, 64, 128, 192),
        latent: int = 6,
    ) -> None:
        super().__init__()
        if len(channels) < 2:
            raise ValueError(f"`channels` is {list(channels)}. The Probabilistic U-Net needs at least two widths.")
        self.latent = latent
        self.divisor = 2 ** (len(channels) - 1)
        self.down = Contraction(spatial_dims, in_channels, channels)
        self.up = nn.ModuleList(_block(spatial_dims, width + coarser, width) for width, coarser in pairwise(channels))
        self.prior_encoder = GaussianEncoder(spatial_dims, in_channels, channels, latent)
        self.posterior_encoder = GaussianEncoder(spatial_dims, in_channels + out_channels, channels, latent)
        width = channels[0]
        self.combination = nn.Sequential(
            convolution(spatial_dims, width + latent, width, 1),
            nn.ReLU(),
            convolution(spatial_dims, width, width, 1),
            nn.ReLU(),
            convolution(spatial_dims, width, width, 1),
            nn.ReLU(),
            convolution(spatial_dims, width, out_channels, 1),
        )
        _initialise(self)

    def prior(self, image: Tensor) -> Independent:
        """Return p(z | image), a float32 Gaussian over (B, latent), for images (B, M, *S)."""
        return self.prior_encoder(image)

    def posterior(self, image: Tensor, mask: Tensor) -> Independent:
        """Return q(z | image, mask), a float32 Gaussian over (B, latent).

        Args:
            image: (B, M, *S), z-scored.
            mask: (B, C, *S) in [0, 1]; the encoder's input is centred, mask - 0.5.
        """
        return self.posterior_encoder(torch.cat([image, mask - 0.5], dim=1))

    def features(self, image: Tensor) -> Tensor:
        """Return the U-Net's features (B, channels[0], *S) of images (B, M, *S)."""
        *skips, x = self.down(image)
        for skip, block in zip(reversed(skips), reversed(self.up), strict=True):
            x = functional.interpolate(x, scale_factor=2.0, mode=INTERPOLATIONS[x.ndim - 2], align_corners=False)
            x = block(torch.cat([x, skip], dim=1))
        return x

    def decode(self, features: Tensor, z: Tensor) -> Tensor:
        """Return mask logits (B, C, *S) from features (B, channels[0], *S) and latent vectors z (B, latent)."""
        z_map = z.to(features.dtype).reshape(*z.shape, *[1] * (features.ndim - 2)).expand(-1, -1, *features.shape[2:])
        return self.combination(torch.cat([features, z_map], dim=1))

    def forward(self, image: Tensor, noise: Tensor) -> Tensor:
        """Return mask logits (B, C, *S) of a sample from the prior.

        Consecutive rows with equal images, such as members of one ensemble, share one evaluation of features and prior.

        Args:
            image: (B, M, *S), z-scored.
            noise: (B, latent), standard normal; z = prior mean + prior standard deviation * noise.
        """
        is_new = torch.ones(len(image), dtype=torch.bool, device=image.device)
        is_new[1:] = (image[1:] != image[:-1]).flatten(1).any(dim=1)
        index = is_new.cumsum(0) - 1
        prior, features = self.prior(image[is_new]), self.features(image[is_new])
        return self.decode(features[index], prior.mean[index] + prior.stddev[index] * noise)


class Contraction(nn.Module):
    """The encoder of a U-Net: (B, in_channels, *S) to the features of every level, finest first."""

    def __init__(self, spatial_dims: int, in_channels: int, channels: Sequence[int]) -> None:
        super().__init__()
        widths = pairwise([in_channels, *channels])
        self.blocks = nn.ModuleList(_block(spatial_dims, previous, width) for previous, width in widths)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the features of every level; raise ValueError if a spatial size cannot be halved between all levels."""
        require_divisible(x.shape[2:], 2 ** (len(self.blocks) - 1))
        levels = []
        for block in self.blocks:
            x = block(AVERAGE_POOLS[x.ndim - 2](levels[-1], 2) if levels else x)
            levels.append(x)
        return levels


class GaussianEncoder(nn.Module):
    """An encoder (B, in_channels, *S) to an axis-aligned Gaussian over (B, latent), computed from the spatial mean."""

    def __init__(self, spatial_dims: int, in_channels: int, channels: Sequence[int], latent: int) -> None:
        super().__init__()
        self.down = Contraction(spatial_dims, in_channels, channels)
        self.parameters_of_z = nn.Linear(channels[-1], 2 * latent)

    def forward(self, x: Tensor) -> Independent:
        """Return a float32 Gaussian over (B, latent)."""
        coarsest = self.down(x)[-1]
        mean, log_sigma = self.parameters_of_z(coarsest.flatten(2).mean(2)).float().chunk(2, dim=1)
        # Not validated: training checks the loss for NaN, and a check here would wait for the GPU at every call.
        normal = Normal(mean, log_sigma.clamp(*LOG_SIGMA_RANGE).exp(), validate_args=False)
        return Independent(normal, 1, validate_args=False)


def _block(spatial_dims: int, in_channels: int, out_channels: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in (in_channels, out_channels, out_channels):
        layers += [convolution(spatial_dims, width, out_channels), nn.ReLU()]
    return nn.Sequential(*layers)


def _initialise(network: ProbabilisticUNet) -> None:
    """Initialise as the public port: orthogonal in the layers that join z, He et al. 2015 in all others.

    Without normalisation PyTorch's default would let the signal vanish, including the mask's in the parameters of z. The
    posterior would then collapse to the prior before z is used.
    """
    joining_layers = set(network.combination)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d | nn.Linear):
            initialise = nn.init.orthogonal_ if module in joining_layers else nn.init.kaiming_normal_
            initialise(module.weight)
            nn.init.zeros_(module.bias)
