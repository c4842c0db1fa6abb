"""Networks learn, and a training that is killed and continued is the one that was not (about 35 s)."""

import copy
import json
import math
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT
from torch import nn

from pd_ddpm.build.segmenter import segmenter
from pd_ddpm.checkpoint import load_state
from pd_ddpm.denoiser import Denoiser
from pd_ddpm.files import BusyError, file_sha256, held
from pd_ddpm.masks import CODINGS
from pd_ddpm.networks.denoising_unet import DenoisingUNet
from pd_ddpm.networks.supervised import attention_unet, unet
from pd_ddpm.noise import MemberNoise, stream
from pd_ddpm.objectives import CrossEntropy, Denoising
from pd_ddpm.schedule import Schedule
from pd_ddpm.training import Interrupted, Training, TrainingError, TrainingSettings, learning_rate
from pd_ddpm.training_data import CaseSlices, PatchSettings, TrainingSlices
from pd_ddpm.working_grid import pad_to_multiple

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
    return CaseSlices(name, torch.from_numpy(image), torch.from_numpy(shares))


CASES, VALIDATION = [case("a"), case("b")], [case("v"), case("w")]


def denoiser(predicts="noise", dropout=0.0, coding="signed"):
    torch.manual_seed(0)
    network = DenoisingUNet(
        spatial_dims=2,
        in_channels=3,
        out_channels=1,
        channels=8,
        multipliers=(1, 2, 2),
        residual_blocks=1,
        attention_at=[4],
        dropout=dropout,
    )
    return Denoiser(network, Schedule.cosine(), CODINGS[coding], predicts)


def segmentation_network(make, channels):
    torch.manual_seed(0)
    return make(spatial_dims=2, in_channels=2, channels=channels)


def training(
    model,
    objective,
    cases=CASES,
    validation=VALIDATION,
    seed=0,
    dependencies="these",
    number_format=torch.float32,
    save_every_seconds=60.0,
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
        number_format=number_format,
        save_every_seconds=save_every_seconds,
    )


def assert_same(one, other):
    """Two outcomes agree to the last bit, but for the time they took."""
    for ours, theirs in ((one.selected, other.selected), (one.last, other.last)):
        assert ours.keys() == theirs.keys()
        for name in ours:
            assert torch.equal(ours[name], theirs[name]), name
    assert one.selected_step == other.selected_step
    for ours, theirs in zip(one.history, other.history, strict=True):
        assert {**ours, "seconds": 0} == {**theirs, "seconds": 0}


class At:
    """An objective that does something at one step before it computes the loss."""

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
        method = {"segmenter": "diffusion", "start": "noise", "t_start": 1000, "reverse_steps": chain, "samples": 1}
        method |= {"sampler": "ancestral", "variance": "small"}
    image, shares = (torch.cat([pad_to_multiple(one[n], 16) for one in VALIDATION]) for n in (1, 2))
    with torch.inference_mode():
        probability = segmenter(method, model.eval())(image, None, MemberNoise([("test", n) for n in range(len(image))]))
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
        torch.testing.assert_close(fitted.last[name].double(), expected, rtol=0, atol=2e-5, msg=name)
    assert fitted.history[0]["loss"] == pytest.approx(np.mean(losses[:7]), rel=1e-4)
    assert fitted.history[1]["loss"] == pytest.approx(losses[7], rel=1e-3)


def test_scaled_gradients_of_float16_change_nothing_and_the_scale_is_resumed(tmp_path):
    """Gradients are scaled back before they are clipped; this model has no operation that runs in float16 itself."""
    changes = {"weight_decay": 0.1, "gradient_clip": 0.01, "learning_rate": 0.05}
    reference = training(Scale(), CrossEntropy(0.0), **changes).fit(tmp_path / "float32")
    changes["number_format"] = torch.float16
    with pytest.raises(Interrupted):
        training(Scale(), At(CrossEntropy(0.0), 10, ask_to_end), **changes).fit(tmp_path / "float16")
    assert load_state(tmp_path / "float16" / "state.pt")["scaler"]["_growth_tracker"] == 10
    job = training(Scale(), CrossEntropy(0.0), **changes)
    fitted = job.fit(tmp_path / "float16")
    assert job.scaler.state_dict()["_growth_tracker"] == 20
    torch.testing.assert_close(fitted.last["factor"], reference.last["factor"], rtol=1e-4, atol=0)


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
    assert fitted.last["factor"].item() == objective.judged[3]
    raw, average = job.model.factor.item(), job.average.factor.item()
    assert raw != average
    assert fitted.last["factor"].item() == (average if weights == "ema" else raw)


def test_without_validation_cases_the_last_weights_are_selected(tmp_path):
    fitted = training(Scale(), CrossEntropy(0.0), validation=[], steps=3).fit(tmp_path)
    assert fitted.selected_step == 3
    assert math.isnan(fitted.history[0]["validation_dice"])
    assert torch.equal(fitted.selected["factor"], fitted.last["factor"])


def test_validation_dice_is_that_of_the_voxels_that_count():
    """By hand: per case, over its evenly spaced slices, mean over cases; label 2 is left out although it is as bright."""
    brighter = [one._replace(image=one.image + 4 * one.shares[:, 1:]) for one in VALIDATION]
    job = training(Scale(), CrossEntropy(0.0), validation=brighter, validation_slices=4)
    expected = []
    for one in brighter:
        chosen = [0, 3]  # two slices a case: the first and the last
        widened = [np.pad(part[chosen].numpy(), [(0, 0), (0, 0), (0, 8), (0, 0)], mode="edge") for part in one[1:]]
        predicted = widened[0][:, :1] >= 0  # a fresh batch-norm layer leaves the sign
        lesion, counted = widened[1][:, :1] == 1, widened[1][:, 1:] == 0
        expected.append(2 * (predicted & lesion).sum() / ((predicted & counted).sum() + lesion.sum()))
        assert (predicted & ~counted).any()
    assert job.validation_dice() == pytest.approx(np.mean(expected), rel=1e-6)


def test_validation_draws_the_same_noise_every_time():
    job = training(denoiser("noise"), Denoising(1000, "squared_error"))
    assert job.validation_dice() == job.validation_dice()


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
    assert load_state(tmp_path / "parts" / "state.pt")["progress"]["step"] == 10
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
        training(Scale(), At(CrossEntropy(0.0), 1, ask_to_end), steps=2, dependencies="other").fit(tmp_path)
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_state_of_other_dependencies_is_not_taken_up(tmp_path):
    training(Scale(), CrossEntropy(0.0), steps=4, save_every_seconds=1e-9, dependencies="others").fit(tmp_path)
    assert load_state(tmp_path / "state.pt")["progress"]["step"] == 4
    counted = At(CrossEntropy(0.0), 0, None)
    anew = training(Scale(), counted, steps=4, save_every_seconds=1e-9).fit(tmp_path)
    assert counted.calls == 4
    assert_same(anew, training(Scale(), CrossEntropy(0.0), steps=4).fit(tmp_path / "whole"))
    assert load_state(tmp_path / "state.pt")["progress"]["dependencies"] == "these"


def test_two_trainings_do_not_share_a_folder(tmp_path):
    with held(tmp_path), pytest.raises(BusyError, match="in use by another run"):
        training(Scale(), CrossEntropy(0.0), steps=1).fit(tmp_path)
    assert not (tmp_path / "state.pt").exists()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_no_number_ends_the_training_and_keeps_the_last_state(tmp_path, value):
    class Broken(At):
        def loss(self, model, batch, draws):
            parts = super().loss(model, batch, draws)
            return {"loss": parts["loss"] * value} if self.calls == self.step else parts

    job = training(Scale(), Broken(CrossEntropy(0.0), 4, lambda: None), save_every_seconds=1e-9)
    with pytest.raises(TrainingError, match=rf"the loss is {value} at step 4; lower 'learning_rate'"):
        job.fit(tmp_path)
    saved = load_state(tmp_path / "state.pt")
    assert saved["progress"]["step"] == 3
    assert torch.isfinite(saved["model"]["factor"])
    assert torch.equal(saved["model"]["factor"], job.model.factor)
    whole = training(Scale(), CrossEntropy(0.0)).fit(tmp_path / "whole")
    assert_same(training(Scale(), CrossEntropy(0.0)).fit(tmp_path), whole)


def test_a_training_killed_at_any_moment_and_continued_equals_the_unbroken_one(tmp_path, prepared, script, configured):
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
    )

    def arguments(folder):
        folder.mkdir(exist_ok=True)
        return {
            "cases": str(prepared / "prepared.csv"),
            "splits": str(prepared / "splits.csv"),
            "weights": str(folder / "model.safetensors"),
            "last": str(folder / "last.safetensors"),
            "card": str(folder / "model.json"),
            "history": str(folder / "training.csv"),
            "state": str(folder / "work"),
            "name": "denoiser",
            "split": 0,
            "seed": 3,
            "settings": settings,
            "grid": {"spacing_mm": 2.0, "region": "brain_box", "margin_mm": 4.0, "minimum_brain_cm2": 0.5},
            "device": "cpu",
            "code": "",
            "save_every_seconds": 1e-6,
            "threads": 1,
        }

    def started(folder):
        """The script in a process of its own, once it has saved a state that was not there before."""
        state = folder / "work" / "state.pt"
        before = state.stat().st_mtime_ns if state.exists() else 0
        call = "import json, runpy, sys; runpy.run_path(sys.argv[1])['main'](**json.loads(sys.argv[2]))"
        path = str(ROOT / "workflow" / "scripts" / "train.py")
        job = subprocess.Popen(
            [sys.executable, "-c", call, path, json.dumps(arguments(folder))], stderr=subprocess.PIPE, text=True
        )
        patience = time.monotonic() + 120
        while not (state.exists() and state.stat().st_mtime_ns > before):
            assert job.poll() is None, job.communicate()[1]
            assert time.monotonic() < patience
            time.sleep(0.005)
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
    for name in ("model.safetensors", "last.safetensors"):
        assert file_sha256(parts / name) == file_sha256(whole / name)
    tables = [pd.read_csv(folder / "training.csv").drop(columns="seconds") for folder in (parts, whole)]
    pd.testing.assert_frame_equal(*tables, check_exact=True)
    assert tables[0]["step"].tolist() == [20, 40, 60]
