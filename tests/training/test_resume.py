"""Resuming: a training that is killed and resumed equals an unbroken one (about 15 s)."""

import errno
import os
import pickle
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
import torch
from training_examples import (
    INPUTS,
    OTHER_INPUTS,
    ActionAt,
    Phases,
    Scale,
    Two,
    assert_same,
    denoiser,
    folder_trainer,
    segmentation_network,
    send_sigterm,
    states_of,
)
from workflow_runs import ROOT

from pd_ddpm.models.networks.supervised import attention_unet
from pd_ddpm.models.weights import CheckpointError
from pd_ddpm.runtime.files import BusyError, DiskFullError, file_sha256, lock_folder
from pd_ddpm.training import saved_state
from pd_ddpm.training.interruption import Interrupted
from pd_ddpm.training.objectives.denoising import Denoising
from pd_ddpm.training.objectives.segmentation import CrossEntropy
from pd_ddpm.training.resume import OtherTrainingError, TrainingStates
from pd_ddpm.training.saved_state import last_good_state, load_state


def test_fit_resumes_several_optimisers_and_early_checkpoints(tmp_path):
    def job(action=lambda: None):
        objective = Phases("second", {"name": "third", "every": 3, "optimiser": "second"})
        first = objective.loss
        calls = []

        def loss(model, batch, rng):
            calls.append(1)
            if len(calls) == 10:
                action()
            return first(model, batch, rng)

        objective.loss = loss
        return folder_trainer(Two(), objective, learning_rate=0.1, validate_every=3, early_levels=(0.9, 0.5))

    whole = job().fit(tmp_path / "whole")
    with pytest.raises(Interrupted):
        job(send_sigterm).fit(tmp_path / "parts")
    state = load_state(states_of(tmp_path / "parts") / "state.pt")
    assert {"training optimiser", "second optimiser"} <= state.keys()
    assert_same(job().fit(tmp_path / "parts"), whole)


@pytest.mark.parametrize(
    ("make", "objective"),
    [
        (lambda: denoiser("noise", dropout=0.2), Denoising(1000, "squared_error")),
        (lambda: denoiser("mask"), Denoising(1000, "cross_entropy_dice")),
        (lambda: segmentation_network(attention_unet, (8, 16)), CrossEntropy(1.0)),
    ],
    ids=["noise, dropout", "mask", "attention_unet"],
)
@pytest.mark.parametrize("weights", ["raw", "ema"])
def test_fit_interrupted_at_step_10_and_resumed_equals_unbroken_run(tmp_path, make, objective, weights):
    """SIGTERM arrives at step 10, between two validations; new objects resume, as in a new process."""
    whole = folder_trainer(make(), objective, weights=weights).fit(tmp_path / "whole")
    with pytest.raises(Interrupted, match="Step 10 of 20 is saved in"):
        folder_trainer(make(), ActionAt(objective, 10, send_sigterm), weights=weights).fit(tmp_path / "parts")
    assert load_state(states_of(tmp_path / "parts") / "state.pt")["progress"]["step"] == 10
    torch.manual_seed(12345)
    counter = ActionAt(objective, 0, None)
    parts = folder_trainer(make(), counter, weights=weights).fit(tmp_path / "parts")
    assert counter.calls == 10
    assert_same(parts, whole)
    assert len(whole.history) == 3


def test_fit_interrupted_at_every_step_equals_unbroken_run(tmp_path):
    objective = CrossEntropy(1.0)
    whole = folder_trainer(Scale(), objective, steps=6, validate_every=2).fit(tmp_path / "whole")
    for _ in range(6):
        with pytest.raises(Interrupted) as caught:
            folder_trainer(Scale(), ActionAt(objective, 1, send_sigterm), steps=6, validate_every=2).fit(tmp_path / "parts")
        assert caught.value.code not in (0, None)
    parts = folder_trainer(Scale(), objective, steps=6, validate_every=2).fit(tmp_path / "parts")
    assert_same(parts, whole)


def test_fit_restores_sigterm_handler(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    folder_trainer(Scale(), CrossEntropy(0.0), steps=1).fit(tmp_path)
    assert signal.getsignal(signal.SIGTERM) is before
    with pytest.raises(Interrupted):
        folder_trainer(Scale(), ActionAt(CrossEntropy(0.0), 1, send_sigterm), steps=2).fit(tmp_path / "other")
    assert signal.getsignal(signal.SIGTERM) is before


def test_fit_refuses_folder_in_use(tmp_path):
    with lock_folder(tmp_path), pytest.raises(BusyError, match=rf"locked by another run \(process {os.getpid()} on"):
        folder_trainer(Scale(), CrossEntropy(0.0), steps=1).fit(tmp_path)
    assert not list(tmp_path.rglob("state.pt"))


def test_fit_with_other_unfinished_training_stops_and_keeps_it(tmp_path):
    whole = folder_trainer(Scale(), CrossEntropy(0.0), fingerprint_inputs=OTHER_INPUTS).fit(tmp_path / "whole")
    with pytest.raises(Interrupted):
        folder_trainer(Scale(), ActionAt(CrossEntropy(0.0), 4, send_sigterm), fingerprint_inputs=OTHER_INPUTS).fit(tmp_path)
    untouched = ActionAt(CrossEntropy(0.0), 0, None)
    with pytest.raises(OtherTrainingError, match=r"step 4 of 20\) with other .*: batch was 12, is 6\. It is kept"):
        folder_trainer(Scale(), untouched).fit(tmp_path)
    assert untouched.calls == 0
    assert_same(folder_trainer(Scale(), CrossEntropy(0.0), fingerprint_inputs=OTHER_INPUTS).fit(tmp_path), whole)


def test_fit_with_changed_settings_restarts_if_requested(tmp_path):
    whole = folder_trainer(Scale(), CrossEntropy(0.0), early_levels=[0.5]).fit(tmp_path / "whole")
    with pytest.raises(Interrupted):
        folder_trainer(
            Scale(), ActionAt(CrossEntropy(0.0), 8, send_sigterm), fingerprint_inputs=OTHER_INPUTS, early_levels=[0.5]
        ).fit(tmp_path)
    counter = ActionAt(CrossEntropy(0.0), 0, None)
    restarted = folder_trainer(Scale(), counter, changed="restart", early_levels=[0.5]).fit(tmp_path)
    assert counter.calls == 20
    assert_same(restarted, whole)
    TrainingStates(tmp_path, INPUTS).mark_complete()
    counter = ActionAt(CrossEntropy(0.0), 0, None)
    old = folder_trainer(Scale(), counter, fingerprint_inputs=OTHER_INPUTS, early_levels=[0.5]).fit(tmp_path)
    assert counter.calls == 12
    assert_same(old, whole)  # the settings are the same but for their name


def test_fit_after_last_step_returns_result_without_training(tmp_path):
    first = folder_trainer(Scale(), CrossEntropy(0.0)).fit(tmp_path)
    counter = ActionAt(CrossEntropy(0.0), 0, None)
    assert_same(folder_trainer(Scale(), counter).fit(tmp_path), first)
    assert counter.calls == 0
    with pytest.raises(OtherTrainingError, match=r"step 20 of 20\)"):
        folder_trainer(Scale(), CrossEntropy(0.0), fingerprint_inputs=OTHER_INPUTS).fit(tmp_path)


@pytest.mark.parametrize("damage", ["cut", "bit"])
def test_fit_with_damaged_last_state_resumes_from_previous_state(tmp_path, damage, caplog):
    whole = folder_trainer(Scale(), CrossEntropy(0.0)).fit(tmp_path / "whole")
    with pytest.raises(Interrupted):
        folder_trainer(Scale(), ActionAt(CrossEntropy(0.0), 9, send_sigterm), save_every_seconds=1e-9).fit(tmp_path)
    path = states_of(tmp_path) / "state.pt"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content if damage == "bit" else content[:-100])
    counter = ActionAt(CrossEntropy(0.0), 0, None)
    with caplog.at_level("INFO"):
        assert_same(folder_trainer(Scale(), counter).fit(tmp_path), whole)
    assert counter.calls == 12
    assert f"{path}: it cannot be read" in caplog.text
    assert f"The state before it is used instead: {states_of(tmp_path) / 'state.previous.pt'}" in caplog.text
    assert "resuming after step 8 of 20" in caplog.text


def test_fit_without_readable_state_stops(tmp_path):
    with pytest.raises(Interrupted):
        folder_trainer(Scale(), ActionAt(CrossEntropy(0.0), 1, send_sigterm)).fit(tmp_path)
    (states_of(tmp_path) / "state.pt").write_bytes(b"half")
    with pytest.raises(
        CheckpointError, match=r"no saved state of this training can be read.*\n.*Delete it to restart this training"
    ):
        folder_trainer(Scale(), CrossEntropy(0.0)).fit(tmp_path)
    assert (states_of(tmp_path) / "state.pt").read_bytes() == b"half"


def test_fit_on_full_disk_keeps_last_state_and_resumes(tmp_path, monkeypatch):
    whole = folder_trainer(Scale(), CrossEntropy(0.0)).fit(tmp_path / "whole")
    write, path = saved_state._HashingFile.write, states_of(tmp_path) / "state.pt"

    def full(self, content):
        if path.exists() and load_state(path)["progress"]["step"] == 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(self, content)

    monkeypatch.setattr(saved_state._HashingFile, "write", full)
    with pytest.raises(DiskFullError, match=r"state\.pt: there is no room .* needs \d+\.\d kB or more, and .* are free"):
        folder_trainer(Scale(), CrossEntropy(0.0), save_every_seconds=1e-9).fit(tmp_path)
    monkeypatch.setattr(saved_state._HashingFile, "write", write)
    assert load_state(states_of(tmp_path) / "state.pt")["progress"]["step"] == 4
    assert load_state(states_of(tmp_path) / "state.previous.pt")["progress"]["step"] == 3
    assert not list(tmp_path.rglob(".partial.*"))
    counter = ActionAt(CrossEntropy(0.0), 0, None)
    assert_same(folder_trainer(Scale(), counter).fit(tmp_path), whole)
    assert counter.calls == 16


def test_fit_removes_partial_files_of_killed_run(tmp_path):
    for folder in (states_of(tmp_path), states_of(tmp_path) / "early"):
        folder.mkdir()
        (folder / ".partial.state.pt").write_bytes(b"half")
    with pytest.raises(Interrupted):
        folder_trainer(Scale(), ActionAt(CrossEntropy(0.0), 1, send_sigterm)).fit(tmp_path)
    assert not list(tmp_path.rglob(".partial.*"))


@pytest.mark.workflow  # four processes of the script
def test_training_killed_and_resumed_equals_unbroken_run(tmp_path, train_job, script, configured):
    """The script is killed, then gets SIGTERM, then finishes. The files are identical to those of an unbroken run."""
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

    def start_script(folder):
        """Start the script in a process; return it and the path of its state once a new state is saved."""

        def saved():
            return {state: state.stat().st_mtime_ns for state in (folder / "work").glob("*/state.pt")}

        before = saved()
        call = "import pickle, runpy, sys; runpy.run_path(sys.argv[1])['main'](pickle.loads(bytes.fromhex(sys.argv[2])))"
        path = str(ROOT / "workflow" / "scripts" / "train.py")
        job = subprocess.Popen(
            [sys.executable, "-c", call, path, pickle.dumps(train_job(folder, settings)).hex()],
            stderr=subprocess.PIPE,
            text=True,
        )
        deadline = time.monotonic() + 120
        while not (states := saved()) or states == before:  # there is no state.pt while it is replaced
            assert job.poll() is None, job.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.005)
        (state,) = states
        return job, state

    parts, whole = tmp_path / "parts", tmp_path / "whole"
    job, state = start_script(parts)
    time.sleep(np.random.default_rng().uniform(0, 0.3))
    job.kill()
    job.communicate()
    assert job.returncode == -signal.SIGKILL
    first = last_good_state(state)[0]["progress"]["step"]

    job, state = start_script(parts)
    job.terminate()
    _, message = job.communicate(timeout=60)
    assert job.returncode not in (0, -signal.SIGTERM)
    second = load_state(state)["progress"]["step"]
    assert f"received SIGTERM. Step {second} of 60 is saved" in message
    assert 0 < first < second < 60
    assert not (parts / "model.safetensors").exists()

    script("train")(train_job(parts, settings))
    script("train")(train_job(whole, settings))
    for name in ("model.safetensors", "early.safetensors"):
        assert file_sha256(parts / name) == file_sha256(whole / name)
    tables = [pd.read_csv(folder / "training.csv").drop(columns="seconds") for folder in (parts, whole)]
    pd.testing.assert_frame_equal(*tables, check_exact=True)
    assert tables[0]["step"].tolist() == [20, 40, 60]
