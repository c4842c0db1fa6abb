"""Small networks, cases and objectives that several tests of the training use."""

import os
import signal
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from pd_ddpm.diffusion.denoiser import Denoiser
from pd_ddpm.diffusion.mask_coding import CODINGS
from pd_ddpm.diffusion.schedule import Schedule
from pd_ddpm.models.networks.denoising_unet import DenoisingUNet, DenoisingUNetSettings
from pd_ddpm.runtime.backend import Backend
from pd_ddpm.runtime.precision import PRECISIONS
from pd_ddpm.training.objectives.base import Estimate, Objective, Phase
from pd_ddpm.training.objectives.segmentation import CrossEntropy
from pd_ddpm.training.patches import CaseSlices, PatchSettings, TrainingSlices
from pd_ddpm.training.resume import TrainingStates
from pd_ddpm.training.settings import TrainingSettings
from pd_ddpm.training.trainer import Trainer
from pd_ddpm.training.validator import Validator

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
    """Slices with bright discs (lesions) and dark discs (label 2)."""
    random = np.random.default_rng([seed, *name.encode()])
    rows, columns = np.meshgrid(*map(np.arange, size), indexing="ij")
    labels = np.zeros((slices, 1, *size), dtype=np.uint8)
    for labels_2d in labels:
        for label, row, column in zip((1, 1, 2), random.integers(4, 20, 3), random.integers(4, 28, 3), strict=True):
            labels_2d[0, (rows - row) ** 2 + (columns - column) ** 2 < 10] = label
    image = random.normal(0, 0.3, (slices, 2, *size)).astype(np.float32)
    image[:, :1] += 2 * (labels == 1) - 2 * (labels == 2)
    label_fractions = np.concatenate([labels == 1, labels == 2], axis=1).astype(np.float32)
    return CaseSlices(name, torch.from_numpy(image), torch.from_numpy(label_fractions), range(10, 10 + slices))


INPUTS, OTHER_INPUTS = {"batch": 6, "grid": {"spacing_mm": None}}, {"batch": 12, "grid": {"spacing_mm": None}}
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


class FolderTrainer(Trainer):
    """A trainer whose `fit` takes a folder; fingerprint inputs and options are attributes."""

    def fit(self, folder, title="training"):
        return super().fit(TrainingStates(folder, self.fingerprint_inputs), title, **self.options)


def folder_trainer(
    model,
    objective,
    cases=CASES,
    validation=VALIDATION,
    seed=0,
    fingerprint_inputs=INPUTS,
    precision=PRECISIONS["float32"],
    save_every_seconds=60.0,
    changed="stop",
    **changes,
):
    settings, backend = TrainingSettings(**SETTINGS | changes), Backend(torch.device("cpu"), precision)
    validator = Validator(objective, validation, settings.validation_slices, seed, backend) if validation else None
    trainer = FolderTrainer(model, objective, TrainingSlices(cases), settings, seed, backend, validator)
    trainer.fingerprint_inputs = fingerprint_inputs
    trainer.options = {"save_every_seconds": save_every_seconds, "changed": changed}
    return trainer


def states_of(folder, fingerprint_inputs=INPUTS):
    """The folder of the states with this fingerprint."""
    return TrainingStates(folder, fingerprint_inputs).folder


def assert_same(result, expected):
    """Check that two results are identical except for their times."""
    assert [replace(early, weights={}) for early in result.early] == [replace(early, weights={}) for early in expected.early]
    pairs = zip(
        [result.checkpoint, *(e.weights for e in result.early)],
        [expected.checkpoint, *(e.weights for e in expected.early)],
        strict=True,
    )
    for ours, theirs in pairs:
        assert ours.keys() == theirs.keys()
        for name in ours:
            assert torch.equal(ours[name], theirs[name]), name
    assert result.selected_step == expected.selected_step
    for ours, theirs in zip(result.history, expected.history, strict=True):
        assert str({**ours, "seconds": 0}) == str({**theirs, "seconds": 0})  # as text, since NaN != NaN


class ActionAt(Objective):
    """An objective that calls a function before it computes the loss of one step; `calls` counts the steps."""

    def __init__(self, inner, step, action):
        self.inner, self.step, self.action, self.calls = inner, step, action, 0

    def loss(self, model, batch, rng):
        self.calls += 1
        if self.calls == self.step:
            self.action()
        return self.inner.loss(model, batch, rng)

    def estimates(self, model, batch, rng):
        return self.inner.estimates(model, batch, rng)


class Broken(ActionAt):
    """An objective whose loss is multiplied by a value at one step."""

    def __init__(self, inner, step, value):
        super().__init__(inner, step, lambda: None)
        self.value = value

    def loss(self, model, batch, rng):
        parts = super().loss(model, batch, rng)
        return {"loss": parts["loss"] * self.value} if self.calls == self.step else parts


def send_sigterm():
    os.kill(os.getpid(), signal.SIGTERM)


class Scale(nn.Module):
    """A network with one parameter: logits = factor * first channel, after a batch-norm layer with running statistics."""

    divisor = 16

    def __init__(self):
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(1.0))
        self.norm = nn.BatchNorm2d(2, affine=False)

    def forward(self, image):
        return self.factor * self.norm(image)[:, :1]


class Scripted(CrossEntropy):
    """An objective whose estimates have given probabilities on lesions; `evaluated` lists the validated weights."""

    def __init__(self, shares):
        super().__init__(0.0)
        object.__setattr__(self, "shares", iter(shares))
        object.__setattr__(self, "evaluated", [])

    def estimates(self, model, batch, rng):
        self.evaluated.append(model.factor.item())
        return [Estimate(batch.mask * next(self.shares))]


class Two(nn.Module):
    """A network with two parameters; `other` is for training only."""

    divisor = 16
    training_only = ("other",)

    def __init__(self):
        super().__init__()
        self.one = nn.Parameter(torch.tensor(1.0))
        self.other = nn.Parameter(torch.tensor(2.0))

    def forward(self, image):
        return self.one * image[:, :1]


class Phases(Objective):
    """An objective for `Two` with a phase for `one` and further phases for `other`. `seen` lists phase, batch and noise."""

    def __init__(self, second="second", *changes, **more):
        self.changes = [{"name": second, **more}, *changes]
        self.seen = []

    def loss(self, model, batch, rng):
        self.seen.append(("training", batch.image.sum().item(), rng.standard_normal()))
        squared = (model.one - batch.image.mean()) ** 2
        return {"loss": squared + model.other**2, "squared": squared}

    def other(self, name):
        def loss(model, batch, rng):
            self.seen.append((name, batch.image.sum().item(), rng.standard_normal()))
            assert not model.one.requires_grad
            return {"loss": (model.other * model.one - 1 - batch.image.mean()) ** 2}

        return loss

    def phases(self, model):
        first = Phase("training", self.loss, [model.one])
        return [first, *(Phase(loss=self.other(c["name"]), parameters=[model.other], **c) for c in self.changes)]

    def estimates(self, model, batch, rng):
        return [Estimate(model(batch.image).sigmoid())]
