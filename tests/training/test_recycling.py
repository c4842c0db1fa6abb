"""Recycling: x_t from the denoiser's own estimate, against closed forms and oracles (about 5 s)."""

import itertools
import math
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn
from training_examples import CASES, ActionAt, assert_same, denoiser, folder_trainer, send_sigterm

from pd_ddpm.config import load, resolve
from pd_ddpm.config.validate import validate
from pd_ddpm.diffusion.denoiser import Denoiser
from pd_ddpm.diffusion.mask_coding import CODINGS
from pd_ddpm.diffusion.noise import stream
from pd_ddpm.diffusion.schedule import Schedule
from pd_ddpm.runtime.precision import PRECISIONS
from pd_ddpm.training.factory import build_objective
from pd_ddpm.training.interruption import Interrupted
from pd_ddpm.training.objectives.denoising import Denoising
from pd_ddpm.training.objectives.noise import sample_normal
from pd_ddpm.training.objectives.segmentation import segmentation_losses
from pd_ddpm.training.objectives.strategies import Noising, PlainDiffusion, Recycling
from pd_ddpm.training.patches import Batch

SCHEDULE = Schedule.cosine()
SIZE = (6, 8)
ESTIMATES = ("hard", "soft", "sampled")


class Oracle(nn.Module):
    """A network whose logits are the second image channel; it keeps all its inputs."""

    divisor = 1

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.inputs = []

    def forward(self, x, t):
        self.inputs.append((x, t, torch.is_grad_enabled()))
        return self.scale * x[:, 1:2]


def oracle(coding="signed", **options):
    return Denoiser(Oracle(), SCHEDULE, CODINGS[coding], "mask", **options)


def batch(count=12, size=SIZE, seed=0):
    """Images whose first channel numbers the rows, and masks that are independent of the second one."""
    random = np.random.default_rng(seed)
    image = torch.from_numpy(random.normal(0, 2, (count, 2, *size)).astype(np.float32))
    image[:, 0] = torch.arange(count)[:, None, None]
    mask, loss_mask = (torch.from_numpy((random.random((count, 1, *size)) < p).astype(np.float32)) for p in (0.3, 0.9))
    return Batch(image, mask, loss_mask)


def times_and_noise(examples, t_max=1000):
    """The timesteps and the noise of x_t that a step takes first, and its generator after them."""
    rng = stream("test")
    count = len(examples.mask)
    t = torch.from_numpy(rng.integers(1, t_max + 1, count))
    return t, sample_normal(rng, count, examples.mask.shape[1:], torch.device("cpu")), rng


def made_masks(recycling, model, examples, rng):
    """Return the masks that x_t is made from: x_0 itself, since no noise is added at t = 0."""
    t = torch.zeros(len(examples.mask), dtype=torch.long)
    inputs = recycling.inputs(model, examples, Noising(t, torch.zeros_like(examples.mask), 1000, rng))
    return model.coding.decode(inputs.x_t)


def run_loss(model, examples, recycling, t_max=1000):
    """Return the loss of a step, and all inputs of the network in it."""
    loss = Denoising(t_max, "cross_entropy_dice", strategy=recycling).loss(model, examples, stream("test"))["loss"]
    inputs, model.network.inputs = model.network.inputs, []
    return loss, inputs


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("estimate", ESTIMATES)
def test_x_t_of_recycled_rows_is_estimate_diffused_with_noise_of_the_step(coding, estimate):
    examples = batch()
    t, noise, rng = times_and_noise(examples)
    _, (first, second) = run_loss(oracle(coding), examples, Recycling(0.5, estimate))
    recycled = rng.random(12) < 0.5
    assert 0 < recycled.sum() < 12
    assert first[0][:, 0, 0, 0].tolist() == np.flatnonzero(recycled).tolist()
    pure_noise = sample_normal(rng, recycled.sum(), (1, *SIZE), torch.device("cpu"))
    assert torch.equal(first[0][:, 2:], pure_noise)
    assert first[1].tolist() == [1000] * recycled.sum()
    probability = 1 / (1 + torch.exp(-examples.image[recycled, 1:].double()))
    if estimate == "hard":
        probability = (examples.image[recycled, 1:] >= 0).double()
    elif estimate == "sampled":
        probability = (torch.from_numpy(rng.random(probability.shape, dtype=np.float32)) < probability).double()
    clean = examples.mask.double()
    clean[recycled] = probability
    low, high = {"signed": (-1, 1), "binary": (0, 1)}[coding]
    signal = SCHEDULE.alpha_bar[t].reshape(-1, 1, 1, 1)
    expected = signal.sqrt() * (low + (high - low) * clean) + (1 - signal).sqrt() * noise
    torch.testing.assert_close(second[0][:, 2:], expected.float(), rtol=0, atol=1e-5)
    assert torch.equal(second[1], t)
    assert torch.equal(second[0][:, :2], examples.image)


def test_target_of_recycled_rows_is_ground_truth():
    """The oracle's output does not depend on x_t, so its loss is the same at every share."""
    examples = batch()
    values = [run_loss(oracle(), examples, Recycling(share))[0] for share in (0.0, 0.5, 1.0)]
    expected = segmentation_losses(examples.image[:, 1:], examples, dice_weight=1.0)["loss"]
    for value in values:
        torch.testing.assert_close(value, expected, rtol=0, atol=1e-6)
    squared = Denoising(1000, "squared_error", strategy=Recycling(1.0)).loss(oracle(), examples, stream("test"))["loss"]
    kept = examples.loss_mask > 0
    error = 2 * (examples.image[:, 1:].sigmoid() - examples.mask)[kept]
    torch.testing.assert_close(squared, error.square().mean())


def test_estimate_at_exactly_one_half_is_lesion():
    examples = batch()
    examples.image[:, 1] = 0
    replaced = made_masks(Recycling(1.0, "hard"), oracle(), examples, stream("test"))
    assert (replaced == 1).all()


def test_sampled_estimate_has_probability_of_estimate_in_independent_pixels():
    examples = batch(2, (200, 200))
    logits = torch.tensor([-1.5, 0.5])
    examples.image[:, 1] = logits[:, None, None]
    drawn = made_masks(Recycling(1.0, "sampled"), oracle(), examples, stream("test"))
    assert set(drawn.unique().tolist()) == {0.0, 1.0}
    p = logits.sigmoid()
    deviation = (p * (1 - p) / 200**2).sqrt()
    assert ((drawn.mean(dim=(1, 2, 3)) - p).abs() < 4.5 * deviation).all()
    both = (drawn[..., 1:] * drawn[..., :-1]).mean(dim=(1, 2, 3))
    assert ((both - p**2).abs() < 4.5 / 200).all()


@pytest.mark.parametrize("predicts", ["noise", "mask"])
def test_share_0_evaluates_the_network_once_on_diffused_truth_and_takes_no_further_random_number(predicts):
    examples = batch()
    model = Denoiser(Oracle(), SCHEDULE, CODINGS["signed"], predicts)
    t, noise, expected_rng = times_and_noise(examples)
    rng = stream("test")
    Denoising(1000, "squared_error").loss(model, examples, rng)
    ((x, input_t, _),) = model.network.inputs
    assert torch.equal(x[:, 2:], SCHEDULE.diffuse(2 * examples.mask - 1, t, noise))
    assert torch.equal(input_t, t)
    assert rng.bit_generator.state == expected_rng.bit_generator.state


def test_every_share_has_the_timesteps_and_rows_of_smaller_shares_too():
    examples = batch(64)
    recycled = []
    for share in (0.25, 0.5, 0.75, 1.0):
        _, (first, second) = run_loss(oracle(), examples, Recycling(share))
        recycled.append(set(first[0][:, 0, 0, 0].tolist()))
        assert torch.equal(second[1], times_and_noise(examples)[0])
    assert all(fewer < more for fewer, more in itertools.pairwise(recycled))
    assert len(recycled[-1]) == 64


def test_number_of_recycled_rows_is_binomial_and_all_rows_are_alike():
    share, count, repeats = 0.3, 6, 2000
    examples, model, rng = batch(count, (1, 1)), oracle(), stream("test")
    rows = np.zeros((repeats, count), dtype=bool)
    for row in rows:
        made_masks(Recycling(share), model, examples, rng)
        for x, _, _ in model.network.inputs:
            row[x[:, 0, 0, 0].long().numpy()] = True
        model.network.inputs = []
    observed = np.bincount(rows.sum(axis=1), minlength=count + 1)
    expected = stats.binom(count, share).pmf(range(count + 1)) * repeats
    joined = [*range(4), slice(4, None)]  # few batches have more than four recycled rows
    assert stats.chisquare(*([np.sum(n[part]) for part in joined] for n in (observed, expected))).pvalue > 1e-5
    assert np.abs(rows.mean(axis=0) - share).max() < 4.5 * math.sqrt(share * (1 - share) / repeats)


def test_batch_without_a_recycled_row_needs_no_estimate():
    examples, model = batch(1), oracle()
    rng = stream("test")
    while rng.random() < 1e-3:
        pass
    assert torch.equal(made_masks(Recycling(1e-3), model, examples, rng), examples.mask)
    assert model.network.inputs == []


@pytest.mark.parametrize("t_max", [3, 1000])
def test_estimate_from_next_is_made_from_truth_at_t_plus_1_up_to_t_max(t_max):
    examples = batch(64)
    t, noise, rng = times_and_noise(examples, t_max - 1)
    _, (first, second) = run_loss(oracle(), examples, Recycling(1.0, "hard", "next"), t_max)
    rng.random(64)
    next_t = t + 1
    assert torch.equal(first[1], next_t)
    assert t_max > 3 or set(next_t.tolist()) == {2, 3}
    fresh = sample_normal(rng, 64, (1, *SIZE), torch.device("cpu"))
    torch.testing.assert_close(first[0][:, 2:], SCHEDULE.diffuse(2 * examples.mask - 1, next_t, fresh))
    clean = (examples.image[:, 1:] >= 0).float()
    torch.testing.assert_close(second[0][:, 2:], SCHEDULE.diffuse(2 * clean - 1, t, noise))


def small_denoiser():
    """A denoiser with likelihood skip, in which no layer is zero."""
    model = denoiser("mask")
    model.likelihood_skip = True
    for parameter in model.parameters():
        nn.init.normal_(parameter, 0, 0.1)
    return model.train()


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return [parameter.grad.clone() for parameter in model.parameters()]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("estimate", ESTIMATES)
def test_gradient_is_that_of_a_constant_x_t(precision, estimate):
    """With bfloat16, old versions of PyTorch kept weights without gradient of the first pass in the cache of autocast."""
    model, examples = small_denoiser(), batch(4, (16, 24))
    seen = []
    hook = model.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs))
    half = torch.autocast("cpu", dtype=torch.bfloat16) if precision == "bfloat16" else nullcontext()
    with half:
        loss = Denoising(1000, "cross_entropy_dice", strategy=Recycling(1.0, estimate)).loss(model, examples, stream("test"))
    recycled = gradients(model, loss["loss"])
    hook.remove()
    _, (x, t) = seen
    assert not x.requires_grad
    with half:
        output = model.output(x[:, 2:], examples.image, t)
        expected = gradients(model, segmentation_losses(output, examples, dice_weight=1.0)["loss"])
    assert any(gradient.abs().max() > 0 for gradient in expected)
    for ours, theirs in zip(recycled, expected, strict=True):
        assert torch.equal(ours, theirs)


def test_first_pass_has_no_gradient_and_is_in_training_mode():
    model, examples = small_denoiser(), batch(4, (16, 24))
    modes = []
    model.network.register_forward_pre_hook(lambda network, _: modes.append((network.training, torch.is_grad_enabled())))
    Denoising(1000, "squared_error", strategy=Recycling(1.0)).loss(model, examples, stream("test"))
    assert modes == [(True, False), (True, True)]


@pytest.mark.parametrize("coding", CODINGS)
def test_likelihood_skip_adds_nothing_to_estimate_from_noise(coding):
    """At T the log-likelihood ratio of pure noise is at most 1e-4 times the noise."""
    examples = batch(4)
    plain, skipped = (
        made_masks(Recycling(1.0, "soft"), oracle(coding, likelihood_skip=skip), examples, stream("test"))
        for skip in (False, True)
    )
    assert not torch.equal(plain, skipped)
    torch.testing.assert_close(plain, skipped, rtol=0, atol=5e-4 / 4)


@pytest.mark.parametrize(("key", "share"), [("strategy", "share"), ("presegmented_share", "presegmented_share")])
def test_noise_prediction_is_refused(key, share):
    model = Denoiser(Oracle(), SCHEDULE, CODINGS["signed"], "noise")
    recycling = Recycling(**{share: 0.5})
    with pytest.raises(ValueError, match=rf"`{key}` needs `predicts: mask`"):
        Denoising(1000, "squared_error", strategy=recycling).loss(model, presegmented(batch()), stream("test"))


def presegmented(examples):
    """The batch with pre-segmentations that are independent of its masks."""
    mask = torch.from_numpy((np.random.default_rng(9).random(tuple(examples.mask.shape)) < 0.6).astype(np.float32))
    return examples._replace(presegmentation=mask)


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize(("share", "presegmented_share"), [(0.0, 0.5), (0.0, 1.0), (0.25, 0.5), (0.5, 0.5)])
def test_x_t_is_diffused_from_estimate_presegmentation_or_truth_by_the_number_of_the_row(coding, share, presegmented_share):
    examples = presegmented(batch(24))
    t, noise, rng = times_and_noise(examples)
    recycling = Recycling(share, "hard", presegmented_share=presegmented_share)
    loss, (*_, last) = run_loss(oracle(coding), examples, recycling)
    number = rng.random(24)
    is_recycled, is_presegmented = number < share, (number >= share) & (number < share + presegmented_share)
    assert is_presegmented.any()
    assert (is_recycled | is_presegmented).all() == (share + presegmented_share == 1)
    clean = examples.mask.clone()
    clean[is_presegmented] = examples.presegmentation[is_presegmented]
    clean[is_recycled] = (examples.image[is_recycled, 1:] >= 0).float()
    low, high = {"signed": (-1, 1), "binary": (0, 1)}[coding]
    expected = SCHEDULE.diffuse(low + (high - low) * clean, t, noise)
    torch.testing.assert_close(last[0][:, 2:], expected, rtol=0, atol=1e-6)
    # The oracle ignores x_t, so the loss is that of the ground truth whatever x_t is made from.
    target = segmentation_losses(examples.image[:, 1:], examples, dice_weight=1.0)["loss"]
    torch.testing.assert_close(loss, target, rtol=0, atol=1e-6)


def test_share_0_leaves_a_batch_with_presegmentations_as_it_is():
    examples, rng = presegmented(batch()), stream("test")
    before = rng.bit_generator.state
    assert torch.equal(made_masks(PlainDiffusion(), oracle(), examples, rng), examples.mask)
    assert rng.bit_generator.state == before


def test_presegmentations_leave_the_recycled_rows_of_a_share_as_they_are():
    examples = presegmented(batch(64))
    rows = [
        run_loss(oracle(), examples, Recycling(0.4, presegmented_share=share))[1][0][0][:, 0, 0, 0].tolist()
        for share in (0.0, 0.6)
    ]
    assert rows[0] == rows[1]
    assert 10 < len(rows[0]) < 40


def test_numbers_of_recycled_and_presegmented_rows_are_multinomial():
    shares, count, repeats = (0.3, 0.5), 50, 400
    examples, rng = presegmented(batch(count, (1, 1))), stream("test")
    examples.mask[:], examples.presegmentation[:], examples.image[:, 1] = 0.0, 0.25, 9.0
    recycling = Recycling(shares[0], presegmented_share=shares[1])
    masks = torch.cat([made_masks(recycling, oracle(), examples, rng) for _ in range(repeats)]).flatten()
    observed = [int((masks == value).sum()) for value in (1.0, 0.25, 0.0)]
    expected = np.array([*shares, 1 - sum(shares)]) * count * repeats
    assert sum(observed) == count * repeats
    assert stats.chisquare(observed, expected).pvalue > 1e-5


RESUMED = [Recycling(0.5), Recycling(0.5, "sampled", "next"), Recycling(0.3, presegmented_share=0.5)]


@pytest.mark.parametrize("recycling", RESUMED, ids=["noise", "next", "presegmented"])
def test_interrupted_and_resumed_training_equals_unbroken_one(tmp_path, recycling):
    objective = Denoising(1000, "cross_entropy_dice", strategy=recycling)
    cases = [case._replace(presegmentation=case.label_fractions[:, :1].roll(2, dims=3)) for case in CASES]

    def trainer(objective):
        return folder_trainer(denoiser("mask", dropout=0.2), objective, cases if recycling.presegmented_share else CASES)

    whole = trainer(objective).fit(tmp_path / "whole")
    with pytest.raises(Interrupted, match="Step 10 of 20 is saved in"):
        trainer(ActionAt(objective, 10, send_sigterm)).fit(tmp_path / "parts")
    assert_same(trainer(objective).fit(tmp_path / "parts"), whole)


def test_training_in_bfloat16_changes_every_weight():
    objective, model = Denoising(1000, "cross_entropy_dice", strategy=Recycling(1.0)), small_denoiser()
    before = [parameter.detach().clone() for parameter in model.parameters()]
    job = folder_trainer(model, objective, precision=PRECISIONS["bfloat16"])
    assert math.isfinite(job.run_step(1)["loss"])
    for old, new in zip(before, job.model.parameters(), strict=True):
        assert not torch.equal(old, new)


def test_build_objective_passes_recycling_to_both_denoisers():
    config = load.read(None, {"scale": "demo"})
    keys = {"strategy": "recycling_next", "strategy_share": 0.75, "recycled_estimate": "soft", "presegmented_share": 0.25}
    for name in ("denoiser", "truncated-denoiser"):
        assert build_objective(resolve.network(config, name) | keys).strategy == Recycling(0.75, "soft", "next", 0.25)
    truncated = build_objective(resolve.network(config, "truncated-denoiser") | keys)
    assert truncated.denoising.strategy == truncated.strategy


def test_recycled_denoiser_leaves_tdpm_as_it_is():
    shares = {"strategy": "recycling_noise", "strategy_share": 0.75, "presegmented_share": 0.25}
    config = load.read(None, {"scale": "demo", "networks": {"denoiser": shares}})
    validate(config)
    assert {key: resolve.network(config, "denoiser")[key] for key in shares} == shares
    truncated = resolve.network(config, "truncated-denoiser")
    assert (truncated["strategy"], truncated["presegmented_share"]) == ("diffusion", 0)
