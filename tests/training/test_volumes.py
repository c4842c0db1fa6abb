"""Training on patches of volumes: every architecture, with coordinates and validation of whole volumes (about 15 s)."""

import math

import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import GRID
from torch import nn
from training_examples import folder_trainer

from pd_ddpm.config import load, resolve
from pd_ddpm.config.run import Run
from pd_ddpm.data.working_grid import GridSettings
from pd_ddpm.diffusion.noise import MethodNoise
from pd_ddpm.inference.factory import build_segmenter
from pd_ddpm.inference.gate_network import gate_network
from pd_ddpm.inference.job import GateJob, ProbeJob
from pd_ddpm.inference.probe import probe_network
from pd_ddpm.inference.sample_cases import sample_cases
from pd_ddpm.models.coordinates import add_coordinates
from pd_ddpm.models.factory import build_model
from pd_ddpm.runtime.backend import Backend
from pd_ddpm.runtime.compute import Compute
from pd_ddpm.training.factory import build_objective
from pd_ddpm.training.job import open_states, read_data, train, write_result
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
    "strategy": "recycling_next",
    "strategy_share": 0.5,
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
        settings_of("denoiser", strategy="diffusion"), steps=60, validate_every=60, learning_rate=2e-2, ema_decay=0.5
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


def test_jobs_train_test_and_sample_a_network_of_volumes(tmp_path, prepared, train_job, sample_job, configured):
    """The grid of each job has the dimensions of its network."""
    changes = settings_of("denoiser", steps=2, validate_every=2, batch=1, crop=[8, 8, 4], flip=[2], precision="float32")
    folder = Run("dataset", "denoiser", 0, 0).folder(tmp_path, "networks")
    folder.mkdir(parents=True)
    job = train_job(folder, changes | {"validation_presegmenter": None, "lesion_share": None})
    backend, data = Backend.from_compute(job.compute), read_data(job)
    assert {case.image.shape[:2] for case in data.slices.cases} == {(1, 2)}
    assert {case.image.ndim for case in data.slices.cases} == {5}
    write_result(job, data, backend, train(job, data, backend, open_states(job, data, backend)))

    files = {"weights": job.weights, "network_metadata": job.metadata}
    chain = {"t_start": 1000, "start": "noise", "reverse_steps": 2, "pool": 2, "checkpoint": "selected", "weights": "raw"}
    settings = configured("method", "ddpm", **chain)
    limits = {"cases": 1, "slices": 1, "forward_error": {"bfloat16": 0.02}, "flipped_share": 0.1}
    common = {"splits": prepared / "splits.csv", "cases": prepared / "prepared.csv", "device": "cpu", "threads": 1, "code": ""}
    compute = {"compute": Compute("cpu", "auto", threads=1, batch=1), "evaluations_per_slice": 4}
    gate = GateJob(run=Run("dataset", "denoiser", 0, 0), settings=settings, limits=limits, **compute, **files, **common)
    assert gate_network(gate)["device"] == "cpu"
    probe = ProbeJob(run=gate.run, settings={"slices": 1, "timesteps": [300]}, config={}, **files, **common)
    table, _ = probe_network(probe)
    assert set(table["slices"]) == {1}
    case, *_ = sample_cases(sample_job(tmp_path / "samples", "ddpm", settings, batch="auto", **files))["cases"]
    paths = (tmp_path / f"samples/{case}_samples.nii.gz", prepared / f"{case}_brain.nii.gz")
    samples, brain = (np.asarray(nib.load(path).dataobj) for path in paths)
    assert samples.shape == (*brain.shape, 2)
    assert not np.array_equal(samples[..., 0], samples[..., 1])
    grid, _ = GridSettings(**GRID, spatial_dims=3).working_grid(brain > 0, (1.3, 1.7, 4.0))
    outside = np.ones(brain.shape, bool)
    outside[tuple(map(slice, grid.box[::2], grid.box[1::2]))] = False
    assert not samples[outside].any()
