"""Evidence of a start with known reliability, against Bayes' rule by brute force and against simulation (about 2 s)."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from pd_ddpm.diffusion.denoiser import Denoiser
from pd_ddpm.diffusion.mask_coding import CODINGS
from pd_ddpm.diffusion.noise import MemberNoise
from pd_ddpm.diffusion.reliability import Reliability
from pd_ddpm.diffusion.schedule import Schedule
from pd_ddpm.diffusion.starts import PresegmentationStart, ReliabilityStart

SCHEDULE = Schedule.cosine()
RATES = [(0.75, 0.998), (0.6, 0.9), (0.999, 0.5)]


class Constant(nn.Module):
    """A network with the same log-odds everywhere: the prior of every pixel."""

    divisor = 1

    def __init__(self, log_odds: float):
        super().__init__()
        self.log_odds = nn.Parameter(torch.tensor(log_odds))

    def forward(self, x, t):
        return self.log_odds.expand(len(x), 1, *x.shape[2:])


def denoiser(coding: str = "signed", prior: float = 0.5) -> Denoiser:
    return Denoiser(Constant(math.log(prior / (1 - prior))), SCHEDULE, CODINGS[coding], "mask", likelihood_skip=True)


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize(("sensitivity", "specificity"), RATES)
@pytest.mark.parametrize("t", [50, 300, 700])
def test_posterior_equals_bayes_rule_over_all_masks_and_pre_segmentations(coding, sensitivity, specificity, t):
    prior, x = 0.2, np.linspace(-3, 3, 61)
    signal = float(SCHEDULE.alpha_bar[t])
    values = {"signed": (-1, 1), "binary": (0, 1)}[coding]
    density = [stats.norm.pdf(x, math.sqrt(signal) * value, math.sqrt(1 - signal)) for value in values]
    agreement = {(1, 1): sensitivity, (1, 0): 1 - sensitivity, (0, 0): specificity, (0, 1): 1 - specificity}
    joint = {truth: sum(agreement[truth, y] * density[y] for y in (0, 1)) for truth in (0, 1)}
    expected = prior * joint[1] / (prior * joint[1] + (1 - prior) * joint[0])
    model, x_t = denoiser(coding, prior), torch.from_numpy(x).float().reshape(1, 1, 1, -1)
    logits = model.output(x_t, torch.zeros(1, 2, 1, len(x)), torch.tensor([t]), Reliability(sensitivity, specificity))
    np.testing.assert_allclose(logits.sigmoid().detach().numpy().ravel(), expected, atol=2e-5)


@pytest.mark.parametrize(("sensitivity", "specificity"), RATES)
def test_evidence_saturates_at_that_of_the_mask_itself(sensitivity, specificity):
    evidence = Reliability(sensitivity, specificity).log_likelihood_ratio(torch.tensor([-200.0, -60.0, 60.0, 200.0]))
    background, lesion = math.log((1 - sensitivity) / specificity), math.log(sensitivity / (1 - specificity))
    torch.testing.assert_close(evidence, torch.tensor([background, background, lesion, lesion]), rtol=0, atol=1e-4)


def test_evidence_of_a_perfect_mask_is_that_of_x_t_and_of_a_coin_nothing():
    ratio = torch.linspace(-8, 8, 33)
    torch.testing.assert_close(Reliability(1 - 1e-12, 1 - 1e-12).log_likelihood_ratio(ratio), ratio, rtol=0, atol=1e-5)
    torch.testing.assert_close(Reliability(0.3, 0.7).log_likelihood_ratio(ratio), torch.zeros(33), rtol=0, atol=1e-6)


def test_rates_from_counts_are_those_of_laplace():
    assert Reliability.from_counts(30, 40, 999, 1000) == Reliability(31 / 42, 1000 / 1002)
    assert Reliability.from_counts(0, 0, 5, 5) == Reliability(0.5, 6 / 7)


def simulated(prior: float, reliability: Reliability, num: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ground truths of independent pixels, and pre-segmentations of this reliability."""
    random = np.random.default_rng(0)
    truth = random.random((1, 1, 1, num)) < prior
    agrees = random.random(truth.shape) < np.where(truth, reliability.sensitivity, reliability.specificity)
    return torch.from_numpy(truth).float(), torch.from_numpy(truth == agrees).float()


@pytest.mark.parametrize("coding", CODINGS)
def test_state_after_the_start_is_distributed_as_the_diffused_ground_truth(coding):
    prior, reliability, num = 0.3, Reliability(0.7, 0.85), 200_000
    truth, presegmentation = simulated(prior, reliability, num)
    model, image = denoiser(coding, prior), torch.zeros(1, 2, 1, num)
    start, noise = ReliabilityStart(200, 300, model, reliability), MemberNoise([("start", 0)])
    with torch.no_grad():
        x = start(image, presegmentation, noise).flatten().numpy()
    diffused = SCHEDULE.diffuse(
        model.coding.encode(truth), torch.tensor([200]), MemberNoise([("truth", 0)]).sample_normal(x.shape)
    )
    assert stats.ks_2samp(x, diffused.flatten().numpy()).pvalue > 1e-3
    # Also given x_T': the sampled mask is lesion as often as the ground truth is.
    first = PresegmentationStart(300, SCHEDULE, model.coding)(image, presegmentation, MemberNoise([("start", 0)])).flatten()
    threshold = float(model.coding.encode(torch.tensor(0.5))) * math.sqrt(SCHEDULE.signal(200))
    for chosen in np.array_split(first.argsort().numpy(), 5):
        ours, theirs = (np.mean(values[chosen] > threshold) for values in (x, diffused.flatten().numpy()))
        assert abs(ours - theirs) < 4.5 * math.sqrt(2 * 0.25 / len(chosen))
    # The diffused pre-segmentation itself is not distributed so.
    plain = PresegmentationStart(200, SCHEDULE, model.coding)(image, presegmentation, MemberNoise([("plain", 0)]))
    assert stats.ks_2samp(plain.flatten().numpy(), diffused.flatten().numpy()).pvalue < 1e-9


def test_start_takes_noise_of_x_t_then_of_the_mask_then_of_the_next_state():
    reliability, model = Reliability(0.8, 0.9), denoiser()
    mask = (torch.arange(2 * 5 * 7).reshape(2, 1, 5, 7) % 3 == 0).float()
    names = [("a", 0), ("a", 1)]
    image, reference = torch.zeros(2, 2, 5, 7), MemberNoise(names)
    with torch.no_grad():
        x = ReliabilityStart(200, 300, model, reliability)(image, mask, MemberNoise(names))
        first = SCHEDULE.diffuse(2 * mask - 1, torch.tensor([300, 300]), reference.sample_normal((1, 5, 7)))
        probability = model.output(first, image, torch.tensor([300, 300]), reliability).sigmoid()
        sampled = (reference.sample_uniform((1, 5, 7)) < probability).float()
        expected = SCHEDULE.diffuse(2 * sampled - 1, torch.tensor([200, 200]), reference.sample_normal((1, 5, 7)))
    assert torch.equal(x, expected)


def test_start_without_likelihood_skip_is_refused():
    model = Denoiser(Constant(0.0), SCHEDULE, CODINGS["signed"], "mask")
    with pytest.raises(ValueError, match="`start_reliability: validation` needs a denoiser with `likelihood_skip: true`"):
        ReliabilityStart(200, 300, model, Reliability(0.8, 0.9))
