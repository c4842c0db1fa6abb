"""Objective of the Probabilistic U-Net against numbers by hand (about 4 s, mostly a short training)."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import Independent, Normal, kl_divergence
from torch.nn import functional

from pd_ddpm.diffusion.noise import stream
from pd_ddpm.models.networks.probabilistic_unet import ProbabilisticUNet
from pd_ddpm.training.factory import build_objective
from pd_ddpm.training.objectives.elbo import EvidenceLowerBound
from pd_ddpm.training.patches import Batch


def gaussian(mean, sigma):
    return Independent(Normal(torch.tensor(mean), torch.tensor(sigma)), 1)


class Stub(nn.Module):
    """A model with known Gaussians. Its logits are the first image channel plus `gain` times z_0."""

    def __init__(self, prior, posterior, gain=0.0):
        super().__init__()
        self.given_prior, self.given_posterior, self.gain = prior, posterior, gain

    def prior(self, image):
        return self.given_prior

    def posterior(self, image, mask):
        self.seen = mask
        return self.given_posterior

    def features(self, image):
        return image

    def decode(self, features, z):
        self.z = z
        return features[:, :1] + self.gain * z[:, :1, None, None]


LN2, LN3 = math.log(2), math.log(3)
# Two images of two pixels; the last pixel does not count.
TINY = Batch(
    image=torch.tensor([[0.0, LN3], [-LN3, 7.0]]).reshape(2, 1, 1, 2),
    mask=torch.tensor([[1.0, 1.0], [0.0, 0.25]]).reshape(2, 1, 1, 2),
    loss_mask=torch.tensor([[1.0, 1.0], [1.0, 0.0]]).reshape(2, 1, 1, 2),
)
PRIOR = gaussian([[0.0, 1.0], [0.5, 0.0]], [[1.0, 1.0], [2.0, 1.0]])
POSTERIOR = gaussian([[1.0, 1.0], [0.5, 3.0]], [[2.0, 1.0], [2.0, 1.0]])


@pytest.mark.parametrize("kl_weight", [0.0, 1.0, 10.0])
def test_elbo_of_tiny_batch_equals_value_by_hand(kl_weight):
    """Probabilities 1/2 and 3/4 of lesion, 1/4 of none; divergences 2 - ln 2 (mean 1, deviation 2) and 9/2 (mean 3)."""
    model = Stub(PRIOR, POSTERIOR)
    parts = {key: value.item() for key, value in EvidenceLowerBound(kl_weight).loss(model, TINY, stream("test")).items()}
    summed = [LN2 + math.log(4 / 3), math.log(4 / 3)]  # of each image
    divergence = [2 - LN2, 4.5]
    assert parts["cross_entropy"] == pytest.approx(sum(summed) / 2 / 2, rel=1e-6)
    assert parts["kl"] == pytest.approx(sum(divergence) / 2, rel=1e-6)
    per_image = [ce + kl_weight * kl for ce, kl in zip(summed, divergence, strict=True)]
    assert parts["loss"] == pytest.approx(sum(per_image) / 2 / 2, rel=1e-6)  # mean of two images, over two pixels
    assert torch.equal(model.seen, TINY.mask * TINY.loss_mask)


def test_kl_equals_closed_form():
    """Sum over dimensions of log(s_p / s_q) + (s_q^2 + (m_q - m_p)^2) / (2 s_p^2) - 1/2."""
    random = np.random.default_rng(0)
    means, sigmas = random.normal(size=(2, 3, 6)), np.exp(random.normal(size=(2, 3, 6)))
    (m_q, m_p), (s_q, s_p) = means, sigmas
    expected = (np.log(s_p / s_q) + (s_q**2 + (m_q - m_p) ** 2) / (2 * s_p**2) - 0.5).sum(1)
    prior, posterior = gaussian(m_p.tolist(), s_p.tolist()), gaussian(m_q.tolist(), s_q.tolist())
    np.testing.assert_allclose(kl_divergence(posterior, prior).numpy(), expected, rtol=1e-5)
    batch = Batch(*(torch.zeros(3, 1, 1, 1) for _ in range(3)))
    loss = EvidenceLowerBound(1.0).loss(Stub(prior, posterior), batch, stream("test"))
    assert loss["kl"].item() == pytest.approx(expected.mean(), rel=1e-5)
    z = posterior.sample((200_000,))
    sampled = (posterior.log_prob(z) - prior.log_prob(z)).mean(0)
    np.testing.assert_allclose(sampled.numpy(), expected, rtol=0.05)


def test_elbo_weights_kl_equally_for_any_batch_size():
    model, twice = Stub(PRIOR, POSTERIOR), Batch(*(torch.cat([part, part]) for part in TINY[:3]))
    double = [gaussian((2 * g.mean.tolist()), (2 * g.stddev.tolist())) for g in (PRIOR, POSTERIOR)]
    once = EvidenceLowerBound(3.0).loss(model, TINY, stream("test"))
    again = EvidenceLowerBound(3.0).loss(Stub(*double), twice, stream("test"))
    for key, value in once.items():
        torch.testing.assert_close(again[key], value)


def test_elbo_samples_z_from_posterior_with_gradients():
    mean, sigma = torch.zeros(2, 2, requires_grad=True), torch.ones(2, 2, requires_grad=True)
    model = Stub(PRIOR, Independent(Normal(2 + mean, 3 * sigma), 1), gain=1.0)
    EvidenceLowerBound(0.0).loss(model, TINY, stream("draw"))["loss"].backward()
    noise = torch.from_numpy(stream("draw").standard_normal((2, 2), dtype=np.float32))
    torch.testing.assert_close(model.z.detach(), 2 + 3 * noise)
    assert (mean.grad[:, 0] != 0).all()
    torch.testing.assert_close(sigma.grad, 3 * noise * mean.grad)


def test_elbo_estimates_are_prior_mean_and_two_samples():
    estimates = EvidenceLowerBound(1.0).estimates(Stub(PRIOR, None, gain=1.0), TINY, stream("draw"))
    noise = torch.from_numpy(stream("draw").standard_normal((2, 2, 2), dtype=np.float32))
    vectors = [PRIOR.mean, *(PRIOR.mean + PRIOR.stddev * one for one in noise)]
    assert len(estimates) == 3
    for estimate, z in zip(estimates, vectors, strict=True):
        torch.testing.assert_close(estimate.probability, (TINY.image + z[:, :1, None, None]).sigmoid())


def network(seed=0):
    torch.manual_seed(seed)
    return ProbabilisticUNet(spatial_dims=2, in_channels=1, channels=(8, 12), latent=2)


def test_elbo_ignores_label_2():
    """Neither the mask nor the logits there change the loss."""
    random = np.random.default_rng(0)
    mask, loss_mask = (torch.from_numpy(random.random((3, 1, 8, 8)) < 0.5).float() for _ in range(2))
    image = torch.from_numpy(random.standard_normal((3, 1, 8, 8), dtype=np.float32))
    other = torch.where(loss_mask > 0, mask, 1 - mask)
    model = network()
    values = [EvidenceLowerBound(2.0).loss(model, Batch(image, m, loss_mask), stream("test"))["loss"] for m in (mask, other)]
    assert torch.equal(*values)
    changed = EvidenceLowerBound(2.0).loss(model, Batch(image, other, torch.ones_like(mask)), stream("test"))["loss"]
    assert changed != values[0]
    logits = torch.zeros(3, 1, 8, 8, requires_grad=True)
    stub = Stub(PRIOR, PRIOR)
    stub.decode = lambda features, z: logits
    EvidenceLowerBound(0.0).loss(stub, Batch(image, mask, loss_mask), stream("test"))["loss"].backward()
    assert torch.equal(logits.grad != 0, loss_mask > 0)


def two_minded(random, count=16):
    """One of two raters labels the bright square as lesion; the image does not tell which rater made the mask."""
    squares = torch.zeros(count, 1, 12, 12)
    for square in squares:
        x, y = random.integers(0, 5, 2)
        square[:, x : x + 8, y : y + 8] = 1
    image = squares + 0.1 * torch.from_numpy(random.standard_normal(squares.shape, dtype=np.float32))
    called = torch.from_numpy(random.random(count) < 0.5).float()[:, None, None, None]
    return Batch(image, squares * called, torch.ones_like(squares)), squares


def test_elbo_training_makes_prior_cover_both_readings():
    model, bound = network(seed=3), EvidenceLowerBound(1.0)
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for step in range(150):
        batch, _ = two_minded(stream("train", step))
        loss = bound.loss(model, batch, stream("draw", step))["loss"]
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        losses.append(loss.item())
    assert np.mean(losses[-10:]) < 0.5 * np.mean(losses[:10])
    batch, squares = two_minded(stream("test"), 64)
    with torch.inference_mode():
        features = model.features(batch.image)
        readings = [model.posterior(batch.image, batch.mask).mean, model.prior(batch.image).mean]
        explained, blind = (
            functional.binary_cross_entropy_with_logits(model.decode(features, z), batch.mask).item() for z in readings
        )
        samples = torch.stack([bound.estimates(model, batch, stream("estimates", n))[1].probability for n in range(20)])
    assert explained < 0.5 * blind
    inside = (samples * squares).sum((2, 3, 4)) / squares.sum((1, 2, 3))  # (samples, images): fraction that is called a lesion
    assert (inside > 0.8).float().mean() > 0.25
    assert (inside < 0.2).float().mean() > 0.25


def test_build_objective_returns_elbo_for_probabilistic_unet():
    settings = {"architecture": "probabilistic_unet", "kl_weight": 0.5, "free_bits": 0.1, "kl_warm_up": 0.25}
    assert build_objective(settings) == EvidenceLowerBound(0.5, free_bits=0.1, kl_warm_up=0.25)


@pytest.mark.parametrize(
    ("free_bits", "expected"),
    [
        (0.0, (2 - LN2) / 2 + 4.5 / 2),
        (1.0, (1 + 4.5 / 2)),  # the first dimension's divergence, 0.65, is below the threshold
        (3.0, 3.0 + 3.0),
    ],
)
def test_free_bits_bound_penalty_of_each_latent_dimension_from_below(free_bits, expected):
    """Means over two images: of dimension 0 the divergence 2 - ln 2 and 0, of dimension 1 none and 9/2."""
    parts = EvidenceLowerBound(2.0, free_bits).loss(Stub(PRIOR, POSTERIOR), TINY, stream("test"))
    assert parts["loss"].item() == pytest.approx(parts["cross_entropy"].item() + 2.0 * expected / 2, rel=1e-6)
    assert parts["kl"].item() == pytest.approx((2 - LN2 + 4.5) / 2, rel=1e-6)


def test_free_bits_gradient_is_zero_below_the_threshold_and_exact_above_it():
    """d KL / d mean = (m_q - m_p) / s_p^2; the logits do not depend on z."""
    mean = torch.tensor([[0.2, 2.0], [0.4, 1.0]], requires_grad=True)
    prior = gaussian([[0.0, 0.0], [0.0, 0.0]], [[1.0, 1.0], [1.0, 1.0]])
    posterior = Independent(Normal(mean, torch.ones(2, 2)), 1)
    assert kl_divergence(posterior.base_dist, prior.base_dist).mean(0).tolist() == pytest.approx([0.05, 1.25])
    EvidenceLowerBound(4.0, free_bits=0.1).loss(Stub(prior, posterior), TINY, stream("test"))["loss"].backward()
    assert mean.grad[:, 0].tolist() == [0.0, 0.0]
    expected = 4.0 * mean.detach()[:, 1] / 2 / 2  # mean over two images, divided by two pixels
    torch.testing.assert_close(mean.grad[:, 1], expected)


@pytest.mark.parametrize(("step", "factor"), [(1, 0.05), (10, 0.5), (20, 1.0), (21, 1.0), (50, 1.0)])
def test_kl_warm_up_raises_the_weight_linearly(step, factor):
    bound, model = EvidenceLowerBound(4.0, kl_warm_up=0.4), Stub(PRIOR, POSTERIOR)
    (phase,) = bound.phases(model)
    parts = phase.loss_at(step, steps=50)(model, TINY, stream("test"))
    penalty = parts["loss"].item() - parts["cross_entropy"].item()
    assert penalty == pytest.approx(factor * 4.0 * (2 - LN2 + 4.5) / 2 / 2, rel=1e-5)


def test_kl_warm_up_of_zero_is_the_plain_bound():
    model = Stub(PRIOR, POSTERIOR)
    (phase,) = EvidenceLowerBound(4.0).phases(model)
    plain = EvidenceLowerBound(4.0).loss(model, TINY, stream("test"))["loss"]
    assert torch.equal(phase.loss_at(1, steps=50)(model, TINY, stream("test"))["loss"], plain)
