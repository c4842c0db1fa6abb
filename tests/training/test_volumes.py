"""Training on patches of volumes: every architecture, with coordinates and validation of whole volumes (about 15 s)."""

import math
from contextlib import contextmanager
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import GRID
from torch import nn
from training_examples import folder_trainer

from pd_ddpm.config import load, resolve
from pd_ddpm.config.run import Run
from pd_ddpm.data.prepared import read_scan
from pd_ddpm.data.working_grid import GridSettings
from pd_ddpm.diffusion.noise import MethodNoise
from pd_ddpm.inference.factory import build_segmenter
from pd_ddpm.inference.gate_network import gate_network
from pd_ddpm.inference.job import GateJob, ProbeJob
from pd_ddpm.inference.prediction_store import read_predictions, read_samples
from pd_ddpm.inference.probe import probe_network
from pd_ddpm.inference.sample_cases import sample_cases
from pd_ddpm.inference.shards import sample_all
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


@pytest.mark.parametrize(
    ("name", "kind", "start"),
    [
        ("unet", "deterministic", {}),
        ("attunet", "deterministic", {}),
        ("unet-plus-plus", "deterministic", {}),
        ("bayesian-unet", "dropout", {}),
        ("probabilistic-unet", "latent", {}),
        ("denoiser", "diffusion", {"start": "noise", "t_start": 1000}),
        ("denoiser", "diffusion", {"start": "presegmentation", "t_start": 300}),
        ("truncated-denoiser", "diffusion", {"start": "learned_prior", "t_start": 300}),
    ],
)
def test_every_segmenter_samples_a_whole_volume(name, kind, start):
    torch.manual_seed(0)
    model = build_model(settings_of(name), image_channels=2).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    chain = start | {"sampler": "ancestral", "variance": "large", "reverse_steps": 10}
    segmenter = build_segmenter({"segmenter": kind, "pool": 2} | chain, model)
    assert segmenter.coordinates
    image = add_coordinates(torch.randn(1, 2, 32, 16, 16)).expand(segmenter.num_members, -1, -1, -1, -1)

    def sample(presegmentation):
        numbers = [(0, member) for member in range(segmenter.num_members)]
        with torch.inference_mode():
            return segmenter(image, presegmentation, MethodNoise("method", 0).for_members("case", numbers))

    samples = sample(torch.zeros(len(image), 1, 32, 16, 16))
    assert samples.shape == (len(image), 1, 32, 16, 16)
    assert ((samples >= 0) & (samples <= 1)).all()
    if len(samples) > 1:
        assert not torch.equal(samples[0], samples[1])
    is_equal = torch.equal(samples, sample(torch.ones(len(image), 1, 32, 16, 16)))
    assert is_equal == (start.get("start") != "presegmentation")


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
    assert (set(table["images"]), set(table["dimensions"])) == ({1}, {3})
    case, *_ = sample_cases(sample_job(tmp_path / "samples", "ddpm", settings, batch="auto", **files))["cases"]
    paths = (tmp_path / f"samples/{case}_samples.nii.gz", prepared / f"{case}_brain.nii.gz")
    samples, brain = (np.asarray(nib.load(path).dataobj) for path in paths)
    assert samples.shape == (*brain.shape, 2)
    assert not np.array_equal(samples[..., 0], samples[..., 1])
    grid, _ = GridSettings(**GRID, spatial_dims=3).working_grid(brain > 0, (1.3, 1.7, 4.0))
    outside = np.ones(brain.shape, bool)
    outside[tuple(map(slice, grid.box[::2], grid.box[1::2]))] = False
    assert not samples[outside].any()


def test_pd_ddpm_of_volumes_starts_from_the_masks_of_a_network_at_half_resolution(
    tmp_path, train_job, sample_job, random_network, configured
):
    """The pre-segmenter has a grid of its own. Its masks are averaged over the voxels of the denoiser's grid."""
    coarse = GRID | {"spacing_mm": 2 * GRID["spacing_mm"]}
    changes = {"steps": 1, "validate_every": 1, "batch": 1, "crop": [16, 16, 16], "lesion_share": None, "precision": "float32"}
    folder = Run("dataset", "attunet", 0, 0).folder(tmp_path, "networks")
    folder.mkdir(parents=True)
    job = replace(train_job(folder, settings_of("attunet", early_levels=[], **changes)), grid=coarse)
    backend, data = Backend.from_compute(job.compute), read_data(job)
    write_result(job, data, backend, train(job, data, backend, open_states(job, data, backend)))
    files = {"weights": job.weights, "network_metadata": job.metadata}
    settings = configured("method", "attunet", pool=1, weights="raw") | {"grid_members": "soft"}
    before = sample_job(Run("dataset", "attunet", 0, 0).folder(tmp_path, "predictions"), "attunet", settings, batch=1, **files)
    sample_all(before)

    files = random_network(settings_of("denoiser"), "denoiser")
    chain = configured("method", "pd-ddpm", reverse_steps=10, variance="small", samples=2, pool=2, harden=False)
    chain |= {"grid_members": "binary"}
    members = {}
    for is_same in (True, False):
        settings = chain | {"start_from_same_grid": is_same}
        after = sample_job(tmp_path / str(is_same), "pd-ddpm", settings, batch=1, presegmentation=before.predictions, **files)
        sample_all(after)
        case = read_predictions(after.predictions).index[0]
        members[is_same] = read_samples(after.folder, case)
    size = read_scan(before.cases.parent, case).brain.shape
    assert members[False].shape == (*size, 2)
    assert len(np.unique(read_samples(before.folder, case))) > 2
    assert not np.array_equal(members[True], members[False])


@contextmanager
def statistics_of_the_first_pass(network):
    """Within this context, group normalisations keep the statistics of the first pass, as batch normalisations would."""
    kept = {}

    def normalise(norm, inputs, _output):
        grouped = inputs[0].unflatten(1, (norm.num_groups, -1))
        if norm not in kept:
            axes = tuple(range(2, grouped.ndim))
            fixed = grouped.detach()
            kept[norm] = fixed.mean(axes, keepdim=True), fixed.var(axes, correction=0, keepdim=True)
        mean, variance = kept[norm]
        normalised = ((grouped - mean) / (variance + norm.eps).sqrt()).flatten(1, 2)
        weight, bias = (parameter.reshape(1, -1, 1, 1, 1) for parameter in (norm.weight, norm.bias))
        return normalised * weight + bias

    norms = [module for module in network.modules() if isinstance(module, nn.GroupNorm)]
    handles = [norm.register_forward_hook(normalise) for norm in norms]
    yield
    for handle in handles:
        handle.remove()


def test_a_volume_in_one_pass_equals_windows_wider_than_the_receptive_field_with_the_same_statistics():
    """Group normalisation is the only part of the network that sees more than its receptive field.

    With the statistics of the whole volume, windows give the same output. With statistics of their own they do not.
    """
    torch.manual_seed(0)
    network = build_model(settings_of("denoiser"), image_channels=2).network.eval()
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.1)
    t, length, step, divisor = torch.tensor([300]), 96, 16, network.divisor
    volume = torch.randn(1, 6, length, 4, 4) + torch.linspace(-1, 1, length).reshape(1, 1, -1, 1, 1)

    def in_windows(radius):
        parts = []
        for first in range(0, length, step):
            begin, end = max(0, first - radius), min(length, first + step + radius)
            parts.append(network(volume[:, :, begin:end], t)[:, :, first - begin : first - begin + step])
        return torch.cat(parts, dim=2)

    with statistics_of_the_first_pass(network):
        whole = network(volume.requires_grad_(), t)
        middle = length // 2
        (seen,) = torch.autograd.grad(whole[0, 0, middle, 2, 2], volume)
        reached = seen.abs().amax(dim=(0, 1, 3, 4)).nonzero().flatten()
        radius = max(middle - reached.min().item(), reached.max().item() - middle)
        assert 8 < radius < middle
        with torch.no_grad():
            windows, narrow = in_windows(-(-radius // divisor) * divisor), in_windows(divisor)
    with torch.no_grad():
        torch.testing.assert_close(network(volume, t), whole.detach(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(windows, whole.detach(), rtol=1e-4, atol=1e-5)
        assert (narrow - whole).abs().max() > 0.01
        assert (in_windows(middle) - whole).abs().max() > 0.01
