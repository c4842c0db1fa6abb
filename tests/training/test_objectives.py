"""Objectives: targets, timesteps and noise of a batch (about 1 s)."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from pd_ddpm.diffusion.denoiser import Denoiser
from pd_ddpm.diffusion.mask_coding import CODINGS
from pd_ddpm.diffusion.noise import stream
from pd_ddpm.diffusion.schedule import Schedule
from pd_ddpm.training.objectives.denoising import Denoising
from pd_ddpm.training.objectives.noise import diffuse_mask
from pd_ddpm.training.objectives.segmentation import CrossEntropy
from pd_ddpm.training.patches import as_batch

SCHEDULE = Schedule.cosine()


class Free(nn.Module):
    """A network whose output at every pixel is a parameter of its own; it keeps its last input."""

    divisor = 1

    def __init__(self, shape, seed=0):
        super().__init__()
        self.output = nn.Parameter(torch.from_numpy(np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)))

    def forward(self, x, t=None):
        self.x, self.t = x, t
        return self.output


class NoiseOracle(nn.Module):
    """A network that predicts the exact noise in x_t, since the first image channel is the encoded mask."""

    divisor = 1

    def forward(self, x, t):
        signal = SCHEDULE.alpha_bar[t].reshape(-1, *[1] * (x.ndim - 1))
        return ((x[:, 1:].double() - signal.sqrt() * x[:, :1]) / (1 - signal).sqrt()).float()


def batch(size=(6, 8), count=4, seed=0):
    random = np.random.default_rng(seed)
    labels = torch.from_numpy(random.choice([0, 1, 2], (count, 1, *size), p=[0.6, 0.25, 0.15]).astype(np.uint8))
    label_fractions = torch.cat([labels == 1, labels == 2], dim=1).float()
    return as_batch(torch.from_numpy(random.standard_normal((count, 2, *size), dtype=np.float32)), label_fractions), labels


def all_objectives(shape):
    """All objectives, each with a network of free outputs."""
    yield CrossEntropy(0.0), Free(shape)
    yield CrossEntropy(1.0), Free(shape)
    for coding in CODINGS.values():
        yield Denoising(1000, "squared_error"), Denoiser(Free(shape), SCHEDULE, coding, "noise")
        yield Denoising(1000, "squared_error"), Denoiser(Free(shape), SCHEDULE, coding, "mask")
        yield Denoising(1000, "cross_entropy_dice"), Denoiser(Free(shape), SCHEDULE, coding, "mask")


@pytest.mark.parametrize("size", [(6, 8), (3, 6, 8)])
def test_losses_ignore_label_2(size):
    """The gradient of the output is exactly zero there, and nonzero everywhere else."""
    examples, labels = batch(size)
    for objective, model in all_objectives((4, 1, *size)):
        objective.loss(model, examples, stream("test"))["loss"].backward()
        (parameter,) = model.parameters()
        assert (parameter.grad[labels == 2] == 0).all()
        assert (parameter.grad[labels != 2] != 0).all()


def test_as_batch_masks_label_2():
    examples, labels = batch()
    assert torch.equal(examples.mask, (labels == 1).float())
    assert torch.equal(examples.loss_mask == 0, labels == 2)


@pytest.mark.parametrize("dice_weight", [0.0, 0.5, 1.0])
def test_cross_entropy_objective_adds_weighted_dice(dice_weight):
    examples, labels = batch()
    model = Free((4, 1, 6, 8))
    parts = CrossEntropy(dice_weight).loss(model, examples, stream("test"))
    kept = labels != 2
    cross_entropy = functional.binary_cross_entropy_with_logits(model.output[kept], examples.mask[kept])
    probability = model.output.sigmoid()
    overlap = (probability * examples.mask)[kept].sum()
    dice = 1 - (2 * overlap + 1) / (probability[kept].sum() + examples.mask.sum() + 1)
    torch.testing.assert_close(parts["loss"], cross_entropy + dice_weight * dice)
    assert torch.equal(model.x, examples.image)
    (estimate,) = CrossEntropy(dice_weight).estimates(model, examples, stream("test"))
    torch.testing.assert_close(estimate.probability, probability)


@pytest.mark.parametrize("coding", CODINGS)
def test_noise_prediction_target_is_noise_in_x_t(coding):
    """The loss is zero for the exact noise, and the noise's mean square for an output of zero."""
    examples, _ = batch(count=64)
    examples = examples._replace(image=CODINGS[coding].encode(examples.mask))
    oracle = Denoiser(NoiseOracle(), SCHEDULE, CODINGS[coding], "noise")
    assert Denoising(1000, "squared_error").loss(oracle, examples, stream("test"))["loss"].item() < 1e-6
    silent = Denoiser(NoiseOracle(), SCHEDULE, CODINGS[coding], "noise")
    silent.network.forward = lambda x, t: torch.zeros_like(x[:, :1])
    count = int(examples.loss_mask.sum())
    loss = Denoising(1000, "squared_error").loss(silent, examples, stream("test"))["loss"].item()
    assert loss == pytest.approx(1, abs=4.5 * math.sqrt(2 / count))


@pytest.mark.parametrize("coding", CODINGS)
def test_mask_prediction_target_is_encoded_mask(coding):
    examples, labels = batch()
    kept = labels != 2
    model = Denoiser(Free((4, 1, 6, 8)), SCHEDULE, CODINGS[coding], "mask")
    loss = Denoising(1000, "squared_error").loss(model, examples, stream("test"))["loss"]
    width = CODINGS[coding].high - CODINGS[coding].low
    expected = width**2 * functional.mse_loss(model.network.output.sigmoid()[kept], examples.mask[kept])
    torch.testing.assert_close(loss, expected)
    loss = Denoising(1000, "cross_entropy_dice").loss(model, examples, stream("test"))["loss"]
    torch.testing.assert_close(loss, CrossEntropy(1.0).loss(model.network, examples, stream("test"))["loss"])


@pytest.mark.parametrize("t_max", [1, 7, 300])
def test_denoising_timesteps_are_uniform_from_1_to_t_max(t_max):
    """t = 0, the clean mask, never occurs, and t_max does."""
    count = 70 * 300
    examples = as_batch(torch.zeros(count, 1, 1, 1), torch.zeros(count, 2, 1, 1))
    model = Denoiser(Free((count, 1, 1, 1)), SCHEDULE, CODINGS["signed"], "noise")
    Denoising(t_max, "squared_error").loss(model, examples, stream("test"))
    counts = torch.bincount(model.network.t, minlength=t_max + 1)
    assert counts[0] == 0
    assert len(counts) == t_max + 1
    expected = count / t_max
    chi_squared = ((counts[1:] - expected) ** 2 / expected).sum().item()
    assert chi_squared <= t_max - 1 + 4.5 * math.sqrt(2 * t_max)


@pytest.mark.parametrize("coding", CODINGS)
def test_network_input_is_mask_diffused_to_its_timestep(coding):
    examples, _ = batch(count=3)
    model = Denoiser(Free((3, 1, 6, 8)), SCHEDULE, CODINGS[coding], "noise")
    times = torch.tensor([1, 400, 1000])
    x_t, noise = diffuse_mask(model, examples.mask, times, stream("test"))
    for n, t in enumerate(times.tolist()):
        signal = SCHEDULE.signal(t)
        expected = math.sqrt(signal) * CODINGS[coding].encode(examples.mask[n]) + math.sqrt(1 - signal) * noise[n]
        torch.testing.assert_close(x_t[n], expected, rtol=0, atol=1e-6)
    Denoising(1000, "squared_error").loss(model, examples, stream("test"))
    assert torch.equal(model.network.x[:, :2], examples.image)


def test_losses_depend_on_their_generator_alone():
    examples, _ = batch()
    for objective, model in all_objectives((4, 1, 6, 8)):
        values = [objective.loss(model, examples, stream("test", n))["loss"].item() for n in (0, 0, 1)]
        assert values[0] == values[1]
        if isinstance(model, Denoiser) and model.predicts == "noise":
            assert values[0] != values[2]


def test_denoising_estimates_from_truth_cover_five_noise_levels():
    examples, _ = batch()
    seen = []

    class Watched(NoiseOracle):
        def forward(self, x, t):
            seen.append(t.tolist())
            return super().forward(x, t)

    examples = examples._replace(image=CODINGS["signed"].encode(examples.mask))
    model = Denoiser(Watched(), SCHEDULE, CODINGS["signed"], "noise")
    estimates = Denoising(300, "squared_error").estimates_from_truth(model, examples, stream("test"))
    assert seen == [[t] * 4 for t in (30, 90, 150, 210, 270)]
    for estimate in estimates:
        torch.testing.assert_close(estimate.probability, examples.mask, rtol=0, atol=1e-5)
