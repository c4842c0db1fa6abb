"""Build models from a network's settings in the configuration, and load trained ones."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from pd_ddpm.diffusion.denoiser import Denoiser
from pd_ddpm.diffusion.mask_coding import CODINGS
from pd_ddpm.diffusion.schedule import SCHEDULES
from pd_ddpm.diffusion.truncated_denoiser import TruncatedDenoiser
from pd_ddpm.models.coordinates import num_image_inputs
from pd_ddpm.models.mask_channels import num_mask_channels
from pd_ddpm.models.networks.denoising_unet import DenoisingUNet, DenoisingUNetSettings
from pd_ddpm.models.networks.discriminator import PatchDiscriminator
from pd_ddpm.models.networks.imgx_unet import ImgXUNet, ImgXUNetSettings, imgx_unet
from pd_ddpm.models.networks.probabilistic_unet import ProbabilisticUNet
from pd_ddpm.models.networks.supervised import attention_unet, unet, unet_plus_plus
from pd_ddpm.models.weights import WeightsKind, assign_weights, check_fit, load_weights

# Architecture: its class or function, and its settings in addition to the numbers of dimensions and channels.
SEGMENTATION_NETWORKS = {
    "unet": (unet, ["channels", "dropout"]),
    "attention_unet": (attention_unet, ["channels"]),
    "unet_plus_plus": (unet_plus_plus, ["channels"]),
    "imgx_unet": (
        imgx_unet,
        ["channels", "residual_blocks", "heads", "first_downsampling", "dropout", "activation_checkpointing"],
    ),
    "probabilistic_unet": (ProbabilisticUNet, ["channels", "latent"]),
}


def build_model(settings: dict[str, Any], image_channels: int) -> nn.Module:
    """Return the untrained model of one entry of `networks` in the configuration.

    Args:
        settings: resolved settings of the network.
        image_channels: number of image channels M, without coordinates.

    Returns:
        A `Denoiser` for "denoising_unet" and a `TruncatedDenoiser` for "truncated_denoising_unet". Otherwise a network:
        image (B, M, *S) -> logits (B, C, *S); that of "probabilistic_unet" also takes noise (B, latent). With the setting
        `coordinates`, images have coordinate channels after the M others, see `models/coordinates.py`. Masks have one channel
        (C = 1), or with the setting `labels` one for background and one for each label.
    """
    model = _build(settings, num_image_inputs(settings, image_channels))
    model.coordinates = settings.get("coordinates", False)
    model.mask_channels = num_mask_channels(settings)
    return model


def _build(settings: dict[str, Any], image_inputs: int) -> nn.Module:
    """Return the model of `build_model` for images with this number of channels."""
    num_masks = num_mask_channels(settings)
    if settings["architecture"] in SEGMENTATION_NETWORKS:
        network_type, keys = SEGMENTATION_NETWORKS[settings["architecture"]]
        arguments = {key: settings[key] for key in keys}
        sizes = {"spatial_dims": settings["spatial_dims"], "in_channels": image_inputs, "out_channels": num_masks}
        return network_type(**sizes, **arguments)
    schedule = SCHEDULES[settings["schedule"]](settings["T"])
    denoiser_arguments = (
        _denoising_network(settings, image_inputs),
        schedule,
        CODINGS[settings["mask_coding"]],
        settings["predicts"],
    )
    # Bundles of earlier versions lack these.
    skip, clips_input = settings.get("likelihood_skip", False), settings.get("clip_input", False)
    if settings["architecture"] == "denoising_unet":
        return Denoiser(
            *denoiser_arguments,
            likelihood_skip=skip,
            self_conditioned=is_self_conditioned(settings),
            clip_input=clips_input,
        )
    discriminator = PatchDiscriminator(
        spatial_dims=settings["spatial_dims"], in_channels=image_inputs + num_masks, channels=settings["discriminator_channels"]
    )
    truncated = TruncatedDenoiser(
        *denoiser_arguments,
        t_max=settings["t_max"],
        head=settings["head"],
        discriminator=discriminator,
        likelihood_skip=skip,
    )
    truncated.clip_input = clips_input
    return truncated


def _denoising_network(settings: dict[str, Any], image_inputs: int) -> nn.Module:
    """Return the network of a denoiser for images with this number of channels."""
    num_masks = num_mask_channels(settings)
    common = {
        "spatial_dims": settings["spatial_dims"],
        "in_channels": image_inputs + num_masks * (2 if is_self_conditioned(settings) else 1),
        "out_channels": num_masks,
        "residual_blocks": settings["residual_blocks"],
        "heads": settings["heads"],
        "dropout": settings["dropout"],
        # Bundles of earlier versions lack these.
        "time_injection": settings.get("time_injection", "fixed"),
        "activation_checkpointing": settings.get("activation_checkpointing", False),
    }
    if settings.get("backbone", "guided") == "imgx":
        widths = [settings["channels"] * multiplier for multiplier in settings["multipliers"]]
        imgx = {"first_downsampling": settings["first_downsampling"], "num_timesteps": settings["T"]}
        return ImgXUNet(ImgXUNetSettings(**common, **imgx, channels=widths))
    network_settings = DenoisingUNetSettings(
        **common,
        channels=settings["channels"],
        multipliers=settings["multipliers"],
        attention_at=settings["attention_at"],
        skip=settings["skip"],
        scale_shift=settings["scale_shift"],
        # Bundles of earlier versions lack these.
        groups=settings.get("groups"),
        middle_attention=settings.get("middle_attention", True),
    )
    return DenoisingUNet(network_settings)


def is_self_conditioned(settings: Mapping[str, Any]) -> bool:
    """Return whether a network with these settings also sees the estimate of the step before."""
    return settings.get("strategy", "").startswith("self_conditioning")  # bundles of earlier versions lack it


def load_model(
    weights: Path,
    metadata_file: Path,
    checkpoint: str = "selected",
    kind: Literal["selected"] | WeightsKind = "selected",
) -> tuple[nn.Module, dict[str, Any]]:
    """Return a trained model and its metadata.

    Args:
        weights: safetensors file of the network.
        metadata_file: JSON file next to it.
        checkpoint: "selected", or the name of an early checkpoint, such as "early-1".
        kind: "selected": the weights that were validated; "raw" or "ema": these, whichever were validated.

    Returns:
        The model with its weights on the CPU, and the content of the metadata file.

    Raises:
        CheckpointError: if the files are damaged or do not belong together.
    """
    tensors, metadata = load_weights(weights, metadata_file, checkpoint, kind)
    arguments = metadata["settings"], metadata["image_channels"]
    # Without memory first, since an edited metadata file may name any widths.
    with torch.device("meta"):
        check_fit(build_model(*arguments), tensors, weights)
    model = build_model(*arguments)
    assign_weights(model, tensors, weights)
    return model, metadata
