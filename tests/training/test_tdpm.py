"""Objective of TDPM against numbers by hand, and short trainings (about 15 s)."""

import copy
import math
import os
import signal

import numpy as np
import pytest
import torch
from torch import nn
from training_examples import folder_trainer

from pd_ddpm.diffusion.mask_coding import CODINGS
from pd_ddpm.diffusion.noise import stream
from pd_ddpm.diffusion.schedule import Schedule
from pd_ddpm.diffusion.truncated_denoiser import TruncatedDenoiser
from pd_ddpm.models.factory import build_model as build
from pd_ddpm.models.weights import CheckpointError, assign_weights
from pd_ddpm.training.factory import build_objective
from pd_ddpm.training.interruption import Interrupted
from pd_ddpm.training.objectives.denoising import Denoising
from pd_ddpm.training.objectives.tdpm import TruncatedDiffusion
from pd_ddpm.training.patches import CaseSlices, PatchSettings, as_batch
from pd_ddpm.training.saved_state import load_state

SCHEDULE = Schedule.cosine()
SIZE = (6, 8)


class Linear(nn.Module):
    """A generator and denoiser: bias + weight * x_t; it keeps its last input."""

    divisor = 1

    def __init__(self):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.tensor(0.7)), nn.Parameter(torch.tensor(0.1))
        self.seen = []

    def forward(self, x, t):
        self.seen.append(t.tolist())
        return self.bias + self.weight * x[:, -1:]


class PixelDiscriminator(nn.Module):
    """A discriminator with one logit per pixel: slope * x + shift * image."""

    def __init__(self, slope=1.5, shift=0.5):
        super().__init__()
        self.slope, self.shift = nn.Parameter(torch.tensor(slope)), nn.Parameter(torch.tensor(shift))

    def forward(self, image, x):
        return self.slope * x + self.shift * image[:, :1]


class Whole(nn.Module):
    """A discriminator with one logit per image: the inner product of x and fixed weights."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.from_numpy(np.random.default_rng(1).standard_normal((1, 1, *SIZE), dtype=np.float32)))

    def forward(self, image, x):
        return (self.weight * x).flatten(1).sum(dim=1)


def examples(count=3, labels=(0, 1, 2), seed=0):
    random = np.random.default_rng(seed)
    label_map = torch.from_numpy(random.choice(labels, (count, 1, *SIZE)).astype(np.uint8))
    label_fractions = torch.cat([label_map == 1, label_map == 2], dim=1).float()
    return as_batch(torch.from_numpy(random.standard_normal((count, 2, *SIZE), dtype=np.float32)), label_fractions)


def truncated(discriminator, head="direct", network=None):
    return TruncatedDenoiser(
        network or Linear(), SCHEDULE, CODINGS["signed"], "noise", t_max=300, head=head, discriminator=discriminator
    )


def objective(**changes):
    settings = {
        "t_max": 300,
        "mask_loss": "squared_error",
        "generator_factor": 0.2,
        "discriminator_factor": 1.0,
        "gradient_penalty": 0.4,
        "penalty_every": 16,
        "warm_up": 0.0,
    }
    return TruncatedDiffusion(**settings | changes)


def by_hand(batch, rng, head):
    """Real and fake x at T' of `Linear`, in the order of the random numbers."""
    level = SCHEDULE.signal(300)
    shape = batch.mask.shape
    noise = rng.standard_normal(shape, dtype=np.float32)
    mask, loss_mask = batch.mask.numpy(), batch.loss_mask.numpy() > 0
    real = math.sqrt(level) * (2 * mask * loss_mask - 1) + math.sqrt(1 - level) * noise
    fake = 0.1 + 0.7 * rng.standard_normal(shape, dtype=np.float32)
    if head == "mean_plus_noise":
        mean = 2 / (1 + np.exp(-fake)) - 1
        fake = math.sqrt(level) * mean + math.sqrt(1 - level) * rng.standard_normal(shape, dtype=np.float32)
    return real, np.where(loss_mask, fake, real)


def softplus(x):
    return np.log1p(np.exp(x))


# Losses


@pytest.mark.parametrize("head", ["direct", "mean_plus_noise"])
def test_tdpm_losses_equal_closed_forms(head):
    batch, game, model = examples(), objective(), truncated(PixelDiscriminator(), head)
    real, fake = by_hand(batch, stream("test"), head)
    image = batch.image[:, :1].numpy()
    generator = game.generator_loss(model, batch, stream("test"))["loss"]
    assert generator.item() == pytest.approx(softplus(-(1.5 * fake + 0.5 * image)).mean(), rel=1e-5)
    discriminator = game.discriminator_loss(model, batch, stream("test"))["loss"]
    expected = softplus(-(1.5 * real + 0.5 * image)).mean() + softplus(1.5 * fake + 0.5 * image).mean()
    assert discriminator.item() == pytest.approx(expected, rel=1e-5)
    undecided = game.discriminator_loss(truncated(PixelDiscriminator(0.0, 0.0)), batch, stream("test"))["loss"]
    assert undecided.item() == pytest.approx(2 * math.log(2), rel=1e-6)


@pytest.mark.parametrize("every", [1, 16])
def test_penalty_of_linear_discriminator_equals_closed_form(every):
    """R1 is gamma / 2 |w|^2 for one logit per image, and gamma / 2 slope^2 for one logit per pixel."""
    batch, game = examples(labels=(0, 1)), objective(penalty_every=every)
    discriminator = Whole()
    loss = game.penalty(truncated(discriminator), batch, stream("test"))["loss"]
    assert loss.item() == pytest.approx(0.2 * every * discriminator.weight.square().sum().item(), rel=1e-5)
    loss.backward()
    torch.testing.assert_close(discriminator.weight.grad, 0.4 * every * discriminator.weight.detach(), rtol=1e-5, atol=0)
    loss = game.penalty(truncated(PixelDiscriminator(slope=1.5)), batch, stream("test"))["loss"]
    assert loss.item() == pytest.approx(0.2 * every * 1.5**2, rel=1e-5)


def test_penalty_under_autocast_is_computed_in_float32():
    batch = examples(labels=(0, 1))
    discriminator = nn.Conv2d(3, 1, 1)
    wrapped = truncated(
        type("Joined", (nn.Module,), {"forward": lambda self, image, x: discriminator(torch.cat([image, x], dim=1))})()
    )
    with torch.autocast("cpu", torch.bfloat16):
        loss = objective().penalty(wrapped, batch, stream("test"))["loss"]
    assert loss.item() == pytest.approx(0.2 * 16 * discriminator.weight[0, 2].item() ** 2, rel=1e-5)


def test_penalty_reports_signs_of_collapsed_generator():
    """Empty masks and the variance of two generated samples, from two one-step chains by hand."""

    class Estimates(TruncatedDenoiser):
        def forward(self, x_t, image, t):
            assert t == 300
            return x_t

    batch = examples()._replace(mask=torch.zeros(3, 1, *SIZE), loss_mask=torch.ones(3, 1, *SIZE))
    batch.mask[0, 0, 0, 0] = 1
    model = Estimates(
        Linear(), SCHEDULE, CODINGS["signed"], "noise", t_max=300, head="direct", discriminator=PixelDiscriminator()
    )
    found = objective().penalty(model, batch, stream("test"))
    rng = stream("test")
    rng.standard_normal((3, 1, *SIZE), dtype=np.float32)
    one, other = (((0.1 + 0.7 * rng.standard_normal((3, 1, *SIZE), dtype=np.float32)) + 1) / 2 for _ in range(2))
    one, other = one.clip(0, 1), other.clip(0, 1)
    assert found["generated_variance"].item() == pytest.approx(np.var([one, other], axis=0, ddof=1).mean(), rel=1e-5)
    assert found["empty_masks"].item() == 0
    assert found["true_empty_masks"].item() == pytest.approx(2 / 3)
    with torch.no_grad():
        model.network.weight.zero_()
        model.network.bias.fill_(-0.5)
    found = objective().penalty(model, batch, stream("test"))
    assert (found["generated_variance"].item(), found["empty_masks"].item()) == (0, 1)


@pytest.mark.parametrize("head", ["direct", "mean_plus_noise"])
def test_tdpm_losses_ignore_label_2(head):
    """Neither mask nor generated x there changes a loss, and the gradient there is zero."""
    batch = examples()
    ignored = batch.loss_mask == 0
    free = nn.Parameter(torch.zeros(3, 1, *SIZE))

    class Free(Linear):
        def forward(self, x, t):
            return free + super().forward(x, t)

    discriminator = nn.Conv2d(3, 2, 5, padding=2)
    wrapped = type("Joined", (nn.Module,), {"forward": lambda self, image, x: discriminator(torch.cat([image, x], dim=1))})()
    model, game = truncated(wrapped, head, Free()), objective()
    other = batch._replace(mask=torch.where(ignored, 0.4, batch.mask))
    for loss in (game.generator_loss, game.discriminator_loss, game.penalty):
        assert loss(model, batch, stream("test"))["loss"].item() == loss(model, other, stream("test"))["loss"].item()
    game.generator_loss(model, batch, stream("test"))["loss"].backward()
    assert (free.grad[ignored] == 0).all()
    assert (free.grad[~ignored] != 0).all()
    before = game.discriminator_loss(model, batch, stream("test"))["loss"].item()
    with torch.no_grad():
        free[ignored] = 5.0
    assert game.discriminator_loss(model, batch, stream("test"))["loss"].item() == before


# Phases


def test_tdpm_denoises_up_to_t_max_and_generates_at_next_timestep():
    network = Linear()
    model, game = truncated(PixelDiscriminator(), network=network), objective()
    batch = examples(count=400, labels=(0, 1))
    for phase, expected in zip(game.phases(model), [None, {301}, {301}, {300, 301}], strict=True):
        network.seen.clear()
        phase.loss(model, batch, stream("test"))
        times = {t for seen in network.seen for t in seen}
        assert expected is None or times == expected, phase.name
        if expected is None:
            assert min(times) >= 1
            assert 290 < max(times) <= 300
    denoising = Denoising(300, "squared_error").loss(model, batch, stream("test"))["loss"]
    assert torch.equal(game.loss(model, batch, stream("test"))["loss"], denoising)


def test_tdpm_estimates_are_a_chain_from_the_prior_and_five_noise_levels():
    network = Linear()
    model, game, batch = truncated(PixelDiscriminator(), network=network), objective(), examples()
    estimates = game.estimates(model, batch, stream("test"))
    assert [seen[0] for seen in network.seen] == [301, 300, 200, 100, 30, 90, 150, 210, 270]
    assert [(one.name, one.selects) for one in estimates] == [("learned_prior", True), *[("diffused_truth", False)] * 5]
    network.seen.clear()
    masks = torch.zeros_like(batch.mask)
    estimates = game.estimates(model, batch._replace(presegmentation=masks), stream("test"))
    assert [seen[0] for seen in network.seen] == [301, 300, 200, 100, 300, 200, 100, 30, 90, 150, 210, 270]
    assert [one.name for one in estimates[:2]] == ["learned_prior", "presegmentation"]


def test_tdpm_estimate_is_one_step_from_the_prior():
    model, game, batch = truncated(PixelDiscriminator()), objective(), examples()
    x = 0.1 + 0.7 * torch.from_numpy(stream("test").standard_normal(batch.mask.shape, dtype=np.float32))
    level = SCHEDULE.signal(300)
    clean = ((x - math.sqrt(1 - level) * (0.1 + 0.7 * x)) / math.sqrt(level)).clamp(-1, 1)
    torch.testing.assert_close(game.estimate(model, batch, stream("test")), (clean + 1) / 2)


SETTINGS = {
    "steps": 20,
    "batch": 4,
    "learning_rate": 2e-3,
    "learning_rate_decay": "none",
    "weight_decay": 0.0,
    "gradient_clip": 1.0,
    "ema_decay": 0.9,
    "weights": "raw",
    "select": "last",
    "validate_every": 10,
    "validation_slices": 4,
    "patches": PatchSettings((16, 16), 1.0, (0,), 0.1),
}
NETWORK = {
    "architecture": "truncated_denoising_unet",
    "spatial_dims": 2,
    "channels": 8,
    "multipliers": [1, 2],
    "residual_blocks": 1,
    "attention_at": [],
    "heads": 1,
    "skip": "average",
    "scale_shift": False,
    "dropout": 0.1,
    "schedule": "cosine",
    "T": 1000,
    "t_max": 300,
    "mask_coding": "signed",
    "predicts": "mask",
    "mask_loss": "cross_entropy_dice",
    "focal_weight": 1.0,
    "strategy": "diffusion",
    "strategy_share": 1.0,
    "presegmented_share": 0.0,
    "validation_chain_steps": 10,
    "validation_presegmenter": None,
    "validation_t_start": 300,
    "head": "mean_plus_noise",
    "discriminator_channels": 8,
    "learning_rate": 2e-3,
    "generator_learning_rate": 1e-3,
    "discriminator_learning_rate": 1e-3,
    "gradient_penalty": 0.1,
    "penalty_every": 4,
    "warm_up": 0.25,
}


def case(name):
    """Slices with bright squares, which are lesions."""
    random = np.random.default_rng([*name.encode()])
    labels = np.zeros((4, 1, 24, 24), dtype=np.uint8)
    for one in labels:
        for row, column in random.integers(0, 20, (3, 2)):
            one[0, row : row + 4, column : column + 4] = 1
    image = random.normal(0, 0.3, (4, 2, 24, 24)).astype(np.float32)
    image[:, :1] += 2 * labels
    label_fractions = np.concatenate([labels, 0 * labels], axis=1).astype(np.float32)
    return CaseSlices(name, torch.from_numpy(image), torch.from_numpy(label_fractions), range(len(label_fractions)))


def trainer(network=None, **changes):
    """A trainer of a small network with other settings of the network or of the training."""
    settings = NETWORK | (network or {})
    torch.manual_seed(0)
    return folder_trainer(
        build(settings, 2),
        build_objective(settings),
        [case("a"), case("b")],
        [case("v")],
        **SETTINGS | {"learning_rate": settings["learning_rate"]} | changes,
    )


def test_run_phase_changes_only_parameters_of_the_phase():
    job = trainer()
    for phase, part in zip(job.phases, ["network", "network", "discriminator", "discriminator"], strict=True):
        before = copy.deepcopy(job.model.state_dict())
        for parameter in job.model.parameters():
            parameter.grad = None
        rng = stream("test", phase.name)
        batch = job.slices.sample_batch(rng, 4, SETTINGS["patches"])
        job._run_phase(phase, batch, rng, 1)
        with_gradient = {name.split(".")[0] for name, parameter in job.model.named_parameters() if parameter.grad is not None}
        assert with_gradient == {part}, phase.name
        after = job.model.state_dict()
        assert {name.split(".")[0] for name in after if not torch.equal(after[name], before[name])} == {part}, phase.name


def test_tdpm_phases_follow_warm_up_penalty_rate_and_learning_rates():
    job, run = trainer(steps=20), []
    run_phase = job._run_phase

    def watched(phase, batch, rng, step):
        run.append((step, phase.name))
        values = run_phase(phase, batch, rng, step)
        optimiser = job.optimisers[phase.optimiser or phase.name]
        assert optimiser.param_groups[0]["lr"] == pytest.approx(2e-3 if phase.name == "denoising" else 1e-3)
        assert optimiser.param_groups[0]["betas"] == ((0.9, 0.999) if phase.name == "denoising" else (0.0, 0.99))
        return values

    job._run_phase = watched
    for step in range(1, 21):
        job.train_step(step)
    expected = []
    for step in range(1, 21):
        expected += [(step, "denoising")] + [(step, name) for name in ("generator", "discriminator") if step > 5]
        expected += [(step, "penalty")] if step in (8, 12, 16, 20) else []
    assert run == expected
    assert job.optimisers.keys() == {"denoising", "generator", "discriminator"}


@pytest.mark.parametrize("head", ["direct", "mean_plus_noise"])
def test_tdpm_resumes_bit_for_bit_and_keeps_weights_for_sampling(tmp_path, head):
    changes = {"head": head}
    whole = trainer(changes).fit(tmp_path / "whole")
    broken = trainer(changes)
    step = broken.run_step

    def interrupted(number):
        values = step(number)
        if number == 11:
            os.kill(os.getpid(), signal.SIGTERM)
        return values

    broken.run_step = interrupted
    with pytest.raises(Interrupted):
        broken.fit(tmp_path / "parts")
    (state,) = (tmp_path / "parts").glob("*/state.pt")
    assert load_state(state).keys() >= {f"{n} optimiser" for n in ("denoising", "generator")}
    parts = trainer(changes).fit(tmp_path / "parts")
    assert parts.selected.keys() == whole.selected.keys()
    assert {name.split(".")[0] for name in whole.checkpoint} == {"network", "ema/network"}
    for name in whole.selected:
        assert torch.equal(parts.selected[name], whole.selected[name]), name
    assert str([row | {"seconds": 0} for row in parts.history]) == str([row | {"seconds": 0} for row in whole.history])
    columns = ["validation_dice_learned_prior", "validation_dice_diffused_truth"]
    columns += ["cross_entropy", "dice_loss", "generator_loss", "discriminator_loss"]
    assert list(whole.history[1])[5:] == [*columns, "empty_masks", "true_empty_masks", "generated_variance", "penalty_loss"]


@pytest.mark.workflow  # trains for 13 s
def test_tdpm_learns_to_segment(tmp_path):
    """The denoising loss decreases, and new cases are segmented from generated x_T' and from diffused masks."""
    fitted = trainer({"dropout": 0.0}, steps=240, batch=8, validate_every=40, learning_rate_decay="cosine").fit(tmp_path)
    rows = fitted.history
    assert rows[-1]["loss"] < 0.5 * rows[0]["loss"]
    assert rows[-1]["validation_dice"] > 0.8


def test_discriminator_and_generator_each_learn_alone():
    job = trainer({"warm_up": 0.0, "head": "direct"})
    for chosen in ("discriminator", "generator"):
        (phase,) = (phase for phase in job.phases if phase.name == chosen)
        losses = []
        for step in range(1, 41):
            rng = stream("test", step)
            losses.append(job._run_phase(phase, job.slices.sample_batch(rng, 4, SETTINGS["patches"]), rng, 1)["loss"])
        assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5]), chosen


# Starting from another network's weights


def test_tdpm_starts_from_weights_of_plain_denoiser():
    torch.manual_seed(1)
    plain = build(NETWORK | {"architecture": "denoising_unet"}, 2).state_dict()
    model = build(NETWORK, 2)
    discriminator = copy.deepcopy(model.discriminator.state_dict())
    assign_weights(model, plain, "denoiser/model.safetensors")
    assert all(torch.equal(model.state_dict()[name], plain[name]) for name in plain)
    assert all(torch.equal(model.discriminator.state_dict()[name], discriminator[name]) for name in discriminator)


def test_assign_weights_names_tensors_that_do_not_fit():
    source = "denoiser/model.safetensors"
    plain = build(NETWORK | {"architecture": "denoising_unet"}, 2)
    with pytest.raises(CheckpointError, match=r"denoiser/model\.safetensors: it does not fit .*discriminator.*\. Give both"):
        assign_weights(plain, build(NETWORK, 2).state_dict(), source)
    wider = build(NETWORK | {"channels": 16}, 2).state_dict()
    with pytest.raises(CheckpointError, match=r"network\.\S+ is \[\d+.*\], not \[\d+.*\] \.\.\.\."):
        assign_weights(plain, wider, source)
    weights = plain.state_dict()
    del weights["network.first.bias"]
    with pytest.raises(CheckpointError, match=r"network\.first\.bias is missing\."):
        assign_weights(plain, weights, source)
