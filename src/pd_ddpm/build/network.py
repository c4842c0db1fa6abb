"""A network's settings to the model that is trained and sampled from."""

from typing import Any

from torch import nn

from pd_ddpm.denoiser import Denoiser
from pd_ddpm.masks import CODINGS
from pd_ddpm.networks.denoising_unet import DenoisingUNet
from pd_ddpm.networks.supervised import attention_unet, unet
from pd_ddpm.schedule import SCHEDULES

SEGMENTATION_NETWORKS = {"unet": unet, "attention_unet": attention_unet}


def model(settings: dict[str, Any], image_channels: int) -> nn.Module:
    """The untrained model of these network settings (one entry of `networks` in the configuration).

    Segmentation networks: image (B, M, *S) -> logits (B, 1, *S). "denoising_unet": a Denoiser.
    """
    if settings["architecture"] in SEGMENTATION_NETWORKS:
        return SEGMENTATION_NETWORKS[settings["architecture"]](
            spatial_dims=settings["spatial_dims"], in_channels=image_channels, channels=settings["channels"]
        )
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
    return Denoiser(network, schedule, CODINGS[settings["mask_coding"]], settings["predicts"])
