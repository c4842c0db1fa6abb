"""Coordinate channels against numpy, and the networks that have them (about 2 s)."""

import numpy as np
import pytest
import torch

from pd_ddpm.models.coordinates import add_coordinates, has_coordinates
from pd_ddpm.models.factory import build_model

PATCH_DDPM = {
    "architecture": "denoising_unet",
    "spatial_dims": 3,
    "channels": 29,
    "multipliers": [1, 3, 4, 4, 4, 4, 4],
    "residual_blocks": 2,
    "attention_at": [],
    "middle_attention": False,
    "heads": 1,
    "skip": "average",
    "groups": 29,
    "scale_shift": False,
    "dropout": 0.0,
    "schedule": "linear",
    "T": 1000,
    "mask_coding": "binary",
    "predicts": "noise",
}


@pytest.mark.parametrize("size", [(5, 8), (3, 4, 6)])
def test_add_coordinates_appends_positions_from_minus_1_to_1_in_order_of_axes(size):
    image = torch.randn(2, 3, *size)
    result = add_coordinates(image)
    assert torch.equal(result[:, :3], image)
    expected = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in size), indexing="ij"))
    for row in result[:, 3:]:
        np.testing.assert_allclose(row, expected, atol=1e-6)


def test_patch_ddm_with_four_scans_and_coordinates_has_size_of_authors_code():
    with torch.device("meta"):
        model = build_model(PATCH_DDPM | {"coordinates": True}, image_channels=4)
    assert sum(parameter.numel() for parameter in model.parameters()) == 24_260_299
    assert model.network.first.in_channels == 8
    assert has_coordinates(model)


@pytest.mark.parametrize(
    "changes",
    [
        {"architecture": "unet", "channels": [4, 4, 4, 4, 4], "dropout": 0.0},
        {"architecture": "attention_unet", "channels": [4, 4]},
        {"architecture": "unet_plus_plus", "channels": [4, 4, 4, 4, 4]},
        {"architecture": "probabilistic_unet", "channels": [4, 4], "latent": 2},
    ],
    ids=lambda changes: changes["architecture"],
)
@pytest.mark.parametrize("coordinates", [False, True])
def test_build_model_makes_room_for_coordinates(changes, coordinates):
    model = build_model({"spatial_dims": 2, "coordinates": coordinates} | changes, image_channels=2).eval()
    assert has_coordinates(model) == coordinates
    image = torch.randn(1, 2, 16, 32)
    noise = [torch.zeros(1, 2)] if changes["architecture"] == "probabilistic_unet" else []
    assert model(add_coordinates(image) if coordinates else image, *noise).shape == (1, 1, 16, 32)
