"""Networks learn, and a training that is killed and continued is the one that was not (about 30 s)."""

import copy
import errno
import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from workflow_runs import ROOT

from pd_ddpm.data.working_grid import pad_to_multiple
from pd_ddpm.diffusion.denoiser import Denoiser
from pd_ddpm.diffusion.mask_coding import CODINGS
from pd_ddpm.diffusion.noise import MemberNoise, stream
from pd_ddpm.diffusion.schedule import Schedule
from pd_ddpm.inference.factory import build_segmenter
from pd_ddpm.models.networks.denoising_unet import DenoisingUNet, DenoisingUNetSettings
from pd_ddpm.models.networks.supervised import attention_unet, unet
from pd_ddpm.models.weights import CheckpointError
from pd_ddpm.runtime.files import BusyError, DiskFullError, file_sha256, lock_folder
from pd_ddpm.runtime.memory import MemoryShortageError
from pd_ddpm.runtime.precision import PRECISIONS
from pd_ddpm.training import saved_state
from pd_ddpm.training.early_checkpoints import nearest_records
from pd_ddpm.training.errors import TrainingError
from pd_ddpm.training.interruption import Interrupted
from pd_ddpm.training.objectives.base import Objective, Phase
from pd_ddpm.training.objectives.denoising import Denoising
from pd_ddpm.training.objectives.segmentation import CrossEntropy
from pd_ddpm.training.patches import CaseSlices, PatchSettings, TrainingSlices
from pd_ddpm.training.resume import OtherTrainingError, TrainingStates
from pd_ddpm.training.saved_state import load_state
from pd_ddpm.training.settings import TrainingSettings
from pd_ddpm.training.trainer import Training, learning_rate

SETTINGS = {
    "steps": 20,
    "batch": 2,
    "learning_rate": 2e-3,
    "learning_rate_decay": "cosine",
    "weight_decay": 1e-5,
    "gradient_clip": 1.0,
    "ema_decay": 0.9,
    "weights": "ema",
    "select": "best",
    "validate_every": 7,
    "validation_slices": 4,
    "patches": PatchSettings((16, 24), 0.5, (0,), 0.1),
}


def case(name, slices=4, size=(24, 32), seed=0):
    """Bright discs that are lesions, and dark ones that are label 2."""
    random = np.random.default_rng([seed, *name.encode()])
    rows, columns = np.meshgrid(*map(np.arange, size), indexing="ij")
    labels = np.zeros((slices, 1, *size), dtype=np.uint8)
    for one in labels:
        for label, row, column in zip((1, 1, 2), random.integers(4, 20, 3), random.integers(4, 28, 3), strict=True):
            one[0, (rows - row) ** 2 + (columns - column) ** 2 < 10] = label
    image = random.normal(0, 0.3, (slices, 2, *size)).astype(np.float32)
    image[:, :1] += 2 * (labels == 1) - 2 * (labels == 2)
    shares = np.concatenate([labels == 1, labels == 2], axis=1).astype(np.float32)
    return CaseSlices(name, torch.from_numpy(image), torch.from_numpy(shares), range(10, 10 + slices))


THESE, OTHERS = {"batch": 6, "grid": {"spacing_mm": None}}, {"batch": 12, "grid": {"spacing_mm": None}}
CASES, VALIDATION = [case("a"), case("b")], [case("v"), case("w")]


def denoiser(predicts="noise", dropout=0.0, coding="signed"):
    torch.manual_seed(0)
    settings = DenoisingUNetSettings(
        spatial_dims=2,
        in_channels=3,
        out_channels=1,
        channels=8,
        multipliers=(1, 2, 2),
        residual_blocks=1,
        attention_at=[4],
        dropout=dropout,
    )
    return Denoiser(DenoisingUNet(settings), Schedule.cosine(), CODINGS[coding], predicts)


def segmentation_network(make, channels):
    torch.manual_seed(0)
    return make(spatial_dims=2, in_channels=2, channels=channels)


def training(
    model,
    objective,
    cases=CASES,
    validation=VALIDATION,
    seed=0,
    dependencies=THESE,
    precision=PRECISIONS["float32"],
    save_every_seconds=60.0,
    changed="stop",
    **changes,
):
    return Training(
        model,
        objective,
        TrainingSlices(cases),
        validation,
        TrainingSettings(**SETTINGS | changes),
        seed=seed,
        dependencies=dependencies,
        device=torch.device("cpu"),
        precision=precision,
        save_every_seconds=save_every_seconds,
        changed=changed,
    )


def states_of(folder, dependencies=THESE):
    """The folder of the states of a training of these dependencies."""
    return TrainingStates(folder, dependencies).folder


def assert_same(one, other):
    """Two outcomes agree to the last bit, but for the time they took."""
    assert [replace(early, weights={}) for early in one.early] == [replace(early, weights={}) for early in other.early]
    pairs = zip(
        [one.selected, *(e.weights for e in one.early)], [other.selected, *(e.weights for e in other.early)], strict=True
    )
    for ours, theirs in pairs:
        assert ours.keys() == theirs.keys()
        for name in ours:
            assert torch.equal(ours[name], theirs[name]), name
    assert one.selected_step == other.selected_step
    for ours, theirs in zip(one.history, other.history, strict=True):
        assert str({**ours, "seconds": 0}) == str({**theirs, "seconds": 0})  # text: NaN is itself there


class At(Objective):
    """An objective of one phase that does something at one step before it computes the loss."""

    def __init__(self, inner, step, action):
        self.inner, self.step, self.action, self.calls = inner, step, action, 0

    def loss(self, model, batch, draws):
        self.calls += 1
        if self.calls == self.step:
            self.action()
        return self.inner.loss(model, batch, draws)

    def estimates(self, model, batch, draws):
        return self.inner.estimates(model, batch, draws)


def ask_to_end():
    os.kill(os.getpid(), signal.SIGTERM)


# Learning


@pytest.mark.parametrize(
    ("make", "objective", "steps", "chain", "least_dice"),
    [
        (lambda: segmentation_network(unet, (8, 8, 8, 16, 16)), CrossEntropy(1.0), 60, 1, 0.8),
        (lambda: segmentation_network(attention_unet, (8, 16, 16)), CrossEntropy(1.0), 100, 1, 0.8),
        (lambda: denoiser("noise"), Denoising(1000, "squared_error"), 100, 100, 0.5),
        (lambda: denoiser("noise", coding="binary"), Denoising(1000, "squared_error"), 100, 50, 0.7),
        (lambda: denoiser("mask"), Denoising(1000, "squared_error"), 60, 5, 0.7),
        (lambda: denoiser("mask"), Denoising(1000, "cross_entropy_dice"), 60, 5, 0.7),
    ],
    ids=["unet", "attention_unet", "noise", "noise, binary", "mask, squared error", "mask, cross-entropy and Dice"],
)
def test_networks_learn_to_segment(tmp_path, make, objective, steps, chain, least_dice):
    """The loss falls, and whole slices of new cases are segmented: a denoiser's from pure noise."""
    model, patches = make(), PatchSettings((16, 32), 1.0, (), 0.0)
    fitted = training(
        model, objective, steps=steps, batch=8, learning_rate=1e-2, validate_every=steps // 5, patches=patches, ema_decay=0.9
    ).fit(tmp_path)
    losses = [row["loss"] for row in fitted.history]
    assert losses[-1] < 0.5 * losses[0]
    assert [row["step"] for row in fitted.history] == [steps // 5 * n for n in range(1, 6)]
    assert max(row["validation_dice"] for row in fitted.history) > 0.6

    model.load_state_dict(fitted.selected)
    method = {"segmenter": "deterministic"}
    if isinstance(model, Denoiser):
        method = {"segmenter": "diffusion", "start": "noise", "t_start": 1000, "reverse_steps": chain, "pool": 1}
        method |= {"sampler": "ancestral", "variance": "small"}
    image, shares = (torch.cat([pad_to_multiple(one[n], 16) for one in VALIDATION]) for n in (1, 2))
    with torch.inference_mode():
        probability = build_segmenter(method, model.eval())(image, None, MemberNoise([("test", n) for n in range(len(image))]))
    predicted, lesion = (probability >= 0.5) & (shares[:, 1:] == 0), shares[:, :1] == 1
    assert 2 * (predicted & lesion).sum() / (predicted.sum() + lesion.sum()) > least_dice


def test_a_training_is_adam_on_the_batches_of_its_streams(tmp_path):
    """The loop once more in plain PyTorch: L2 penalty, clipping, falling learning rate and moving average."""
    model = denoiser("noise")
    reference = copy.deepcopy(model)
    objective = Denoising(1000, "squared_error")
    fitted = training(model, objective, validation=[], steps=8, select="last", weights="ema").fit(tmp_path)

    slices, average = TrainingSlices(CASES), [parameter.detach().double() for parameter in reference.parameters()]
    optimiser = torch.optim.Adam(reference.parameters(), weight_decay=1e-5, fused=False, foreach=False)
    losses = []
    for step in range(1, 9):
        draws = stream("train", 0, step)
        draws.integers(2**31)
        batch = slices.batch(draws, 2, SETTINGS["patches"])
        loss = objective.loss(reference, batch, draws)["loss"]
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(reference.parameters(), 1.0)
        optimiser.param_groups[0]["lr"] = 2e-3 * 0.5 * (1 + math.cos(math.pi * (step - 1) / 8))
        optimiser.step()
        decay = min(0.9, (1 + step) / (10 + step))
        average = [
            decay * old + (1 - decay) * new.detach().double() for old, new in zip(average, reference.parameters(), strict=True)
        ]
        losses.append(loss.item())
    for (name, _), expected in zip(reference.named_parameters(), average, strict=True):
        torch.testing.assert_close(fitted.selected[name].double(), expected, rtol=0, atol=2e-5, msg=name)
    assert fitted.history[0]["loss"] == pytest.approx(np.mean(losses[:7]), rel=1e-4)
    assert fitted.history[1]["loss"] == pytest.approx(losses[7], rel=1e-3)


def test_scaled_gradients_of_float16_change_nothing_and_the_scale_is_resumed(tmp_path):
    """Gradients are scaled back before they are clipped; this model has no operation that runs in float16 itself."""
    changes = {"weight_decay": 0.1, "gradient_clip": 0.01, "learning_rate": 0.05, "select": "last"}
    reference = training(Scale(), CrossEntropy(0.0), **changes).fit(tmp_path / "float32")
    changes["precision"] = PRECISIONS["float16"]
    with pytest.raises(Interrupted):
        training(Scale(), At(CrossEntropy(0.0), 10, ask_to_end), **changes).fit(tmp_path / "float16")
    assert load_state(states_of(tmp_path / "float16") / "state.pt")["scaler"]["_growth_tracker"] == 10
    job = training(Scale(), CrossEntropy(0.0), **changes)
    fitted = job.fit(tmp_path / "float16")
    assert job.scaler.state_dict()["_growth_tracker"] == 20
    torch.testing.assert_close(fitted.selected["factor"], reference.selected["factor"], rtol=1e-4, atol=0)


@pytest.mark.parametrize("step", [1, 2, 5, 10])
def test_learning_rates(step):
    settings = TrainingSettings(**SETTINGS | {"steps": 10, "learning_rate": 0.5})
    assert learning_rate(settings, step) == pytest.approx(0.5 * math.cos(math.pi / 2 * (step - 1) / 10) ** 2)
    constant = TrainingSettings(**SETTINGS | {"learning_rate": 0.5, "learning_rate_decay": "none"})
    assert learning_rate(constant, step) == 0.5


class Scale(nn.Module):
    """Logits that are one number times the first channel; a batch-norm layer keeps running statistics beside it."""

    divisor = 16

    def __init__(self):
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(1.0))
        self.norm = nn.BatchNorm2d(2, affine=False)

    def forward(self, image):
        return self.factor * self.norm(image)[:, :1]


def test_moving_average_follows_weights_and_takes_over_statistics(tmp_path):
    model, seen = Scale(), []
    job = training(model, CrossEntropy(0.0), validation=[], steps=12, ema_decay=0.6, learning_rate=0.1)
    follow = job._follow

    def watched(step):
        follow(step)
        seen.append((step, model.factor.item(), job.average.factor.item()))

    job._follow = watched
    job.fit(tmp_path)
    expected = 1.0
    for step, factor, average in seen:
        decay = min(0.6, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * factor
        assert average == pytest.approx(expected, rel=1e-5)
    assert [min(0.6, (1 + step) / (10 + step)) for step, *_ in seen][-1] == 13 / 22
    assert torch.equal(job.average.norm.running_mean, model.norm.running_mean)
    assert job.average.norm.num_batches_tracked == 12


# Validation


class Scripted(CrossEntropy):
    """Its estimates are right to a share that is told validation by validation; it notes the weights that were judged."""

    def __init__(self, shares):
        super().__init__(0.0)
        object.__setattr__(self, "shares", iter(shares))
        object.__setattr__(self, "judged", [])

    def estimates(self, model, batch, draws):
        self.judged.append(model.factor.item())
        return [batch.mask * next(self.shares)]


@pytest.mark.parametrize("weights", ["raw", "ema"])
@pytest.mark.parametrize("select", ["best", "last"])
def test_the_weights_of_the_best_validation_are_selected(tmp_path, weights, select):
    objective = Scripted([0, 1, 1, 0])  # the first of two equal ones
    job = training(
        Scale(),
        objective,
        validation=VALIDATION[:1],
        steps=8,
        validate_every=2,
        weights=weights,
        select=select,
        learning_rate=0.1,
    )
    fitted = job.fit(tmp_path)
    assert [row["validation_dice"] for row in fitted.history] == [0, 1, 1, 0]
    assert fitted.selected_step == (4 if select == "best" else 8)
    assert fitted.selected["factor"].item() == objective.judged[1 if select == "best" else 3]
    raw, average = job.model.factor.item(), job.average.factor.item()
    assert raw != average
    assert objective.judged[3] == (average if weights == "ema" else raw)


def test_without_validation_cases_the_last_weights_are_selected(tmp_path):
    job = training(Scale(), CrossEntropy(0.0), validation=[], steps=3)
    fitted = job.fit(tmp_path)
    assert fitted.selected_step == 3
    assert math.isnan(fitted.history[0]["validation_dice"])
    assert torch.equal(fitted.selected["factor"], job.average.factor)
    assert fitted.early == []


def test_validation_dice_is_that_of_the_voxels_that_count():
    """By hand: per case, over its evenly spaced slices, mean over cases; label 2 is left out although it is as bright."""
    brighter = [one._replace(image=one.image + 4 * one.shares[:, 1:]) for one in VALIDATION]
    job = training(Scale(), CrossEntropy(0.0), validation=brighter, validation_slices=4)
    expected = []
    for one in brighter:
        chosen = [0, 3]  # two slices a case: the first and the last
        widened = [np.pad(part[chosen].numpy(), [(0, 0), (0, 0), (0, 8), (0, 0)], mode="edge") for part in one[1:3]]
        predicted = widened[0][:, :1] >= 0  # a fresh batch-norm layer leaves the sign
        lesion, counted = widened[1][:, :1] == 1, widened[1][:, 1:] == 0
        expected.append(2 * (predicted & lesion).sum() / ((predicted & counted).sum() + lesion.sum()))
        assert (predicted & ~counted).any()
    assert job.validation_dice() == pytest.approx(np.mean(expected), rel=1e-6)


def test_validation_draws_the_same_noise_every_time():
    job = training(denoiser("noise"), Denoising(1000, "squared_error"))
    assert job.validation_dice() == job.validation_dice()


# Waiting


class Waits(TorchDispatchMode):
    """Counts how often a number is asked for, for which a GPU would have to finish all that it was given."""

    count = 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*arguments, **(keywords or {}))


@pytest.mark.parametrize(
    ("make", "objective", "precision"),
    [
        (lambda: segmentation_network(unet, (8, 8, 8, 8, 8)), CrossEntropy(1.0), "float32"),
        (lambda: denoiser("noise", dropout=0.1), Denoising(1000, "squared_error"), "float32"),
        (lambda: denoiser("mask"), Denoising(1000, "cross_entropy_dice"), "bfloat16"),
        (Scale, CrossEntropy(1.0), "float16"),
    ],
    ids=["unet", "noise", "mask, bfloat16", "float16"],
)
def test_no_step_waits_for_the_device(make, objective, precision):
    patches = PatchSettings((16, 32), 0.5, (), 0.0)
    job = training(make(), objective, precision=PRECISIONS[precision], patches=patches)
    with Waits() as waits:
        for step in (1, 2, 3):
            job._unseen[step] = job._step(step)
            job._follow(step)
        assert waits.count == 0
        job._look()
    assert len(job.state.losses["loss"]) == 3
    with Waits() as waits:
        job.model.state_dict()
        assert torch.ones(1).item() == 1
    assert waits.count == 1


def test_losses_that_are_looked_at_seldom_are_the_same(tmp_path):
    """As on a GPU: the history, the weights, the step that is named and the state that stays."""

    def job(objective, every):
        made = training(Scale(), objective, save_every_seconds=1e-9)
        made.look_every = every
        return made

    assert_same(job(CrossEntropy(1.0), 4).fit(tmp_path / "four"), job(CrossEntropy(1.0), 1).fit(tmp_path / "one"))
    with pytest.raises(TrainingError, match="the training loss is nan at step 6, on"):
        job(Broken(CrossEntropy(1.0), 6, math.nan), 4).fit(tmp_path / "nan")
    assert load_state(states_of(tmp_path / "nan") / "state.pt")["progress"]["step"] == 4
    with pytest.raises(Interrupted, match="step 12 of 20 is saved in"):
        job(At(CrossEntropy(1.0), 9, ask_to_end), 4).fit(tmp_path / "parts")
    assert_same(job(CrossEntropy(1.0), 4).fit(tmp_path / "parts"), job(CrossEntropy(1.0), 4).fit(tmp_path / "again"))


# Phases


class Two(nn.Module):
    """Two numbers, of which the second serves training only."""

    divisor = 16
    training_only = ("other",)

    def __init__(self):
        super().__init__()
        self.one = nn.Parameter(torch.tensor(1.0))
        self.other = nn.Parameter(torch.tensor(2.0))

    def forward(self, image):
        return self.one * image[:, :1]


class Phases(Objective):
    """One number follows the batch, the other one follows it later and seldom; each loss holds both numbers."""

    def __init__(self, second="second", *changes, **more):
        self.changes = [{"name": second, **more}, *changes]
        self.seen = []

    def loss(self, model, batch, draws):
        self.seen.append(("training", batch.image.sum().item(), draws.standard_normal()))
        squared = (model.one - batch.image.mean()) ** 2
        return {"loss": squared + model.other**2, "squared": squared}

    def other(self, name):
        def loss(model, batch, draws):
            self.seen.append((name, batch.image.sum().item(), draws.standard_normal()))
            assert not model.one.requires_grad
            return {"loss": (model.other * model.one - 1 - batch.image.mean()) ** 2}

        return loss

    def phases(self, model):
        first = Phase("training", self.loss, [model.one])
        return [first, *(Phase(loss=self.other(c["name"]), parameters=[model.other], **c) for c in self.changes)]

    def estimates(self, model, batch, draws):
        return [model(batch.image).sigmoid()]


def test_each_phase_is_an_adam_of_its_own_on_the_same_batch(tmp_path):
    """The loop once more in plain PyTorch: which parameters, how fast, with which moments, how often and from when on."""
    objective = Phases(learning_rate_factor=3.0, betas=(0.0, 0.9), every=2, from_share=0.3)
    fitted = training(Two(), objective, steps=10, select="last", weights="raw", validate_every=5, gradient_clip=None).fit(
        tmp_path
    )

    one, other = (torch.tensor(value, requires_grad=True) for value in (1.0, 2.0))
    optimisers = [
        torch.optim.Adam([one], weight_decay=1e-5),
        torch.optim.Adam([other], betas=(0.0, 0.9), weight_decay=1e-5),
    ]
    slices, losses, squares = TrainingSlices(CASES), {}, {}
    for step in range(1, 11):
        draws = stream("train", 0, step)
        draws.integers(2**31)
        mean = slices.batch(draws, 2, SETTINGS["patches"]).image.mean()
        rate = 2e-3 * 0.5 * (1 + math.cos(math.pi * (step - 1) / 10))
        squares[step] = ((one - mean) ** 2).item()
        minimised = [(optimisers[0], lambda: (one - mean) ** 2, rate)]  # noqa: B023
        if step in (4, 6, 8, 10):
            minimised.append((optimisers[1], lambda: (other * one.detach() - 1 - mean) ** 2, 3 * rate))  # noqa: B023
        for optimiser, compute, lr in minimised:
            optimiser.param_groups[0]["lr"] = lr
            optimiser.zero_grad()
            loss = compute()
            loss.backward()
            optimiser.step()
            losses[step] = loss.item()
    assert fitted.selected.keys() == {"one"}
    assert fitted.selected["one"].item() == pytest.approx(one.item(), rel=1e-6)
    due = [name for step in range(1, 11) for name in ("training", "second") if name == "training" or step in (4, 6, 8, 10)]
    assert [name for name, *_ in objective.seen] == due
    assert len({total for _, total, _ in objective.seen}) == 10
    noises = [noise for *_, noise in objective.seen]
    assert len(set(noises)) == 14
    columns = ["step", "loss", "learning_rate", "validation_dice", "seconds", "squared", "second_loss"]
    assert [list(row) for row in fitted.history] == [columns, columns]
    assert fitted.history[0]["squared"] == pytest.approx(np.mean([squares[step] for step in range(1, 6)]), rel=1e-5)
    assert fitted.history[0]["second_loss"] == pytest.approx(losses[4], rel=1e-5)
    assert fitted.history[1]["second_loss"] == pytest.approx(np.mean([losses[step] for step in (6, 8, 10)]), rel=1e-5)


class Warming(Phases):
    """The validations of a network of two numbers have the Dice that they are told."""

    def __init__(self, shares, from_share):
        super().__init__(from_share=from_share)
        self.shares, self.judged = iter(shares), []

    def estimates(self, model, batch, draws):
        self.judged.append(model.one.item())
        return [batch.mask * next(self.shares)]


@pytest.mark.parametrize(
    ("shares", "from_share", "selected", "early"),
    [
        ([1, 0, 0, 1, 0], 0.4, 8, 6),  # the first phase alone was trained up to step 4
        ([1, 0, 0, 1, 0], 0.3, 8, 4),
        ([1, 0, 0, 1, 0], 0.0, 2, 2),
        ([1, 1, 1, 1, 0], 0.9, 10, 10),  # no validation but the last
    ],
)
def test_no_weights_of_the_warm_up_are_selected_or_kept_early(tmp_path, shares, from_share, selected, early):
    objective = Warming(shares, from_share)
    fitted = training(
        Two(),
        objective,
        validation=VALIDATION[:1],
        steps=10,
        validate_every=2,
        learning_rate=0.1,
        early_levels=[0.5],
    ).fit(tmp_path)
    assert [row["validation_dice"] for row in fitted.history] == shares
    assert (fitted.selected_step, fitted.early[0].step) == (selected, early)
    assert fitted.selected["one"].item() == objective.judged[selected // 2 - 1]
    assert fitted.early[0].weights["one"].item() == objective.judged[early // 2 - 1]


def test_without_a_validation_after_the_warm_up_the_last_weights_are_selected(tmp_path, caplog):
    changes = {"validation": VALIDATION[:1], "steps": 4, "validate_every": 2, "early_levels": [0.9]}
    with caplog.at_level("WARNING"):
        job = training(Two(), Warming([1, 0], 1.0), **changes)
        fitted = job.fit(tmp_path)
    assert fitted.selected_step == 4
    assert torch.equal(fitted.selected["one"], job.average.one)
    assert fitted.early == []
    assert "no early checkpoints are kept, since no validation came after the warm-up" in caplog.text


def test_a_phase_may_go_on_with_the_adam_of_another(tmp_path):
    """Two half-rate phases of one Adam are one phase at every step."""
    changes = {"steps": 6, "validate_every": 6}
    once = training(Two(), Phases(), **changes)
    once.fit(tmp_path / "once")
    shared = training(Two(), Phases("second", {"name": "third", "every": 2, "optimiser": "second"}), **changes)
    shared.fit(tmp_path / "shared")
    assert shared.optimisers.keys() == {"training", "second"}
    assert once.optimisers["second"].state_dict()["state"][0]["step"] == 6
    assert shared.optimisers["second"].state_dict()["state"][0]["step"] == 9


def test_several_optimisers_and_early_checkpoints_are_resumed(tmp_path):
    def job(action=lambda: None):
        objective = Phases("second", {"name": "third", "every": 3, "optimiser": "second"})
        first = objective.loss
        calls = []

        def loss(model, batch, draws):
            calls.append(1)
            if len(calls) == 10:
                action()
            return first(model, batch, draws)

        objective.loss = loss
        return training(Two(), objective, learning_rate=0.1, validate_every=3, early_levels=(0.9, 0.5))

    whole = job().fit(tmp_path / "whole")
    with pytest.raises(Interrupted):
        job(ask_to_end).fit(tmp_path / "parts")
    state = load_state(states_of(tmp_path / "parts") / "state.pt")
    assert {"training optimiser", "second optimiser"} <= state.keys()
    assert_same(job().fit(tmp_path / "parts"), whole)


@pytest.mark.parametrize("name", ["second", "third"])
def test_the_phase_whose_loss_is_no_number_is_named(tmp_path, name):
    objective = Phases("second", {"name": "third", "every": 2})
    other = objective.other
    objective.other = lambda phase: (
        (lambda model, batch, draws: {"loss": model.other * math.nan}) if phase == name else other(phase)
    )
    with pytest.raises(TrainingError, match=f"the {name} loss is nan at step {1 if name == 'second' else 2}, on"):
        training(Two(), objective).fit(tmp_path)


# Early checkpoints


@pytest.mark.parametrize(
    ("dice", "levels", "chosen"),
    [
        ([0.1, 0.5, 0.7, 0.75, 0.77, 0.79, 0.8], [0.944, 0.964, 0.982], [3, 4, 5]),  # 0.755, 0.771, 0.786
        ([0.1, 0.5, 0.7, 0.75, 0.77, 0.79, 0.8], [0.982, 0.944, 0.964], [5, 3, 4]),
        ([0.1, 0.2, 0.3, 0.8], [0.944, 0.964, 0.982], [0, 1, 2]),  # none is near
        ([0.3, 0.76, 0.79, 0.8], [0.944, 0.982], [1, 2]),
        ([0.3, 0.5, 0.79, 0.8], [0.96, 0.98], [1, 2]),  # both are nearest to 0.79
        ([0.3, 0.8], [0.944, 0.964], [0, 0]),
        ([0.3, 0.7, 0.8], [0.3, 0.964, 0.99], [0, 1, 1]),
        ([0.0], [0.5, 0.9], [0, 0]),
    ],
)
def test_the_record_that_comes_nearest_to_each_level_is_chosen(dice, levels, chosen):
    assert nearest_records(dice, levels) == chosen


def test_early_checkpoints_are_the_weights_of_their_validation(tmp_path):
    objective = Scripted([0, 0.3, 1, 0, 1])
    shares = {2: 0.0, 4: 0.4, 6: 0.6, 8: 0.2, 10: 1.0}

    def estimates(model, batch, draws):
        objective.judged.append(model.factor.item())
        share = shares[2 * len(objective.judged)]
        kept = torch.rand(batch.mask.shape, generator=torch.Generator().manual_seed(0)) < share
        return [batch.mask * kept]

    object.__setattr__(objective, "estimates", estimates)
    fitted = training(
        Scale(), objective, validation=VALIDATION[:1], steps=10, validate_every=2, learning_rate=0.1, early_levels=[0.8, 0.5]
    ).fit(tmp_path)
    dice = {row["step"]: row["validation_dice"] for row in fitted.history}
    assert dice[4] < dice[6] < dice[10] == 1
    assert [(early.level, early.step) for early in fitted.early] == [(0.8, 6), (0.5, 4)]
    for early in fitted.early:
        assert early.validation_dice == dice[early.step]
        assert early.weights["factor"].item() == objective.judged[early.step // 2 - 1]
        assert early.weights.keys() == fitted.selected.keys()
    assert {path.name for path in (states_of(tmp_path) / "early").iterdir()} == {f"step-{n}.safetensors" for n in (2, 4, 6, 10)}


def test_too_few_records_are_repeated_and_reported(tmp_path, caplog):
    with caplog.at_level("WARNING"):
        fitted = training(
            Scale(), Scripted([1, 0]), validation=VALIDATION[:1], steps=4, validate_every=2, early_levels=[0.9, 0.95]
        ).fit(tmp_path)
    assert [(early.step, early.validation_dice) for early in fitted.early] == [(2, 1.0), (2, 1.0)]
    assert "1 validations were the best so far" in caplog.text
    assert "lower 'validate_every'" in caplog.text


def test_early_checkpoints_of_other_dependencies_are_cleared(tmp_path):
    changes = {"validation": VALIDATION[:1], "steps": 2, "validate_every": 1, "save_every_seconds": 1e-9}
    training(Scale(), Scripted([0, 1]), dependencies=OTHERS, early_levels=[0.9], **changes).fit(tmp_path)
    TrainingStates(tmp_path, OTHERS).finish()
    assert len(list((states_of(tmp_path, OTHERS) / "early").iterdir())) == 2
    job = training(Scale(), Scripted([1, 0]), early_levels=[0.9], **changes)
    job.fit(tmp_path)
    assert not states_of(tmp_path, OTHERS).exists()
    assert [path.name for path in (states_of(tmp_path) / "early").iterdir()] == ["step-1.safetensors"]
    again = training(Scale(), Scripted([]), early_levels=[0.9], **changes).fit(tmp_path)
    assert [early.step for early in again.early] == [1]
    (states_of(tmp_path) / "early" / "step-1.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"step-1\.safetensors cannot be read .*; delete its folder and train again"):
        training(Scale(), Scripted([]), early_levels=[0.9], **changes).fit(tmp_path)


def test_nothing_is_kept_early_without_levels(tmp_path):
    assert training(Scale(), CrossEntropy(0.0), steps=2, validate_every=1).fit(tmp_path).early == []
    assert not list(tmp_path.rglob("early"))


def test_without_validation_cases_nothing_is_kept_early_and_that_is_reported(tmp_path, caplog):
    with caplog.at_level("WARNING"):
        fitted = training(Scale(), CrossEntropy(0.0), validation=[], steps=2, early_levels=[0.9]).fit(tmp_path)
    assert fitted.early == []
    assert "no early checkpoints are kept, since this split has no validation case" in caplog.text


# Interruption


@pytest.mark.parametrize(
    ("make", "objective"),
    [
        (lambda: denoiser("noise", dropout=0.2), Denoising(1000, "squared_error")),
        (lambda: denoiser("mask"), Denoising(300, "cross_entropy_dice")),
        (lambda: segmentation_network(attention_unet, (8, 16)), CrossEntropy(1.0)),
    ],
    ids=["noise, dropout", "mask", "attention_unet"],
)
@pytest.mark.parametrize("weights", ["raw", "ema"])
def test_20_steps_are_10_steps_and_10_steps_more(tmp_path, make, objective, weights):
    """Asked to end at step 10, between two validations; continued by a new process's objects."""
    whole = training(make(), objective, weights=weights).fit(tmp_path / "whole")
    with pytest.raises(Interrupted, match="step 10 of 20 is saved in"):
        training(make(), At(objective, 10, ask_to_end), weights=weights).fit(tmp_path / "parts")
    assert load_state(states_of(tmp_path / "parts") / "state.pt")["progress"]["step"] == 10
    torch.manual_seed(12345)
    counted = At(objective, 0, None)
    parts = training(make(), counted, weights=weights).fit(tmp_path / "parts")
    assert counted.calls == 10
    assert_same(parts, whole)
    assert len(whole.history) == 3


def test_interrupted_at_the_last_step_and_at_every_step(tmp_path):
    objective = CrossEntropy(1.0)
    whole = training(Scale(), objective, steps=6, validate_every=2).fit(tmp_path / "whole")
    for _ in range(6):
        with pytest.raises(Interrupted) as caught:
            training(Scale(), At(objective, 1, ask_to_end), steps=6, validate_every=2).fit(tmp_path / "parts")
        assert caught.value.code not in (0, None)
    parts = training(Scale(), objective, steps=6, validate_every=2).fit(tmp_path / "parts")
    assert_same(parts, whole)


def test_sigterm_means_what_it_meant_after_the_training(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    training(Scale(), CrossEntropy(0.0), steps=1).fit(tmp_path)
    assert signal.getsignal(signal.SIGTERM) is before
    with pytest.raises(Interrupted):
        training(Scale(), At(CrossEntropy(0.0), 1, ask_to_end), steps=2).fit(tmp_path / "other")
    assert signal.getsignal(signal.SIGTERM) is before


def test_two_trainings_do_not_share_a_folder(tmp_path):
    with lock_folder(tmp_path), pytest.raises(BusyError, match=rf"locked by another run \(process {os.getpid()} on"):
        training(Scale(), CrossEntropy(0.0), steps=1).fit(tmp_path)
    assert not list(tmp_path.rglob("state.pt"))


# Faults


def test_an_unfinished_training_of_other_settings_stops_the_job_and_is_kept(tmp_path):
    whole = training(Scale(), CrossEntropy(0.0), dependencies=OTHERS).fit(tmp_path / "whole")
    with pytest.raises(Interrupted):
        training(Scale(), At(CrossEntropy(0.0), 4, ask_to_end), dependencies=OTHERS).fit(tmp_path)
    untouched = At(CrossEntropy(0.0), 0, None)
    with pytest.raises(OtherTrainingError, match=r"at step 4 of 20, of other .*: batch was 12, is 6\. It is kept"):
        training(Scale(), untouched).fit(tmp_path)
    assert untouched.calls == 0
    assert_same(training(Scale(), CrossEntropy(0.0), dependencies=OTHERS).fit(tmp_path), whole)


def test_a_changed_training_restarts_where_that_is_asked_for(tmp_path):
    whole = training(Scale(), CrossEntropy(0.0), early_levels=[0.5]).fit(tmp_path / "whole")
    with pytest.raises(Interrupted):
        training(Scale(), At(CrossEntropy(0.0), 8, ask_to_end), dependencies=OTHERS, early_levels=[0.5]).fit(tmp_path)
    counted = At(CrossEntropy(0.0), 0, None)
    anew = training(Scale(), counted, changed="restart", early_levels=[0.5]).fit(tmp_path)
    assert counted.calls == 20
    assert_same(anew, whole)
    TrainingStates(tmp_path, THESE).finish()
    counted = At(CrossEntropy(0.0), 0, None)
    old = training(Scale(), counted, dependencies=OTHERS, early_levels=[0.5]).fit(tmp_path)
    assert counted.calls == 12
    assert_same(old, whole)  # the settings are the same but for their name


def test_between_the_last_step_and_the_outcome_nothing_is_lost(tmp_path):
    first = training(Scale(), CrossEntropy(0.0)).fit(tmp_path)
    counted = At(CrossEntropy(0.0), 0, None)
    assert_same(training(Scale(), counted).fit(tmp_path), first)
    assert counted.calls == 0
    with pytest.raises(OtherTrainingError, match="at step 20 of 20"):
        training(Scale(), CrossEntropy(0.0), dependencies=OTHERS).fit(tmp_path)


@pytest.mark.parametrize("damage", ["cut", "bit"])
def test_after_damage_to_the_last_state_the_one_before_leads_to_the_same_end(tmp_path, damage, caplog):
    whole = training(Scale(), CrossEntropy(0.0)).fit(tmp_path / "whole")
    with pytest.raises(Interrupted):
        training(Scale(), At(CrossEntropy(0.0), 9, ask_to_end), save_every_seconds=1e-9).fit(tmp_path)
    path = states_of(tmp_path) / "state.pt"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content if damage == "bit" else content[:-100])
    counted = At(CrossEntropy(0.0), 0, None)
    with caplog.at_level("INFO"):
        assert_same(training(Scale(), counted).fit(tmp_path), whole)
    assert counted.calls == 12
    assert f"{path} cannot be read" in caplog.text
    assert f"The state before it is taken instead: {states_of(tmp_path) / 'state.previous.pt'}" in caplog.text
    assert "continuing after step 8 of 20" in caplog.text


def test_without_a_state_that_can_be_read_the_training_stops(tmp_path):
    with pytest.raises(Interrupted):
        training(Scale(), At(CrossEntropy(0.0), 1, ask_to_end)).fit(tmp_path)
    (states_of(tmp_path) / "state.pt").write_bytes(b"half")
    with pytest.raises(CheckpointError, match=r"no state of this training is left.*\n.*delete it to start this training anew"):
        training(Scale(), CrossEntropy(0.0)).fit(tmp_path)
    assert (states_of(tmp_path) / "state.pt").read_bytes() == b"half"


class Broken(At):
    """The loss of one step is another value."""

    def __init__(self, inner, step, value):
        super().__init__(inner, step, lambda: None)
        self.value = value

    def loss(self, model, batch, draws):
        parts = super().loss(model, batch, draws)
        return {"loss": parts["loss"] * self.value} if self.calls == self.step else parts


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_no_number_names_its_slices_and_keeps_the_last_state(tmp_path, value):
    seen = []

    class Watched(Broken):
        def loss(self, model, batch, draws):
            seen.append(batch.image[:, 0].amax(dim=(1, 2)).tolist())
            return super().loss(model, batch, draws)

    plain = {"save_every_seconds": 1e-9, "patches": PatchSettings((24, 32), 0.5, (), 0.0)}  # whole slices
    job = training(Scale(), Watched(CrossEntropy(0.0), 4, value), **plain)
    words = rf"the training loss is {value} at step 4, on [ab] slice 1\d, [ab] slice 1\d \(listed in .*not-a-number\.json\); "
    with pytest.raises(TrainingError, match=words + r"lower 'learning_rate' \(0\.002\), set 'gradient_clip' \(1\.0\)"):
        job.fit(tmp_path)
    told = json.loads((states_of(tmp_path) / "not-a-number.json").read_text(encoding="utf-8"))
    assert (told["step"], told["finding"]) == (4, f"the training loss is {value}")
    slices = {one.case: one.image[:, 0].amax(dim=(1, 2)).tolist() for one in CASES}
    assert [slices[one["case"]][one["slice"] - 10] for one in told["batch"]] == seen[-1]

    saved = load_state(states_of(tmp_path) / "state.pt")
    assert saved["progress"]["step"] == 3
    assert torch.isfinite(saved["model"]["factor"])
    whole = training(Scale(), CrossEntropy(0.0), **plain).fit(tmp_path / "whole")
    assert_same(training(Scale(), CrossEntropy(0.0), **plain).fit(tmp_path), whole)


class Steep(At):
    """The loss of one step is a number, but its gradient overflows."""

    def loss(self, model, batch, draws):
        parts = super().loss(model, batch, draws)
        if self.calls != self.step:
            return parts
        return {"loss": parts["loss"] + (model.factor - model.factor.detach()) * 1e36}


def test_weights_that_are_no_numbers_do_not_replace_a_good_state(tmp_path):
    class NotANumber(Steep):
        def loss(self, model, batch, draws):
            parts = super().loss(model, batch, draws)
            return {"loss": parts["loss"] * 1e10 - parts["loss"].detach() * 1e10} if self.calls == self.step else parts

    job = training(Scale(), NotANumber(CrossEntropy(0.0), 4, lambda: None), save_every_seconds=1e-9)
    with pytest.raises(TrainingError, match="the weights are not finite any more at step 4, on"):
        job.fit(tmp_path)
    assert load_state(states_of(tmp_path) / "state.pt")["progress"]["step"] == 3


def test_float16_passes_over_a_step_whose_gradient_overflows_but_not_over_a_loss(tmp_path):
    """The scale of the gradients is halved, which is how it finds its size; a loss that is no number stays an error."""
    factors = []

    class Watched(Steep):
        def loss(self, model, batch, draws):
            factors.append(model.factor.item())
            return super().loss(model, batch, draws)

    job = training(Scale(), Watched(CrossEntropy(0.0), 4, lambda: None), precision=PRECISIONS["float16"], steps=6)
    assert job.fit(tmp_path).history[-1]["step"] == 6
    assert factors[4] == factors[3] != factors[2]
    assert job.scaler.get_scale() == 2**15
    with pytest.raises(TrainingError, match="loss is nan at step 4"):
        training(Scale(), Broken(CrossEntropy(0.0), 4, math.nan), precision=PRECISIONS["float16"]).fit(tmp_path / "other")


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has a total capacity of ..."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"),
        MemoryError("Unable to allocate 8.00 GiB for an array"),
    ],
    ids=["GPU", "CPU", "numpy"],
)
def test_out_of_memory_names_what_to_lower_and_keeps_the_last_state(tmp_path, error):
    def fail():
        raise error

    with pytest.raises(MemoryShortageError) as caught:
        training(Scale(), At(CrossEntropy(0.0), 4, fail), save_every_seconds=1e-9).fit(tmp_path, "unet, split 0, seed 1")
    assert str(caught.value) == (
        f"unet, split 0, seed 1, step 4 of 20: out of memory ({str(error).splitlines()[0]}); lower 'batch' (2) or 'crop' "
        "([16, 24]), set 'precision' to 'bfloat16' where it is not (float32 here), or give the job more memory. A saved "
        "state is kept, and goes on with the present values only"
    )
    whole = training(Scale(), CrossEntropy(0.0)).fit(tmp_path / "whole")
    counted = At(CrossEntropy(0.0), 0, None)
    assert_same(training(Scale(), counted).fit(tmp_path), whole)
    assert counted.calls == 17


def test_another_error_is_not_taken_for_want_of_memory(tmp_path):
    def fail():
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match=r"^mat1 and mat2 shapes"):
        training(Scale(), At(CrossEntropy(0.0), 1, fail)).fit(tmp_path)


def test_a_disk_that_is_full_leaves_the_last_state_and_the_training_goes_on_from_it(tmp_path, monkeypatch):
    whole = training(Scale(), CrossEntropy(0.0)).fit(tmp_path / "whole")
    write, path = saved_state._Hashing.write, states_of(tmp_path) / "state.pt"

    def full(self, content):
        if path.exists() and load_state(path)["progress"]["step"] == 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(self, content)

    monkeypatch.setattr(saved_state._Hashing, "write", full)
    with pytest.raises(DiskFullError, match=r"state\.pt: there is no room .* needs \d+\.\d kB or more, and .* are free"):
        training(Scale(), CrossEntropy(0.0), save_every_seconds=1e-9).fit(tmp_path)
    monkeypatch.setattr(saved_state._Hashing, "write", write)
    assert load_state(states_of(tmp_path) / "state.pt")["progress"]["step"] == 4
    assert load_state(states_of(tmp_path) / "state.previous.pt")["progress"]["step"] == 3
    assert not list(tmp_path.rglob(".partial.*"))
    counted = At(CrossEntropy(0.0), 0, None)
    assert_same(training(Scale(), counted).fit(tmp_path), whole)
    assert counted.calls == 16


def test_what_a_killed_training_left_half_written_is_swept(tmp_path):
    for folder in (states_of(tmp_path), states_of(tmp_path) / "early"):
        folder.mkdir()
        (folder / ".partial.state.pt").write_bytes(b"half")
    with pytest.raises(Interrupted):
        training(Scale(), At(CrossEntropy(0.0), 1, ask_to_end)).fit(tmp_path)
    assert not list(tmp_path.rglob(".partial.*"))


def test_a_training_killed_at_any_moment_and_continued_equals_the_unbroken_one(tmp_path, train_arguments, script, configured):
    """The script itself: killed without warning, then asked to end, then finished. Files agree to the last byte."""
    settings = configured(
        "network",
        "denoiser",
        channels=8,
        multipliers=[1, 2],
        attention_at=[2],
        residual_blocks=1,
        dropout=0.1,
        steps=60,
        batch=2,
        crop=[16, 24],
        validate_every=20,
        validation_slices=4,
        weights="ema",
        early_levels=[0.9, 0.5],
    )

    def arguments(folder):
        return train_arguments(folder, settings)

    def started(folder):
        """The script in a process of its own, once it has saved a state that was not there before."""

        def saved():
            return {state: state.stat().st_mtime_ns for state in (folder / "work").glob("*/state.pt")}

        before = saved()
        call = "import json, runpy, sys; runpy.run_path(sys.argv[1])['main'](**json.loads(sys.argv[2]))"
        path = str(ROOT / "workflow" / "scripts" / "train.py")
        job = subprocess.Popen(
            [sys.executable, "-c", call, path, json.dumps(arguments(folder))], stderr=subprocess.PIPE, text=True
        )
        patience = time.monotonic() + 120
        while saved() == before:
            assert job.poll() is None, job.communicate()[1]
            assert time.monotonic() < patience
            time.sleep(0.005)
        (state,) = saved()
        return job, state

    parts, whole = tmp_path / "parts", tmp_path / "whole"
    job, state = started(parts)
    time.sleep(np.random.default_rng().uniform(0, 0.3))
    job.kill()
    job.communicate()
    assert job.returncode == -signal.SIGKILL
    first = load_state(state)["progress"]["step"]

    job, state = started(parts)
    job.terminate()
    _, message = job.communicate(timeout=60)
    assert job.returncode not in (0, -signal.SIGTERM)
    second = load_state(state)["progress"]["step"]
    assert f"asked to end; step {second} of 60 is saved" in message
    assert 0 < first < second < 60
    assert not (parts / "model.safetensors").exists()

    script("train")(**arguments(parts))
    script("train")(**arguments(whole))
    for name in ("model.safetensors", "early.safetensors"):
        assert file_sha256(parts / name) == file_sha256(whole / name)
    tables = [pd.read_csv(folder / "training.csv").drop(columns="seconds") for folder in (parts, whole)]
    pd.testing.assert_frame_equal(*tables, check_exact=True)
    assert tables[0]["step"].tolist() == [20, 40, 60]
