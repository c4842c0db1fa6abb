"""Training on patches of volumes: every architecture, with coordinates and validation of whole volumes (about 15 s)."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from training_examples import folder_trainer

from pd_ddpm.config import load, resolve
from pd_ddpm.diffusion.noise import MethodNoise
from pd_ddpm.inference.factory import build_segmenter
from pd_ddpm.models.coordinates import add_coordinates
from pd_ddpm.models.factory import build_model
from pd_ddpm.training.factory import build_objective
from pd_ddpm.training.patches import CaseSlices, PatchSettings

CONFIG = load.read(None, {"scale": "paper"})
COMMON = {"spatial_dims": 3, "coordinates": True}
DENOISER = {
    "channels": 6,
    "multipliers": [1, 3],
    "residual_blocks": 1,
    "attention_at": [],
    "middle_attention": False,
    "skip": "average",
    "groups": 6,
    "predicts": "mask",
    "mask_loss": "cross_entropy_dice",
    "validation_chain_steps": 2,
    "recycled_share": 0.5,
    "recycled_from": "next",
}
NETWORKS = {
    "unet": {"channels": [2, 2, 2, 2, 2]},
    "bayesian-unet": {"channels": [2, 2, 2, 2, 2]},
    "attunet": {"channels": [2, 2, 2]},
    "unet-plus-plus": {"channels": [2, 2, 2, 2, 2]},
    "probabilistic-unet": {"channels": [2, 2]},
    "denoiser": DENOISER,
    "truncated-denoiser": DENOISER | {"discriminator_channels": 2, "head": "mean_plus_noise", "warm_up": 0.0},
}


def volume(name, size=(20, 18, 17)):
    """A volume of noise with a bright ball of lesion and a dark one of label 2."""
    random = np.random.default_rng([0, *name.encode()])
    grid = np.stack(np.meshgrid(*map(np.arange, size), indexing="ij"))
    balls = [((grid - random.integers(5, 12, 3).reshape(3, 1, 1, 1)) ** 2).sum(axis=0) < 14 for _ in range(2)]
    fractions = np.stack([balls[0], balls[1] & ~balls[0]]).astype(np.float32)[None]
    image = random.normal(0, 0.3, (1, 2, *size)).astype(np.float32)
    image[0, 0] += 2 * fractions[0, 0] - 2 * fractions[0, 1]
    return CaseSlices(name, torch.from_numpy(image), torch.from_numpy(fractions), [0])


CASES, VALIDATION = [volume("a"), volume("b")], [volume("v")]


def settings_of(name, **changes):
    return resolve.network(CONFIG, name) | COMMON | NETWORKS[name] | changes


def model_and_trainer(settings, **changes):
    torch.manual_seed(0)
    model = build_model(settings, image_channels=2)
    patches = PatchSettings((16, 16, 16), None, (0, 2), 0.1, "centre_weighted", coordinates=True)
    changes = {"validation": VALIDATION, "steps": 2, "validate_every": 2, "patches": patches} | changes
    return model, folder_trainer(model, build_objective(settings), CASES, **changes)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_architecture_trains_on_patches_and_validates_on_volumes(name, tmp_path):
    model, trainer = model_and_trainer(settings_of(name))
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    result = trainer.fit(tmp_path)
    assert math.isfinite(result.history[-1]["loss"])
    assert 0 <= result.history[-1]["validation_dice"] <= 1
    assert any(not torch.equal(before[name], parameter) for name, parameter in model.named_parameters())


def test_denoiser_learns_to_segment_volumes_from_patches(tmp_path):
    """Chains over whole volumes, whose size no patch had, find the bright ball."""
    _, trainer = model_and_trainer(
        settings_of("denoiser", recycled_share=0.0), steps=60, validate_every=60, learning_rate=2e-2, ema_decay=0.5
    )
    assert trainer.fit(tmp_path).history[-1]["validation_dice"] > 0.6


@pytest.mark.parametrize("kind", ["deterministic", "dropout", "latent", "diffusion"])
def test_every_segmenter_samples_a_whole_volume(kind):
    names = {"deterministic": "unet", "dropout": "bayesian-unet", "latent": "probabilistic-unet", "diffusion": "denoiser"}
    torch.manual_seed(0)
    model = build_model(settings_of(names[kind]), image_channels=2).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    chain = {"start": "presegmentation", "t_start": 300, "sampler": "ancestral", "variance": "large", "reverse_steps": 10}
    segmenter = build_segmenter({"segmenter": kind, "pool": 2} | chain, model)
    assert segmenter.coordinates
    image = add_coordinates(torch.randn(1, 2, 32, 16, 16)).expand(segmenter.num_members, -1, -1, -1, -1)
    noise = MethodNoise("method", 0).for_members("case", [(0, member) for member in range(segmenter.num_members)])
    with torch.inference_mode():
        samples = segmenter(image, torch.zeros(len(image), 1, 32, 16, 16), noise)
    assert samples.shape == (len(image), 1, 32, 16, 16)
    assert ((samples >= 0) & (samples <= 1)).all()
    if len(samples) > 1:
        assert not torch.equal(samples[0], samples[1])
