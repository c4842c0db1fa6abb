"""A network's settings to the model that is trained and sampled from."""

from pathlib import Path
from typing import Any

from torch import nn

from pd_ddpm.diffusion.denoiser import Denoiser
from pd_ddpm.diffusion.mask_coding import CODINGS
from pd_ddpm.diffusion.schedule import SCHEDULES
from pd_ddpm.diffusion.truncated_denoiser import TruncatedDenoiser
from pd_ddpm.models.networks.denoising_unet import DenoisingUNet
from pd_ddpm.models.networks.discriminator import PatchDiscriminator
from pd_ddpm.models.networks.probabilistic_unet import ProbabilisticUNet
from pd_ddpm.models.networks.supervised import attention_unet, unet, unet_plus_plus
from pd_ddpm.models.weights import fill, load_weights

# Each architecture with the settings that are its own.
SEGMENTATION_NETWORKS = {
    "unet": (unet, ["channels", "dropout"]),
    "attention_unet": (attention_unet, ["channels"]),
    "unet_plus_plus": (unet_plus_plus, ["channels"]),
    "probabilistic_unet": (ProbabilisticUNet, ["channels", "latent"]),
}


def model(settings: dict[str, Any], image_channels: int) -> nn.Module:
    """The untrained model of these network settings (one entry of `networks` in the configuration).

    Segmentation networks: image (B, M, *S) -> logits (B, 1, *S), of the "probabilistic_unet" with noise (B, latent) besides.
    "denoising_unet": a Denoiser; "truncated_denoising_unet": a TruncatedDenoiser.
    """
    if settings["architecture"] in SEGMENTATION_NETWORKS:
        network, own = SEGMENTATION_NETWORKS[settings["architecture"]]
        shape = {key: settings[key] for key in own}
        return network(spatial_dims=settings["spatial_dims"], in_channels=image_channels, **shape)
    network = DenoisingUNet(
        spatial_dims=settings["spatial_dims"],
        in_channels=image_channels + 1,
        out_channels=1,
        channels=settings["channels"],
        multipliers=settings["multipliers"],
        residual_blocks=settings["residual_blocks"],
        attention_at=settings["attention_at"],
        heads=settings["heads"],
        skip=settings["skip"],
        scale_shift=settings["scale_shift"],
        dropout=settings["dropout"],
    )
    schedule = SCHEDULES[settings["schedule"]](settings["T"])
    parts = (network, schedule, CODINGS[settings["mask_coding"]], settings["predicts"])
    if settings["architecture"] == "denoising_unet":
        return Denoiser(*parts)
    discriminator = PatchDiscriminator(
        spatial_dims=settings["spatial_dims"], in_channels=image_channels + 1, channels=settings["discriminator_channels"]
    )
    return TruncatedDenoiser(*parts, t_max=settings["t_max"], head=settings["head"], discriminator=discriminator)


def trained_model(weights: Path, card: Path, which: str = "selected") -> tuple[nn.Module, dict[str, Any]]:
    """A model with its trained weights (the selected ones, or an early checkpoint's), and its card.

    Raises CheckpointError if the files are damaged or do not belong together.
    """
    tensors, trained = load_weights(weights, card, which)
    network = model(trained["settings"], trained["image_channels"])
    fill(network, tensors, weights)
    return network, trained
