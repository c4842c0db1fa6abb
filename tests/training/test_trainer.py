"""The training loop: networks learn; optimiser, moving average, validation and phases (about 20 s)."""

import copy
import logging
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from training_examples import (
    CASES,
    SETTINGS,
    VALIDATION,
    ActionAt,
    Broken,
    Phases,
    Scale,
    Scripted,
    Two,
    assert_same,
    denoiser,
    folder_trainer,
    segmentation_network,
    send_sigterm,
    states_of,
)

from pd_ddpm.data.working_grid import pad_to_multiple
from pd_ddpm.diffusion.denoiser import Denoiser
from pd_ddpm.diffusion.noise import MemberNoise, stream
from pd_ddpm.inference.factory import build_segmenter
from pd_ddpm.models.networks.supervised import attention_unet, unet
from pd_ddpm.runtime.precision import PRECISIONS
from pd_ddpm.training.errors import TrainingError
from pd_ddpm.training.interruption import Interrupted
from pd_ddpm.training.objectives.base import Estimate
from pd_ddpm.training.objectives.denoising import Denoising
from pd_ddpm.training.objectives.segmentation import CrossEntropy
from pd_ddpm.training.patches import PatchSettings, TrainingSlices
from pd_ddpm.training.saved_state import load_state
from pd_ddpm.training.settings import TrainingSettings
from pd_ddpm.training.trainer import learning_rate

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
def test_fit_teaches_networks_to_segment(tmp_path, make, objective, steps, chain, least_dice):
    """The loss decreases, and whole slices of new cases are segmented; denoisers start from pure noise."""
    model, patches = make(), PatchSettings((16, 32), 1.0, (), 0.0)
    result = folder_trainer(
        model, objective, steps=steps, batch=8, learning_rate=1e-2, validate_every=steps // 5, patches=patches, ema_decay=0.9
    ).fit(tmp_path)
    losses = [row["loss"] for row in result.history]
    assert losses[-1] < 0.5 * losses[0]
    assert [row["step"] for row in result.history] == [steps // 5 * n for n in range(1, 6)]
    assert max(row["validation_dice"] for row in result.history) > 0.6

    model.load_state_dict(result.selected)
    method = {"segmenter": "deterministic"}
    if isinstance(model, Denoiser):
        method = {"segmenter": "diffusion", "start": "noise", "t_start": 1000, "reverse_steps": chain, "pool": 1}
        method |= {"sampler": "ancestral", "variance": "small"}
    image, shares = (torch.cat([pad_to_multiple(one[n], 16) for one in VALIDATION]) for n in (1, 2))
    with torch.inference_mode():
        probability = build_segmenter(method, model.eval())(image, None, MemberNoise([("test", n) for n in range(len(image))]))
    predicted, lesion = (probability >= 0.5) & (shares[:, 1:] == 0), shares[:, :1] == 1
    assert 2 * (predicted & lesion).sum() / (predicted.sum() + lesion.sum()) > least_dice


def test_fit_equals_plain_pytorch_loop(tmp_path):
    """The same loop in plain PyTorch: L2 penalty, clipping, learning-rate decay and moving average."""
    model = denoiser("noise")
    reference = copy.deepcopy(model)
    objective = Denoising(1000, "squared_error")
    result = folder_trainer(model, objective, validation=[], steps=8, select="last", weights="ema").fit(tmp_path)

    slices, average = TrainingSlices(CASES), [parameter.detach().double() for parameter in reference.parameters()]
    optimiser = torch.optim.Adam(reference.parameters(), weight_decay=1e-5, fused=False, foreach=False)
    losses = []
    for step in range(1, 9):
        rng = stream("train", 0, step)
        rng.integers(2**31)
        batch = slices.sample_batch(rng, 2, SETTINGS["patches"])
        loss = objective.loss(reference, batch, rng)["loss"]
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
        torch.testing.assert_close(result.selected[name].double(), expected, rtol=0, atol=2e-5, msg=name)
    assert result.history[0]["loss"] == pytest.approx(np.mean(losses[:7]), rel=1e-4)
    assert result.history[1]["loss"] == pytest.approx(losses[7], rel=1e-3)


def test_float16_gradient_scale_changes_nothing_and_is_resumed(tmp_path):
    """Gradients are scaled back before they are clipped; this model has no operation that runs in float16 itself."""
    changes = {"weight_decay": 0.1, "gradient_clip": 0.01, "learning_rate": 0.05, "select": "last"}
    reference = folder_trainer(Scale(), CrossEntropy(0.0), **changes).fit(tmp_path / "float32")
    changes["precision"] = PRECISIONS["float16"]
    with pytest.raises(Interrupted):
        folder_trainer(Scale(), ActionAt(CrossEntropy(0.0), 10, send_sigterm), **changes).fit(tmp_path / "float16")
    assert load_state(states_of(tmp_path / "float16") / "state.pt")["scaler"]["_growth_tracker"] == 10
    job = folder_trainer(Scale(), CrossEntropy(0.0), **changes)
    result = job.fit(tmp_path / "float16")
    assert job.scaler.state_dict()["_growth_tracker"] == 20
    torch.testing.assert_close(result.selected["factor"], reference.selected["factor"], rtol=1e-4, atol=0)


@pytest.mark.parametrize("step", [1, 2, 5, 10])
def test_learning_rate_follows_cosine_or_stays_constant(step):
    settings = TrainingSettings(**SETTINGS | {"steps": 10, "learning_rate": 0.5})
    assert learning_rate(settings, step) == pytest.approx(0.5 * math.cos(math.pi / 2 * (step - 1) / 10) ** 2)
    constant = TrainingSettings(**SETTINGS | {"learning_rate": 0.5, "learning_rate_decay": "none"})
    assert learning_rate(constant, step) == 0.5


def test_learning_rate_warms_up_linearly_and_falls_to_the_last_rate():
    """The schedule of Fu et al. 2024: 100 steps from 1e-5 to 8e-4, then a cosine to 5e-5."""
    rates = {"learning_rate": 8e-4, "learning_rate_warm_up": 100, "first_learning_rate": 1e-5, "last_learning_rate": 5e-5}
    settings = TrainingSettings(**SETTINGS | rates | {"steps": 10_000})
    expected = {1: 1e-5, 51: 1e-5 + 7.9e-4 / 2, 101: 8e-4, 5051: (8e-4 + 5e-5) / 2, 10_001: 5e-5}
    assert {step: pytest.approx(learning_rate(settings, step), rel=1e-12) for step in expected} == expected
    constant = TrainingSettings(**SETTINGS | rates | {"learning_rate_decay": "none"})
    assert learning_rate(constant, 101) == learning_rate(constant, 5000) == 8e-4


@pytest.mark.parametrize(
    ("optimiser", "weight_decay", "factor"),
    [("adam", 0.0, 1.01), ("adamw", 0.0, 1.01), ("adam", 0.5, 0.99), ("adamw", 0.5, 1.005)],
)
def test_adamw_shrinks_the_weights_apart_from_the_gradient(optimiser, weight_decay, factor, tmp_path):
    """The first step of Adam is the step size, 0.01, whatever the gradient, which is between -0.5 and 0 here.

    The decay of 0.5 turns the gradient's sign, or takes 0.01 * 0.5 of the weight in addition.
    """
    changes = {"optimiser": optimiser, "weight_decay": weight_decay, "learning_rate": 0.01, "gradient_clip": None}
    model = Scale()
    folder_trainer(model, CrossEntropy(0.0), validation=[], steps=1, **changes).fit(tmp_path)
    assert model.factor.item() == pytest.approx(factor, rel=1e-5)


def test_update_ema_averages_weights_and_copies_buffers(tmp_path):
    model, seen = Scale(), []
    job = folder_trainer(model, CrossEntropy(0.0), validation=[], steps=12, ema_decay=0.6, learning_rate=0.1)
    update = job._update_ema

    def watched(step):
        update(step)
        seen.append((step, model.factor.item(), job.average.factor.item()))

    job._update_ema = watched
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


@pytest.mark.parametrize("weights", ["raw", "ema"])
@pytest.mark.parametrize("select", ["best", "last"])
def test_fit_selects_weights_of_best_validation(tmp_path, weights, select):
    objective = Scripted([0, 1, 1, 0])  # the first of two equal ones
    job = folder_trainer(
        Scale(),
        objective,
        validation=VALIDATION[:1],
        steps=8,
        validate_every=2,
        weights=weights,
        select=select,
        learning_rate=0.1,
    )
    result = job.fit(tmp_path)
    assert [row["validation_dice"] for row in result.history] == [0, 1, 1, 0]
    assert result.selected_step == (4 if select == "best" else 8)
    assert result.selected["factor"].item() == objective.evaluated[1 if select == "best" else 3]
    raw, average = job.model.factor.item(), job.average.factor.item()
    assert raw != average
    assert objective.evaluated[3] == (average if weights == "ema" else raw)


def test_fit_ends_after_validations_without_a_new_best(tmp_path, caplog):
    """At two in a row, not two in total; the learning rate is that of all steps; a resumed training has ended, too."""
    scores, changes = [0.2, 0.2, 0.5, 0.5, 0.4], {"steps": 100, "validate_every": 2, "patience": 2, "save_every_seconds": 0.0}
    changes["validation"] = VALIDATION[:1]
    with caplog.at_level(logging.INFO):
        whole = folder_trainer(Scale(), Scripted(scores), **changes).fit(tmp_path / "whole")
    assert "ends at step 10 of 100 (`patience: 2`)" in caplog.text
    assert [row["step"] for row in whole.history] == [2, 4, 6, 8, 10]
    assert whole.selected_step == 6
    assert whole.history[-1]["learning_rate"] == pytest.approx(2e-3 * 0.5 * (1 + math.cos(math.pi * 9 / 100)))
    assert_same(folder_trainer(Scale(), Scripted([]), **changes).fit(tmp_path / "whole"), whole)
    with pytest.raises(Interrupted):  # after the first validation that counts
        folder_trainer(Scale(), ActionAt(Scripted(scores), 9, send_sigterm), **changes).fit(tmp_path / "parts")
    assert_same(folder_trainer(Scale(), Scripted(scores[4:]), **changes).fit(tmp_path / "parts"), whole)
    reports = folder_trainer(Scale(), CrossEntropy(0.0), **changes | {"validation": [], "steps": 6}).fit(tmp_path / "none")
    assert reports.selected_step == 6


@pytest.mark.parametrize("select", ["best", "last"])
def test_checkpoint_holds_raw_and_averaged_weights_of_its_step(tmp_path, select):
    """Two trainings that validate other weights have the same pair in their checkpoints."""
    changes = {"validation": VALIDATION[:1], "steps": 8, "validate_every": 2, "select": select, "learning_rate": 0.1}
    changes["early_levels"] = [0.5]
    results = {
        kind: folder_trainer(Scale(), Scripted([0, 1, 1, 0]), weights=kind, **changes).fit(tmp_path / kind)
        for kind in ("raw", "ema")
    }
    raw, average = results["raw"], results["ema"]
    assert raw.selected_step == average.selected_step == (4 if select == "best" else 8)
    pairs = [(raw.checkpoint, average.checkpoint), (raw.early[0].weights, average.early[0].weights)]
    for of_raw, of_average in pairs:
        assert torch.equal(of_raw["factor"], of_average["raw/factor"])
        assert torch.equal(of_average["factor"], of_raw["ema/factor"])
        assert not torch.equal(of_raw["factor"], of_average["factor"])
    assert raw.selected.keys() == average.selected.keys() == Scale().state_dict().keys()


def test_fit_without_validation_cases_selects_last_weights(tmp_path):
    job = folder_trainer(Scale(), CrossEntropy(0.0), validation=[], steps=3)
    result = job.fit(tmp_path)
    assert result.selected_step == 3
    assert math.isnan(result.history[0]["validation_dice"])
    assert torch.equal(result.selected["factor"], job.average.factor)
    assert result.early == []


def test_validator_dice_equals_value_by_hand_outside_ignored_pixels():
    """The mean over cases of the Dice over evenly spaced slices. Label 2 is excluded although it is as bright as lesion."""
    brighter = [one._replace(image=one.image + 4 * one.label_fractions[:, 1:]) for one in VALIDATION]
    job = folder_trainer(Scale(), CrossEntropy(0.0), validation=brighter, validation_slices=4)
    expected = []
    for one in brighter:
        chosen = [1, 3]  # two slices a case, each in the middle of a half
        widened = [np.pad(part[chosen].numpy(), [(0, 0), (0, 0), (0, 8), (0, 0)], mode="edge") for part in one[1:3]]
        predicted = widened[0][:, :1] >= 0  # a fresh batch-norm layer leaves the sign
        lesion, counted = widened[1][:, :1] == 1, widened[1][:, 1:] == 0
        expected.append(2 * (predicted & lesion).sum() / ((predicted & counted).sum() + lesion.sum()))
        assert (predicted & ~counted).any()
    assert job.validator.scores(job.eval_model) == {"validation_dice": pytest.approx(np.mean(expected), rel=1e-6)}


def test_validator_uses_same_noise_every_time():
    job = folder_trainer(denoiser("noise"), Denoising(1000, "squared_error"))
    assert job.validator.scores(job.eval_model) == job.validator.scores(job.eval_model)


# Device reads


class DeviceReads(TorchDispatchMode):
    """Counts how often a number is read from the device. A GPU would have to finish all queued work each time."""

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
def test_run_step_never_waits_for_device(make, objective, precision):
    patches = PatchSettings((16, 32), 0.5, (), 0.0)
    job = folder_trainer(make(), objective, precision=PRECISIONS[precision], patches=patches)
    with DeviceReads() as reads:
        for step in (1, 2, 3):
            job.pending_losses[step] = job.train_step(step)
        assert reads.count == 0
        job._collect_losses()
    assert len(job.progress.losses["loss"]) == 3
    with DeviceReads() as reads:
        job.model.state_dict()
        assert torch.ones(1).item() == 1
    assert reads.count == 1


def test_fit_with_rarely_collected_losses_gives_same_result(tmp_path):
    """As on a GPU: same history, weights, step in the error message and saved state."""

    def job(objective, every):
        made = folder_trainer(Scale(), objective, save_every_seconds=1e-9)
        made.collect_every = every
        return made

    assert_same(job(CrossEntropy(1.0), 4).fit(tmp_path / "four"), job(CrossEntropy(1.0), 1).fit(tmp_path / "one"))
    with pytest.raises(TrainingError, match="the training loss is nan at step 6, on"):
        job(Broken(CrossEntropy(1.0), 6, math.nan), 4).fit(tmp_path / "nan")
    assert load_state(states_of(tmp_path / "nan") / "state.pt")["progress"]["step"] == 4
    with pytest.raises(Interrupted, match="Step 12 of 20 is saved in"):
        job(ActionAt(CrossEntropy(1.0), 9, send_sigterm), 4).fit(tmp_path / "parts")
    assert_same(job(CrossEntropy(1.0), 4).fit(tmp_path / "parts"), job(CrossEntropy(1.0), 4).fit(tmp_path / "again"))


# Phases


def test_phases_have_own_optimisers_and_share_the_batch(tmp_path):
    """The same loop in plain PyTorch: parameters, learning rates, betas, frequency and start of each phase."""
    objective = Phases(learning_rate_factor=3.0, betas=(0.0, 0.9), every=2, start_fraction=0.3)
    result = folder_trainer(Two(), objective, steps=10, select="last", weights="raw", validate_every=5, gradient_clip=None).fit(
        tmp_path
    )

    one, other = (torch.tensor(value, requires_grad=True) for value in (1.0, 2.0))
    optimisers = [
        torch.optim.Adam([one], weight_decay=1e-5),
        torch.optim.Adam([other], betas=(0.0, 0.9), weight_decay=1e-5),
    ]
    slices, losses, squares = TrainingSlices(CASES), {}, {}
    for step in range(1, 11):
        rng = stream("train", 0, step)
        rng.integers(2**31)
        mean = slices.sample_batch(rng, 2, SETTINGS["patches"]).image.mean()
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
    assert result.selected.keys() == {"one"}
    assert result.selected["one"].item() == pytest.approx(one.item(), rel=1e-6)
    due = [name for step in range(1, 11) for name in ("training", "second") if name == "training" or step in (4, 6, 8, 10)]
    assert [name for name, *_ in objective.seen] == due
    assert len({total for _, total, _ in objective.seen}) == 10
    noises = [noise for *_, noise in objective.seen]
    assert len(set(noises)) == 14
    columns = ["step", "loss", "learning_rate", "validation_dice", "seconds", "squared", "second_loss"]
    assert [list(row) for row in result.history] == [columns, columns]
    assert result.history[0]["squared"] == pytest.approx(np.mean([squares[step] for step in range(1, 6)]), rel=1e-5)
    assert result.history[0]["second_loss"] == pytest.approx(losses[4], rel=1e-5)
    assert result.history[1]["second_loss"] == pytest.approx(np.mean([losses[step] for step in (6, 8, 10)]), rel=1e-5)


class ScriptedPhases(Phases):
    """An objective for `Two` whose validations have given Dice scores."""

    def __init__(self, shares, start_fraction):
        super().__init__(start_fraction=start_fraction)
        self.shares, self.evaluated = iter(shares), []

    def estimates(self, model, batch, rng):
        self.evaluated.append(model.one.item())
        return [Estimate(batch.mask * next(self.shares))]


@pytest.mark.parametrize(
    ("shares", "start_fraction", "selected", "early"),
    [
        ([1, 0, 0, 1, 0], 0.4, 8, 6),  # the first phase alone was trained up to step 4
        ([1, 0, 0, 1, 0], 0.3, 8, 4),
        ([1, 0, 0, 1, 0], 0.0, 2, 2),
        ([1, 1, 1, 1, 0], 0.9, 10, 10),  # no validation but the last
    ],
)
def test_fit_never_selects_weights_of_the_warm_up(tmp_path, shares, start_fraction, selected, early):
    objective = ScriptedPhases(shares, start_fraction)
    result = folder_trainer(
        Two(),
        objective,
        validation=VALIDATION[:1],
        steps=10,
        validate_every=2,
        learning_rate=0.1,
        early_levels=[0.5],
    ).fit(tmp_path)
    assert [row["validation_dice"] for row in result.history] == shares
    assert (result.selected_step, result.early[0].step) == (selected, early)
    assert result.selected["one"].item() == objective.evaluated[selected // 2 - 1]
    assert result.early[0].weights["one"].item() == objective.evaluated[early // 2 - 1]


def test_fit_without_validation_after_warm_up_selects_last_weights(tmp_path, caplog):
    changes = {"validation": VALIDATION[:1], "steps": 4, "validate_every": 2, "early_levels": [0.9]}
    with caplog.at_level("WARNING"):
        job = folder_trainer(Two(), ScriptedPhases([1, 0], 1.0), **changes)
        result = job.fit(tmp_path)
    assert result.selected_step == 4
    assert torch.equal(result.selected["one"], job.average.one)
    assert result.early == []
    assert "no early checkpoints are kept, since no validation came after the warm-up." in caplog.text


class Annealed(CrossEntropy):
    """An objective whose loss also takes the progress of the training; `progress` lists it."""

    def __init__(self):
        super().__init__(0.0)
        object.__setattr__(self, "progress", [])

    def loss(self, model, batch, rng, progress):
        self.progress.append(progress)
        return super().loss(model, batch, rng)

    def phases(self, model):
        return [replace(phase, needs_progress=True) for phase in super().phases(model)]


def test_fit_gives_the_progress_to_a_phase_that_needs_it(tmp_path):
    objective = Annealed()
    folder_trainer(Scale(), objective, validation=[], steps=4, validate_every=4).fit(tmp_path)
    assert objective.progress == [0.25, 0.5, 0.75, 1.0]


def test_phase_can_share_the_optimiser_of_another(tmp_path):
    """Two phases that share one Adam advance its step count together."""
    changes = {"steps": 6, "validate_every": 6}
    once = folder_trainer(Two(), Phases(), **changes)
    once.fit(tmp_path / "once")
    shared = folder_trainer(Two(), Phases("second", {"name": "third", "every": 2, "optimiser": "second"}), **changes)
    shared.fit(tmp_path / "shared")
    assert shared.optimisers.keys() == {"training", "second"}
    assert once.optimisers["second"].state_dict()["state"][0]["step"] == 6
    assert shared.optimisers["second"].state_dict()["state"][0]["step"] == 9
