"""One-hot masks of several classes: coding, evidence of x_t, starts (some seconds)."""

import numpy as np
import pytest
import torch
from torch import nn

from pd_ddpm.diffusion.denoiser import MAX_LOG_RATIO, Denoiser
from pd_ddpm.diffusion.mask_coding import (
    CODINGS,
    class_probabilities,
    foreground_masks,
    harden,
    sample_mask,
    with_background,
)
from pd_ddpm.diffusion.noise import MemberNoise
from pd_ddpm.diffusion.reliability import Reliability
from pd_ddpm.diffusion.schedule import Schedule
from pd_ddpm.diffusion.starts import NoiseStart, PresegmentationStart, ReliabilityStart


def denoiser(coding: str, network: nn.Module | None = None) -> Denoiser:
    model = Denoiser(network or nn.Identity(), Schedule.cosine(), CODINGS[coding], "mask", likelihood_skip=True)
    model.mask_channels = 3
    return model


def one_hot(index: torch.Tensor, classes: int) -> torch.Tensor:
    return nn.functional.one_hot(index, classes).movedim(-1, 1).float()


@pytest.mark.parametrize(("coding", "t"), [("signed", 600), ("binary", 300)])
def test_log_likelihood_ratio_of_classes_is_bayes_rule_on_sampled_x_t(coding, t):
    """The share of each class among pixels with about the same x_t is the posterior by Bayes' rule."""
    model, prior, torch_random = denoiser(coding), torch.tensor([0.5, 0.2, 0.3]), torch.Generator().manual_seed(0)
    index = torch.multinomial(prior, 100_000, replacement=True, generator=torch_random)
    x0 = model.coding.encode(one_hot(index, 3))[..., None]
    times = torch.full((len(x0),), t)
    x_t = model.schedule.diffuse(x0, times, torch.randn(x0.shape, generator=torch_random))
    logits = prior.log()[None, :, None] + model.log_likelihood_ratio(x_t, times)
    posterior = class_probabilities(logits)[..., 0]
    for number in range(3):
        order = posterior[:, number].argsort().chunk(20)
        predicted = torch.stack([posterior[part, number].mean() for part in order])
        observed = torch.stack([(index[part] == number).float().mean() for part in order])
        torch.testing.assert_close(predicted, observed, rtol=0, atol=0.02)


@pytest.mark.parametrize("coding", CODINGS)
def test_log_likelihood_ratio_of_classes_equals_the_difference_of_gaussian_log_densities(coding):
    model, t = denoiser(coding), torch.tensor([200, 700])
    x_t = torch.randn((2, 3, 4, 5), generator=torch.Generator().manual_seed(1))
    signal, noise_level = model.schedule.coefficients(t, x_t)
    densities = torch.stack(
        [
            torch.distributions.Normal(signal * model.coding.encode(one_hot(torch.full((2, 4, 5), number), 3)), noise_level)
            .log_prob(x_t)
            .sum(dim=1)
            for number in range(3)
        ],
        dim=1,
    )
    expected = (densities - densities.amax(dim=1, keepdim=True)).clamp(min=-MAX_LOG_RATIO)
    torch.testing.assert_close(model.log_likelihood_ratio(x_t, t), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("coding", CODINGS)
def test_log_likelihood_ratio_of_two_classes_is_the_sum_of_the_binary_ratios_of_both_channels(coding):
    """The background channel of a one-hot mask is a mirrored mask of lesions with noise of its own."""
    model, t = denoiser(coding), torch.tensor([500])
    x_t = 0.3 * torch.randn((1, 2, 6, 7), generator=torch.Generator().manual_seed(2))
    both = model.log_likelihood_ratio(x_t, t)
    background, lesion = (model.log_likelihood_ratio(channel, t) for channel in x_t.split(1, dim=1))
    torch.testing.assert_close(both[:, 1:] - both[:, :1], lesion - background, rtol=1e-5, atol=1e-5)


def test_log_likelihood_ratio_of_classes_is_clipped_as_that_of_lesions():
    model = denoiser("signed")
    x_t = torch.tensor([50.0, -50.0, 0.0]).reshape(1, 3, 1)
    assert model.log_likelihood_ratio(x_t, torch.tensor([1])).flatten().tolist() == [0, -MAX_LOG_RATIO, -MAX_LOG_RATIO]


@pytest.mark.parametrize("coding", CODINGS)
def test_probabilities_of_encoded_classes_are_the_classes(coding):
    probability = torch.softmax(torch.randn((2, 4, 3, 3), generator=torch.Generator().manual_seed(3)), dim=1)
    x = CODINGS[coding].encode(probability)
    torch.testing.assert_close(CODINGS[coding].probabilities(x), probability)


def test_probabilities_of_no_distribution_are_normalised_and_of_none_background():
    x = torch.tensor([[0.5, 0.0], [0.5, -2.0], [1.0, -1.0]]).T.reshape(2, 3, 1)
    expected = torch.tensor([[0.25, 0.25, 0.5], [1.0, 0.0, 0.0]]).reshape(2, 3, 1)
    torch.testing.assert_close(CODINGS["binary"].probabilities(x), expected)


def test_harden_takes_the_first_of_equal_classes_and_foreground_has_no_background():
    probability = torch.tensor([[0.4, 0.4, 0.2], [0.1, 0.2, 0.7]]).reshape(2, 3, 1)
    assert harden(probability)[..., 0].tolist() == [[1, 0, 0], [0, 0, 1]]
    assert foreground_masks(probability)[..., 0].tolist() == [[False, False], [False, True]]
    assert harden(torch.tensor([[[0.5, 0.4]]])).tolist() == [[[1, 0]]]


def test_with_background_completes_fractions_to_one():
    fractions = torch.tensor([[0.25, 0.5], [0.6, 0.4000001]]).reshape(2, 2, 1)
    torch.testing.assert_close(with_background(fractions)[..., 0], torch.tensor([[0.25, 0.25, 0.5], [0, 0.6, 0.4000001]]))


def test_sample_mask_has_the_probabilities_of_the_classes():
    probability = torch.tensor([0.1, 0.6, 0.3]).reshape(1, 3, 1).expand(1, 3, 100_000)
    uniform = torch.rand((1, 1, 100_000), generator=torch.Generator().manual_seed(4))
    samples = sample_mask(probability, uniform)
    assert torch.equal(samples.sum(dim=1), torch.ones((1, 100_000)))
    np.testing.assert_allclose(samples.mean(dim=2)[0].numpy(), [0.1, 0.6, 0.3], atol=0.005)


def test_starts_of_classes_have_one_channel_per_class():
    model, image = denoiser("signed"), torch.zeros((2, 1, 3, 4))
    noise = [("a", 0), ("a", 1)]
    assert NoiseStart(1000, channels=3)(image, None, MemberNoise(noise)).shape == (2, 3, 3, 4)
    labels = one_hot(torch.randint(3, (2, 3, 4), generator=torch.Generator().manual_seed(5)), 3)
    x = PresegmentationStart(1, model.schedule, model.coding)(image, labels, MemberNoise(noise))
    assert torch.equal(x.argmax(dim=1), labels.argmax(dim=1))


def test_reliability_start_refuses_classes():
    with pytest.raises(ValueError, match="not for several classes"):
        ReliabilityStart(200, 300, denoiser("signed"), Reliability(0.9, 0.9))
