"""Denoiser: from the network's output to an estimate of the mask (below 1 s)."""

import math

import numpy as np
import pytest
import torch
from scipy import special, stats
from torch import nn

from pd_ddpm.diffusion.denoiser import Denoiser
from pd_ddpm.diffusion.mask_coding import CODINGS
from pd_ddpm.diffusion.schedule import Schedule
from pd_ddpm.runtime.precision import PRECISIONS, autocast

SCHEDULE = Schedule.cosine()


class FixedOutput(nn.Module):
    """Returns a given output, and keeps its inputs."""

    divisor = 8

    def __init__(self, output=None):
        super().__init__()
        self.output = output

    def forward(self, x, t):
        self.inputs = x, t
        return x[:, -1:] if self.output is None else self.output


def denoiser(predicts, coding="signed", output=None, schedule=SCHEDULE):
    return Denoiser(FixedOutput(output), schedule, CODINGS[coding], predicts)


def normal(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape, dtype=np.float32))


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("size", [(6, 8), (4, 6, 8)])
@pytest.mark.parametrize("t", [1, 50, 300, 700])
def test_denoiser_given_true_noise_returns_mask(coding, size, t):
    mask = (normal(3, 1, *size) > 0).float()
    noise, times = normal(3, 1, *size, seed=1), torch.full((3,), t)
    x_t = SCHEDULE.diffuse(CODINGS[coding].encode(mask), times, noise)
    model = denoiser("noise", coding, noise)
    estimate = model(x_t, normal(3, 2, *size), t)
    torch.testing.assert_close(estimate, CODINGS[coding].encode(mask), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("coding", "low", "high"), [("signed", -1, 1), ("binary", 0, 1)])
def test_denoiser_with_mask_logits_returns_expected_mask(coding, low, high):
    """p(lesion) high + p(background) low, whatever x_t and t are."""
    logits = torch.tensor([-300.0, -2.0, 0.0, 2.0, 300.0]).reshape(1, 1, 1, 5)
    probability = np.array([0, 1 / (1 + math.exp(2)), 0.5, 1 / (1 + math.exp(-2)), 1])
    for t in (1, 1000):
        estimate = denoiser("mask", coding, logits)(normal(1, 1, 1, 5), normal(1, 2, 1, 5), t)
        np.testing.assert_allclose(estimate.squeeze().numpy(), probability * high + (1 - probability) * low, atol=1e-6)


@pytest.mark.parametrize(("coding", "low", "high"), [("signed", -1, 1), ("binary", 0, 1)])
@pytest.mark.parametrize("schedule", [SCHEDULE, Schedule.linear(), Schedule.cosine(4)])
def test_denoiser_clips_estimates_at_every_timestep(coding, low, high, schedule):
    """At t = T a small error of the noise is amplified 2e4 times; without clipping the chain would diverge."""
    for t in (1, schedule.T - 1, schedule.T):
        x_t = normal(2, 1, 16, 16)
        estimate = denoiser("noise", coding, 0.9 * x_t, schedule)(x_t, normal(2, 2, 16, 16), t)
        assert torch.isfinite(estimate).all()
        assert low <= estimate.min() <= estimate.max() <= high


def test_denoiser_concatenates_image_first_and_noisy_mask_last():
    """In training, each row has its own timestep; in sampling, all rows have the same."""
    x_t, image, t = normal(2, 1, 6, 8), normal(2, 2, 6, 8, seed=1), torch.tensor([3, 900])
    model = denoiser("noise")
    model.output(x_t, image, t)
    x, times = model.network.inputs
    assert torch.equal(x, torch.cat([image, x_t], dim=1))
    assert torch.equal(times, t)
    model(x_t, image, 900)
    assert model.network.inputs[1].tolist() == [900, 900]
    assert model.divisor == 8


def test_denoiser_with_bfloat16_network_returns_float32():
    model = Denoiser(nn.Module(), SCHEDULE, CODINGS["signed"], "noise")
    convolution = nn.Conv2d(3, 1, 1)
    model.network = nn.Module()
    model.network.forward = lambda x, t: convolution(x)
    x_t, image, t = normal(2, 1, 6, 8), normal(2, 2, 6, 8), torch.tensor([3, 900])
    with autocast(torch.device("cpu"), PRECISIONS["bfloat16"]):
        assert convolution(torch.cat([image, x_t], dim=1)).dtype == torch.bfloat16
        assert model.output(x_t, image, t).dtype == torch.float32
        assert model(x_t, image, 900).dtype == torch.float32


def log_density(x, mean, variance):
    """The log density of a normal distribution, by SciPy in float64."""
    return stats.norm.logpdf(x.double().numpy(), loc=mean, scale=math.sqrt(variance))


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("schedule", [SCHEDULE, Schedule.linear(), Schedule.cosine(10)], ids=["cosine", "linear", "cosine-10"])
def test_likelihood_skip_on_zero_network_is_posterior_under_flat_prior(coding, schedule):
    """p(lesion | x_t) = p(x_t | lesion) / (p(x_t | lesion) + p(x_t | background)), at every t, for typical and extreme x_t."""
    low, high = CODINGS[coding].low, CODINGS[coding].high
    model = Denoiser(FixedOutput(torch.zeros(2, 1, 5, 7)), schedule, CODINGS[coding], "mask", likelihood_skip=True)
    for t in range(1, schedule.T + 1):
        mask = (normal(2, 1, 5, 7, seed=t) > 0).float()
        x_t = schedule.diffuse(CODINGS[coding].encode(mask), torch.full((2,), t), normal(2, 1, 5, 7, seed=t + 10_000))
        x_t[0, 0, 0, :2] = torch.tensor([-4.0, 4.0])
        signal = schedule.signal(t)
        log_ratio = np.subtract(*(log_density(x_t, math.sqrt(signal) * value, 1 - signal) for value in (high, low)))
        expected = low + (high - low) * special.expit(np.clip(log_ratio, -12, 12))
        np.testing.assert_allclose(model(x_t, normal(2, 2, 5, 7), t).numpy(), expected, rtol=0, atol=2e-6)
        # The clipping changes a probability by less than 1e-5.
        np.testing.assert_allclose(
            model(x_t, normal(2, 2, 5, 7), t).numpy(), low + (high - low) * special.expit(log_ratio), atol=2e-5
        )


@pytest.mark.parametrize("coding", CODINGS)
def test_likelihood_skip_adds_to_logits_of_each_row_at_its_own_timestep(coding):
    x_t, image, t = normal(3, 1, 6, 8), normal(3, 2, 6, 8), torch.tensor([2, 300, 1000])
    logits = normal(3, 1, 6, 8, seed=3)
    model = Denoiser(FixedOutput(logits), SCHEDULE, CODINGS[coding], "mask", likelihood_skip=True)
    output = model.output(x_t, image, t)
    for row, time in enumerate(t.tolist()):
        alone = model.log_likelihood_ratio(x_t[row : row + 1], torch.tensor([time]))
        torch.testing.assert_close(output[row : row + 1], logits[row : row + 1] + alone)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("coding", CODINGS)
def test_likelihood_skip_is_float32_whatever_the_precision_of_the_network(coding, dtype):
    """The network's precision concerns its own output only: the ratio is that of float32, also under autocast."""

    class HalfPrecision(nn.Module):
        divisor = 1

        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1, dtype=dtype))

        def forward(self, x, t):
            assert x.dtype == dtype
            return self.weight * x[:, -1:]

    x_t, image = normal(2, 1, 6, 8), normal(2, 2, 6, 8)
    half = Denoiser(HalfPrecision(), SCHEDULE, CODINGS[coding], "mask", likelihood_skip=True)
    single = denoiser("mask", coding, torch.zeros(2, 1, 6, 8))
    single.likelihood_skip = True
    for t in (1, 20, 500, 1000):
        assert torch.equal(half(x_t, image, t), single(x_t, image, t))
    with autocast(torch.device("cpu"), PRECISIONS["bfloat16"]):
        assert torch.equal(half(x_t, image, 20), single(x_t, image, 20))


def test_likelihood_skip_returns_the_truth_at_first_timestep():
    """At t = 1 nearly all of the mask is in x_t: a network that knows nothing returns it."""
    mask = (normal(1, 1, 64, 64) > 1).float()
    model = Denoiser(FixedOutput(torch.zeros(1, 1, 64, 64)), SCHEDULE, CODINGS["binary"], "mask", likelihood_skip=True)
    x_t = SCHEDULE.diffuse(mask, torch.tensor([1]), normal(1, 1, 64, 64, seed=1))
    assert torch.equal((model(x_t, normal(1, 2, 64, 64), 1) > 0.5).float(), mask)


def test_likelihood_skip_to_noise_prediction_is_refused():
    with pytest.raises(ValueError, match=r"`likelihood_skip` adds to mask logits. It needs `predicts: mask`."):
        Denoiser(FixedOutput(), SCHEDULE, CODINGS["signed"], "noise", likelihood_skip=True)
