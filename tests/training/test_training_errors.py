"""Errors of a training: NaN, overflow and memory, with the last saved state kept (about 2 s)."""

import json
import math

import pytest
import torch
from training_examples import (
    CASES,
    ActionAt,
    Broken,
    Phases,
    Scale,
    Two,
    assert_same,
    folder_trainer,
    states_of,
)

from pd_ddpm.runtime.memory import MemoryShortageError
from pd_ddpm.runtime.precision import PRECISIONS
from pd_ddpm.training.errors import TrainingError
from pd_ddpm.training.objectives.segmentation import CrossEntropy
from pd_ddpm.training.patches import PatchSettings
from pd_ddpm.training.saved_state import load_state


@pytest.mark.parametrize("name", ["second", "third"])
def test_fit_with_non_finite_loss_names_the_phase(tmp_path, name):
    objective = Phases("second", {"name": "third", "every": 2})
    other = objective.other
    objective.other = lambda phase: (
        (lambda model, batch, rng: {"loss": model.other * math.nan}) if phase == name else other(phase)
    )
    with pytest.raises(TrainingError, match=f"the {name} loss is nan at step {1 if name == 'second' else 2}, on"):
        folder_trainer(Two(), objective).fit(tmp_path)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_fit_with_non_finite_loss_names_slices_and_keeps_last_state(tmp_path, value):
    seen = []

    class Watched(Broken):
        def loss(self, model, batch, rng):
            seen.append(batch.image[:, 0].amax(dim=(1, 2)).tolist())
            return super().loss(model, batch, rng)

    plain = {"save_every_seconds": 1e-9, "patches": PatchSettings((24, 32), 0.5, (), 0.0)}  # whole slices
    job = folder_trainer(Scale(), Watched(CrossEntropy(0.0), 4, value), **plain)
    words = rf"not-a-number\.json: the training loss is {value} at step 4, on [ab] slice 1\d, [ab] slice 1\d\. "
    with pytest.raises(TrainingError, match=words + r"Reduce `learning_rate` \(0\.002\), set `gradient_clip` \(1\.0\)"):
        job.fit(tmp_path)
    listed = json.loads((states_of(tmp_path) / "not-a-number.json").read_text(encoding="utf-8"))
    assert (listed["step"], listed["finding"]) == (4, f"the training loss is {value}")
    slices = {one.case: one.image[:, 0].amax(dim=(1, 2)).tolist() for one in CASES}
    assert [slices[one["case"]][one["slice"] - 10] for one in listed["batch"]] == seen[-1]

    saved = load_state(states_of(tmp_path) / "state.pt")
    assert saved["progress"]["step"] == 3
    assert torch.isfinite(saved["model"]["factor"])
    whole = folder_trainer(Scale(), CrossEntropy(0.0), **plain).fit(tmp_path / "whole")
    assert_same(folder_trainer(Scale(), CrossEntropy(0.0), **plain).fit(tmp_path), whole)


class Steep(ActionAt):
    """An objective with a finite loss whose gradient overflows at one step."""

    def loss(self, model, batch, rng):
        parts = super().loss(model, batch, rng)
        if self.calls != self.step:
            return parts
        return {"loss": parts["loss"] + (model.factor - model.factor.detach()) * 1e36}


def test_fit_with_non_finite_weights_keeps_good_state(tmp_path):
    class NotANumber(Steep):
        def loss(self, model, batch, rng):
            parts = super().loss(model, batch, rng)
            return {"loss": parts["loss"] * 1e10 - parts["loss"].detach() * 1e10} if self.calls == self.step else parts

    job = folder_trainer(Scale(), NotANumber(CrossEntropy(0.0), 4, lambda: None), save_every_seconds=1e-9)
    with pytest.raises(TrainingError, match="the weights are no longer finite at step 4, on"):
        job.fit(tmp_path)
    assert load_state(states_of(tmp_path) / "state.pt")["progress"]["step"] == 3


def test_float16_skips_gradient_overflow_but_rejects_non_finite_loss(tmp_path):
    """An overflow halves the gradient scale, as usual in float16. A NaN loss is still an error."""
    factors = []

    class Watched(Steep):
        def loss(self, model, batch, rng):
            factors.append(model.factor.item())
            return super().loss(model, batch, rng)

    job = folder_trainer(Scale(), Watched(CrossEntropy(0.0), 4, lambda: None), precision=PRECISIONS["float16"], steps=6)
    assert job.fit(tmp_path).history[-1]["step"] == 6
    assert factors[4] == factors[3] != factors[2]
    assert job.scaler.get_scale() == 2**15
    with pytest.raises(TrainingError, match="loss is nan at step 4"):
        folder_trainer(Scale(), Broken(CrossEntropy(0.0), 4, math.nan), precision=PRECISIONS["float16"]).fit(tmp_path / "other")


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has a total capacity of ..."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"),
        MemoryError("Unable to allocate 8.00 GiB for an array"),
    ],
    ids=["GPU", "CPU", "numpy"],
)
def test_fit_out_of_memory_names_settings_and_keeps_last_state(tmp_path, error):
    def fail():
        raise error

    with pytest.raises(MemoryShortageError) as caught:
        folder_trainer(Scale(), ActionAt(CrossEntropy(0.0), 4, fail), save_every_seconds=1e-9).fit(
            tmp_path, "unet, split 0, seed 1"
        )
    assert str(caught.value) == (
        f"unet, split 0, seed 1, step 4 of 20: out of memory ({str(error).splitlines()[0]}). Reduce `batch` (2) or `crop` "
        "([16, 24]), use `precision: bfloat16` (currently float32), or request more memory. A saved "
        "state is kept, and resumes with the present values only"
    )
    whole = folder_trainer(Scale(), CrossEntropy(0.0)).fit(tmp_path / "whole")
    counter = ActionAt(CrossEntropy(0.0), 0, None)
    assert_same(folder_trainer(Scale(), counter).fit(tmp_path), whole)
    assert counter.calls == 17


def test_fit_passes_on_other_errors(tmp_path):
    def fail():
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match=r"^mat1 and mat2 shapes"):
        folder_trainer(Scale(), ActionAt(CrossEntropy(0.0), 1, fail)).fit(tmp_path)
