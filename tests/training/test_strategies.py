"""Self-conditioning, importance sampling of timesteps and Dice + focal loss, against closed forms and MONAI (about 4 s)."""

import math

import numpy as np
import pytest
import torch
from monai.losses import DiceLoss, FocalLoss
from torch import nn
from training_examples import CASES, ActionAt, assert_same, folder_trainer, send_sigterm

from pd_ddpm.config import load, resolve
from pd_ddpm.config.validate import validate
from pd_ddpm.diffusion.denoiser import Denoiser
from pd_ddpm.diffusion.mask_coding import CODINGS
from pd_ddpm.diffusion.noise import MemberNoise, stream
from pd_ddpm.diffusion.samplers import ancestral, ddim, reverse_times
from pd_ddpm.diffusion.schedule import Schedule
from pd_ddpm.models.factory import build_model
from pd_ddpm.training.factory import build_objective
from pd_ddpm.training.interruption import Interrupted
from pd_ddpm.training.objectives import losses
from pd_ddpm.training.objectives.denoising import Denoising
from pd_ddpm.training.objectives.strategies import Noising, PlainDiffusion, Recycling, SelfConditioning
from pd_ddpm.training.objectives.times import ImportanceTimes, SpreadTimesteps, UniformTimes
from pd_ddpm.training.patches import Batch

SCHEDULE = Schedule.cosine()
SIZE = (6, 8)
STRATEGIES = {
    "diffusion": PlainDiffusion(),
    "self_conditioning_same": SelfConditioning(0.5, "same"),
    "self_conditioning_next": SelfConditioning(0.5, "next"),
    "recycling_next": Recycling(1.0, "soft", "next"),
    "recycling_last": Recycling(1.0, "soft", "last"),
}


class Recorder(nn.Module):
    """A network with logits of its own weight times a sum of its inputs; it keeps all inputs and whether gradients are on."""

    divisor = 1

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.7))
        self.calls = []

    def forward(self, x, t):
        self.calls.append((x, t, torch.is_grad_enabled()))
        return self.scale * x.sum(dim=1, keepdim=True)


def recorder(coding="signed", self_conditioned=True):
    return Denoiser(Recorder(), SCHEDULE, CODINGS[coding], "mask", self_conditioned=self_conditioned)


def batch(count=12, size=SIZE):
    """Images of one channel, which numbers the rows, and random masks."""
    random = np.random.default_rng(0)
    image = torch.arange(count, dtype=torch.float32).reshape(-1, 1, 1, 1).expand(count, 1, *size).clone() / count
    mask, loss_mask = (torch.from_numpy((random.random((count, 1, *size)) < p).astype(np.float32)) for p in (0.3, 0.9))
    return Batch(image, mask, loss_mask)


def noising(examples, t_max=1000, t=None):
    rng = stream("strategy")
    t = torch.from_numpy(rng.integers(1, t_max + 1, len(examples.mask))) if t is None else t
    return Noising(t, torch.from_numpy(rng.standard_normal(examples.mask.shape, dtype=np.float32)), t_max, rng)


def diffused(mask, t, noise, coding="signed"):
    low, high = {"signed": (-1, 1), "binary": (0, 1)}[coding]
    signal = SCHEDULE.alpha_bar[t].reshape(-1, 1, 1, 1)
    return (signal.sqrt() * (low + (high - low) * mask) + (1 - signal).sqrt() * noise).float()


@pytest.mark.parametrize("coding", CODINGS)
def test_self_conditioning_on_x_t_shows_the_estimate_in_chosen_rows_and_the_midpoint_in_others(coding):
    examples, model = batch(), recorder(coding)
    step = noising(examples)
    inputs = SelfConditioning(0.5, "same").inputs(model, examples, step)
    rng = stream("strategy")
    rng.integers(1, 1001, 12), rng.standard_normal(examples.mask.shape, dtype=np.float32)
    chosen = rng.random(12) < 0.5
    assert 0 < chosen.sum() < 12
    torch.testing.assert_close(inputs.x_t, diffused(examples.mask, step.t, step.noise, coding), rtol=0, atol=1e-6)
    ((x, t, has_gradient),) = model.network.calls
    low, high = {"signed": (-1, 1), "binary": (0, 1)}[coding]
    assert torch.equal(x, torch.cat([examples.image, inputs.x_t, torch.full_like(inputs.x_t, (low + high) / 2)], 1)[chosen])
    assert torch.equal(t, step.t[chosen])
    assert not has_gradient
    estimate = low + (high - low) * torch.sigmoid(0.7 * x.sum(dim=1, keepdim=True))
    torch.testing.assert_close(inputs.previous[chosen], estimate.detach(), rtol=0, atol=1e-6)
    assert (inputs.previous[~chosen] == (low + high) / 2).all()


@pytest.mark.parametrize("state", ["fixed", "as_released"])
def test_self_conditioning_on_next_estimates_from_t_plus_1_and_steps_back(state):
    examples, model = batch(), recorder()
    step = noising(examples, t=torch.tensor([1, 2, 499, 500, 998, 999] * 2))
    inputs = SelfConditioning(1.0, "next", state).inputs(model, examples, step)
    next_t = torch.tensor([2, 3, 500, 501, 999, 1000] * 2)
    before = diffused(examples.mask, next_t, step.noise)
    ((x, t, _),) = model.network.calls
    assert torch.equal(t, next_t)
    torch.testing.assert_close(x[:, 1:2], before, rtol=0, atol=1e-6)
    estimate = 2 * torch.sigmoid(0.7 * x.sum(dim=1, keepdim=True)) - 1
    torch.testing.assert_close(inputs.previous, estimate.detach(), rtol=0, atol=1e-6)
    expected = before
    if state == "fixed":
        weights = [SCHEDULE.posterior(int(n), int(s)) for n, s in zip(next_t, step.t, strict=True)]
        x0_weight, x_weight, _ = torch.tensor(weights, dtype=torch.float64).T.reshape(3, -1, 1, 1, 1)
        expected = (x0_weight * estimate.detach() + x_weight * before).float()
    torch.testing.assert_close(inputs.x_t, expected, rtol=0, atol=2e-6)


def test_self_conditioning_on_next_steps_back_in_all_rows_and_shows_the_estimate_in_chosen_ones():
    examples = batch()
    every, some = (SelfConditioning(share, "next").inputs(recorder(), examples, noising(examples)) for share in (1.0, 0.5))
    rng = stream("strategy")
    rng.integers(1, 1001, 12), rng.standard_normal(examples.mask.shape, dtype=np.float32)
    chosen = rng.random(12) < 0.5
    assert 0 < chosen.sum() < 12
    assert torch.equal(some.x_t, every.x_t)
    assert torch.equal(some.previous[chosen], every.previous[chosen])
    assert (some.previous[~chosen] == 0).all()


def test_recycling_from_last_estimates_from_truth_at_t_max():
    examples, model = batch(), recorder(self_conditioned=False)
    step = noising(examples, t_max=400)
    inputs = Recycling(1.0, "soft", "last").inputs(model, examples, step)
    ((x, t, has_gradient),) = model.network.calls
    rng = stream("strategy")
    rng.integers(1, 401, 12), rng.standard_normal(examples.mask.shape, dtype=np.float32), rng.random(12)
    fresh = torch.from_numpy(rng.standard_normal(examples.mask.shape, dtype=np.float32))
    assert t.tolist() == [400] * 12
    assert not has_gradient
    torch.testing.assert_close(x[:, 1:], diffused(examples.mask, t, fresh), rtol=0, atol=1e-6)
    estimate = torch.sigmoid(0.7 * x.sum(dim=1, keepdim=True)).detach()
    torch.testing.assert_close(inputs.x_t, diffused(estimate, step.t, step.noise), rtol=0, atol=1e-6)


@pytest.mark.parametrize("time_sampling", ["uniform", "importance"])
@pytest.mark.parametrize("name", STRATEGIES)
def test_last_timestep_has_a_loss_unless_estimates_come_from_a_later_timestep(name, time_sampling):
    """As in the released code: t in [0, N) of its indices for the first two strategies, and in [0, N - 1) for the others."""
    examples, model = batch(64, (1, 1)), recorder(self_conditioned=name.startswith("self"))
    settings = resolve.network(load.read(None, {"scale": "demo"}), "denoiser")
    settings |= {"strategy": name, "recycled_estimate": "soft", "mask_loss": "dice_focal", "t_max": 4}
    build_objective(settings | {"time_sampling": time_sampling}).loss(model, examples, stream("test"))
    *first, (_, t, _) = model.network.calls
    largest = 4 if name in ("diffusion", "self_conditioning_same") else 3
    assert set(t.tolist()) == set(range(1, largest + 1))
    if first:
        ((_, first_t, _),) = first
        expected = {"self_conditioning_next": {2, 3, 4}, "recycling_next": {2, 3, 4}, "recycling_last": {4}}
        assert set(first_t.tolist()) == expected.get(name, {1, 2, 3, 4})


@pytest.mark.parametrize("name", STRATEGIES)
def test_no_gradient_flows_through_the_first_pass(name):
    """The gradient of the loss is that of one pass on constant inputs."""
    examples, model = batch(), recorder(self_conditioned=name.startswith("self"))
    loss = Denoising(1000, "dice_focal", strategy=STRATEGIES[name]).loss(model, examples, stream("test"))["loss"]
    *first, (x, _, has_gradient) = model.network.calls
    assert has_gradient
    assert [gradient for *_, gradient in first] == ([] if name == "diffusion" else [False])
    assert not x.requires_grad
    loss.backward()
    scale = torch.tensor(0.7, requires_grad=True)
    rows = losses.dice_focal_rows(scale * x.sum(dim=1, keepdim=True), examples.mask, examples.loss_mask, 1.0)["loss"]
    rows.mean().backward()
    torch.testing.assert_close(model.network.scale.grad, scale.grad)


@pytest.mark.parametrize("sampler", ["ancestral", "ddim"])
def test_chain_gives_each_step_the_estimate_of_the_step_before(sampler):
    model, image = recorder(), batch(3).image
    noise = MemberNoise([("chain", row) for row in range(3)])
    x = noise.sample_normal((1, *SIZE))
    times = [1000, 750, 500, 250, 1, 0]
    run = {"ancestral": lambda **k: ancestral(**k, variance="small"), "ddim": ddim}[sampler]
    with torch.no_grad():
        result = run(denoise=model.chain(image), x=x, times=times, schedule=SCHEDULE, noise=noise)
    calls = model.network.calls
    assert [t.unique().tolist() for _, t, _ in calls] == [[1000], [750], [500], [250], [1]]
    estimates = [torch.tanh(0.7 * x.sum(dim=1, keepdim=True) / 2) for x, *_ in calls]
    assert (calls[0][0][:, 2:] == 0).all()
    for (x, *_), previous in zip(calls[1:], estimates[:-1], strict=True):
        torch.testing.assert_close(x[:, 2:], previous)
    torch.testing.assert_close(result, estimates[-1])


def test_second_chain_begins_without_an_estimate():
    model, image = recorder(), batch(3).image
    with torch.no_grad():
        for _ in range(2):
            chain = model.chain(image)
            chain(torch.ones(3, 1, *SIZE), 1000), chain(torch.ones(3, 1, *SIZE), 500)
    assert [bool((x[:, 2:] == 0).all()) for x, *_ in model.network.calls] == [True, False, True, False]


@pytest.mark.parametrize("coding", CODINGS)
def test_clipped_input_is_shown_to_the_network_only(coding):
    low, high = {"signed": (-1, 1), "binary": (0, 1)}[coding]
    model = Denoiser(Recorder(), SCHEDULE, CODINGS[coding], "mask", clip_input=True, likelihood_skip=True)
    x_t = torch.linspace(-3, 3, 48).reshape(1, 1, *SIZE)
    t = torch.tensor([600])
    output = model.output(x_t, torch.zeros(1, 1, *SIZE), t)
    ((x, *_),) = model.network.calls
    assert torch.equal(x[:, 1:], x_t.clamp(low, high))
    torch.testing.assert_close(output, 0.7 * x_t.clamp(low, high) + model.log_likelihood_ratio(x_t, t))


@pytest.mark.parametrize("channels", [1, 4])
def test_dice_focal_rows_equal_monai_where_all_classes_are_present(channels):
    random = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn((5, channels, 7, 9), generator=random, dtype=torch.float64)
    labels = torch.randint(max(channels, 2), (5, 7, 9), generator=random)
    mask = (labels[:, None] == (torch.arange(channels).reshape(-1, 1, 1) if channels > 1 else 1)).double()
    rows = losses.dice_focal_rows(logits, mask, torch.ones(5, 1, 7, 9, dtype=torch.float64), 20.0)
    kind = {"sigmoid": True} if channels == 1 else {"softmax": True, "include_background": False}
    dice = DiceLoss(**kind, smooth_nr=0, smooth_dr=0, reduction="none")(logits, mask).mean(dim=(1, 2, 3))
    focal = FocalLoss(gamma=2, use_softmax=channels > 1, reduction="none")(logits, mask).sum(dim=1).mean(dim=(1, 2))
    torch.testing.assert_close(rows["dice_loss"], dice)
    torch.testing.assert_close(rows["focal_loss"].float(), focal)
    torch.testing.assert_close(rows["loss"], dice + 20 * rows["focal_loss"])


def test_dice_of_rows_is_that_of_present_classes_and_0_without_any():
    random = torch.Generator().manual_seed(0)
    logits = torch.randn((2, 3, 4, 4), generator=random)
    mask = torch.zeros(2, 3, 4, 4)
    mask[:, 0] = 1
    mask[0, 0, 0], mask[0, 2, 0] = 0, 1
    rows = losses.dice_focal_rows(logits, mask, torch.ones(2, 1, 4, 4), 1.0)["dice_loss"]
    p = logits.softmax(dim=1)[0, 2]
    torch.testing.assert_close(rows[0], 1 - 2 * p[0].sum() / (p.sum() + 4))
    assert rows[1] == 0


def test_ignored_pixels_change_no_loss_of_rows():
    random = torch.Generator().manual_seed(0)
    logits, mask = torch.randn((2, 1, 4, 6), generator=random), (torch.rand((2, 1, 4, 6), generator=random) < 0.4).float()
    loss_mask = torch.ones(2, 1, 4, 6)
    loss_mask[..., 4:] = 0
    cut = losses.dice_focal_rows(logits[..., :4], mask[..., :4], loss_mask[..., :4], 1.0)
    whole = losses.dice_focal_rows(logits, mask, loss_mask, 1.0)
    for name, values in whole.items():
        torch.testing.assert_close(values, cut[name])


def trained_times(weights="fixed", t_max=40, rounds=12):
    """A sampler that has seen the loss 1 + t / 10 at every timestep."""
    times = ImportanceTimes(t_max, weights)
    t = np.tile(np.arange(1, t_max + 1), rounds)
    times.update(t, 1 + t / 10)
    return times


def test_probabilities_are_proportional_to_root_mean_squared_losses():
    times = trained_times()
    loss = 1 + np.arange(1, 41) / 10
    np.testing.assert_allclose(times.probabilities(), 0.99 * loss / loss.sum() + 0.01 / 40, rtol=1e-12)


@pytest.mark.parametrize("is_warm", [False, True])
def test_expected_weighted_loss_equals_mean_loss(is_warm):
    """E[w L] = sum of p w L over all timesteps = the mean of L, and the mean of samples agrees with it."""
    times = trained_times() if is_warm else ImportanceTimes(40)
    if not is_warm:
        times.update([1, 1, 2, 7], [3.0, 1.0, 2.0, 5.0])
    assert times.is_warm == is_warm
    loss = np.random.default_rng(0).random(40)
    t, weights = times.sample(stream("times"), 200_000)
    p = times.probabilities()
    np.testing.assert_allclose(weights, 1 / (40 * p[t - 1]), rtol=1e-12)
    np.testing.assert_allclose((p * loss / (40 * p)).sum(), loss.mean(), rtol=1e-12)
    values = weights * loss[t - 1]
    assert abs(values.mean() - loss.mean()) < 4.5 * values.std() / math.sqrt(len(values))
    observed = np.bincount(t, minlength=41)[1:] / len(t)
    assert np.abs(observed - p).max() < 4.5 * np.sqrt(p.max() / len(t))


def test_released_weights_are_the_inverse_of_the_unbiased_ones():
    fixed, released = (trained_times(weights).sample(stream("times"), 50) for weights in ("fixed", "as_released"))
    assert np.array_equal(fixed[0], released[0])
    np.testing.assert_allclose(fixed[1] * released[1], 1, rtol=1e-12)


def test_released_sampler_sees_missing_timesteps_first_with_weight_1():
    times = ImportanceTimes(5, "as_released")
    times.update([1] * 10 + [2] * 10 + [3] * 5, [1.0] * 25)
    np.testing.assert_allclose(times.probabilities(), [0, 0, 0.2, 0.4, 0.4])
    assert set(times.sample(stream("times"), 100)[0].tolist()) == {3, 4, 5}
    assert (times.sample(stream("times"), 100)[1] == 1).all()


@pytest.mark.parametrize(("t_max", "count"), [(1001, 5), (1000, 10), (7, 7), (300, 2)])
def test_spread_timesteps_are_those_of_a_chain(t_max, count):
    timesteps = SpreadTimesteps(t_max, count)
    chain = reverse_times(t_max, count, "linspace")[-2::-1]
    assert timesteps.at(np.arange(1, count + 1)).tolist() == chain
    assert timesteps.at(torch.arange(1, count + 1)).tolist() == chain
    assert (
        timesteps.number(np.array(chain)).tolist() == timesteps.number(torch.tensor(chain)).tolist() == [*range(1, count + 1)]
    )
    assert timesteps.next(torch.tensor(chain)).tolist() == [*chain[1:], t_max]


@pytest.mark.parametrize("time_sampling", ["uniform", "importance"])
@pytest.mark.parametrize(("strategy", "last"), [("diffusion", 1001), ("self_conditioning_same", 1001), ("recycling_next", 751)])
def test_few_timesteps_are_trained_with_estimates_from_the_next_of_them(time_sampling, strategy, last):
    """A strategy with estimates from the next timestep never trains the last one."""
    keys = {"T": 1001, "t_max": 1001, "training_timesteps": 5, "validation_chain_steps": 5, "strategy": strategy}
    keys |= {"predicts": "mask", "mask_loss": "dice_focal", "time_sampling": time_sampling}
    settings = resolve.network(load.read(None, {"scale": "demo"}), "denoiser") | keys | {"likelihood_skip": False}
    objective, schedule = build_objective(settings), Schedule.cosine(1001)
    model = Denoiser(Recorder(), schedule, CODINGS["signed"], "mask", self_conditioned=strategy.startswith("self"))
    sampled, earlier = set(), {1: 251, 251: 501, 501: 751, 751: 1001}
    for step in range(20):
        model.network.calls.clear()
        objective.loss(model, batch(), stream("step", step))
        *first, t = (call[1] for call in model.network.calls)
        sampled |= set(t.tolist())
        if strategy == "recycling_next":
            assert first[0].tolist() == [earlier[one] for one in t.tolist()]
    assert sampled == {one for one in (1, 251, 501, 751, 1001) if one <= last}
    assert objective.chains.spacing == "linspace"
    if time_sampling == "importance":
        counts = objective.saved_parts()["times"].counts
        assert (counts.sum(), len(counts)) == (20 * 12, 5 if last == 1001 else 4)


def test_uniform_times_are_those_of_one_call_of_integers():
    t, weights = UniformTimes(300).sample(stream("times"), 20)
    assert weights is None
    assert np.array_equal(t, stream("times").integers(1, 301, 20))


@pytest.mark.parametrize("mask_loss", ["squared_error", "dice_focal"])
def test_loss_of_a_step_is_the_weighted_mean_of_rows_and_updates_the_sampler(mask_loss):
    examples, model, times = batch(), recorder(self_conditioned=False), trained_times(t_max=1000)
    before = times.squares.copy()
    values = Denoising(1000, mask_loss, times=times).loss(model, examples, stream("test"))
    t, weights = trained_times(t_max=1000).sample(stream("test"), 12)
    ((x, used_t, _),) = model.network.calls
    assert np.array_equal(used_t.numpy(), t)
    logits = (0.7 * x.sum(dim=1, keepdim=True)).detach()
    if mask_loss == "squared_error":
        rows = losses.masked_mean_rows((2 * logits.sigmoid() - 2 * examples.mask) ** 2, examples.loss_mask)
    else:
        rows = losses.dice_focal_rows(logits, examples.mask, examples.loss_mask, 1.0)["loss"]
    torch.testing.assert_close(values["loss"], (torch.from_numpy(weights).float() * rows).mean())
    torch.testing.assert_close(values["unweighted_loss"], rows.mean())
    for timestep in np.unique(t):
        expected = before[timestep - 1]
        for loss in rows[torch.from_numpy(t) == timestep].tolist():
            expected = 0.9 * expected + 0.1 * loss**2
        assert times.squares[timestep - 1] == pytest.approx(expected, rel=1e-5)


def test_importance_with_loss_of_whole_batch_is_refused():
    objective = Denoising(1000, "cross_entropy_dice", times=ImportanceTimes(1000))
    with pytest.raises(ValueError, match="needs one loss per patch"):
        objective.loss(recorder(self_conditioned=False), batch(), stream("test"))


KEYS = {"channels": 4, "multipliers": [1, 2], "attention_at": [], "predicts": "mask", "mask_loss": "dice_focal"}
STARTED = {"T": 8, "t_max": 8, "validation_chain_steps": 2, "validation_presegmenter": None}


@pytest.fixture(scope="module")
def demo():
    return load.read(None, {"scale": "demo"})


@pytest.mark.parametrize("strategy", ["self_conditioning_next", "recycling_last"])
def test_interrupted_and_resumed_training_with_importance_equals_unbroken_one(tmp_path, demo, strategy):
    """With 8 timesteps the sampler is warm after half of the steps, so that its state decides about the others."""
    changes = {"strategy": strategy, "strategy_share": 0.5, "time_sampling": "importance", "dropout": 0.2}
    settings = resolve.network(demo, "denoiser") | KEYS | STARTED | changes

    def trainer(action=None):
        torch.manual_seed(0)
        model, objective = build_model(settings, 2), build_objective(settings)
        steps = {"steps": 30, "batch": 6, "validate_every": 15}
        wrapped = objective if action is None else Forwarding(objective, 25, action)
        return folder_trainer(model, wrapped, CASES, **steps), objective

    unbroken, objective = trainer()
    whole = unbroken.fit(tmp_path / "whole")
    assert objective.times.is_warm
    with pytest.raises(Interrupted, match="Step 25 of 30 is saved in"):
        trainer(send_sigterm)[0].fit(tmp_path / "parts")
    resumed, restored = trainer()
    assert_same(resumed.fit(tmp_path / "parts"), whole)
    assert np.array_equal(restored.times.squares, objective.times.squares)


class Forwarding(ActionAt):
    """An objective that also passes on the saved parts."""

    def saved_parts(self):
        return self.inner.saved_parts()


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_is_built_from_its_key(demo, name):
    share = 1.0 if name.startswith("recycling") else 0.5
    keys = {"strategy": name, "strategy_share": share, "recycled_estimate": "soft"}
    settings = resolve.network(demo, "denoiser") | KEYS | keys
    assert build_objective(settings).strategy == STRATEGIES[name]
    is_self_conditioned = name.startswith("self")
    model = build_model(settings, 2)
    assert model.self_conditioned == is_self_conditioned
    assert model.network.first.weight.shape[1] == 2 + (2 if is_self_conditioned else 1)
    networks = {"denoiser": {**keys, "predicts": "mask"}, "truncated-denoiser": {"initialise_from": None}}
    validate(load.read(None, {"scale": "demo", "networks": networks}))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"truncated-denoiser": {"strategy": "self_conditioning_same", "predicts": "mask"}},
            "not available for a network",
        ),
        ({"truncated-denoiser": {"time_sampling": "importance"}}, "is trained at uniform timesteps"),
        ({"denoiser": {"time_sampling": "importance"}}, "needs one loss per patch"),
        ({"truncated-denoiser": {"training_timesteps": 10}}, "is trained at all timesteps"),
        ({"denoiser": {"training_timesteps": 5, "validation_chain_steps": 4}}, "chains of 4 steps meet timesteps that"),
        (
            {
                "denoiser": {"training_timesteps": 10, "validation_chain_steps": 10},
                "truncated-denoiser": {"training_timesteps": None},
            },
            "is trained at 10 timesteps, and chains of others",
        ),
        ({"denoiser": {"strategy": "self_conditioning_same"}}, "'truncated-denoiser' and 'denoiser' differ in strategy"),
        ({"denoiser": {"strategy": "diffusion", "strategy_share": 0}}, "Set a number above 0"),
    ],
)
def test_contradictory_strategies_are_refused(settings, message):
    with pytest.raises(Exception, match=message):
        validate(load.read(None, {"scale": "demo", "networks": settings}))
