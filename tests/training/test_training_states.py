"""Saved states of a training whose settings, data or code have changed (below 1 s)."""

from pathlib import Path

import pytest
import torch

from pd_ddpm.models.weights import CheckpointError
from pd_ddpm.training import resume
from pd_ddpm.training.resume import OtherTrainingError, TrainingStates, differences
from pd_ddpm.training.saved_state import previous_path, save_state

OLD = {
    "batch": 12,
    "crop": (128, 192),
    "grid": {"spacing_mm": None, "region": "slice"},
    "code": "a",
    "data": {"train": ["p1", "p2"]},
}
NEW = OLD | {"batch": 6, "grid": {"spacing_mm": 2.0, "region": "slice"}}


@pytest.fixture
def states(tmp_path):
    """The states of fingerprint inputs, all in one training's folder."""
    return lambda inputs: TrainingStates(tmp_path / "work", inputs)


def save(states, step, steps=10):
    progress = {"dependencies": dict(states.fingerprint_inputs), "step": step, "steps": steps}
    save_state(states.path, {"model": {"w": torch.full((2,), float(step))}, "progress": progress})


def step_of(state):
    return None if state is None else state["progress"]["step"]


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("changed", ["stop", "restart"])
def test_load_resumable_returns_state_of_same_fingerprint(states, changed):
    assert states(OLD).load_resumable(changed) is None
    save(states(OLD), 4)
    assert step_of(states(OLD).load_resumable(changed)) == 4
    assert step_of(states(OLD | {"crop": [128, 192]}).load_resumable(changed)) == 4  # a list, as the configuration has it


def test_load_resumable_names_differences_and_remedies_of_other_training(states):
    save(states(OLD), 4)
    before = states(OLD).path.read_bytes()
    with pytest.raises(OtherTrainingError) as caught:
        states(NEW).load_resumable("stop")
    for words in (
        f"{states(OLD).path}: this is an unfinished training (step 4 of 10) with other settings, data or code",
        ": batch was 12, is 6; grid.spacing_mm was None, is 2.0. It is kept",
        "Restore these values to resume it.",
        "--config changed_training=restart",
    ):
        assert words in str(caught.value)
    assert "region" not in str(caught.value)
    assert states(OLD).path.read_bytes() == before
    assert step_of(states(OLD).load_resumable("stop")) == 4


@pytest.mark.parametrize(("step", "finished"), [(9, False), (10, False), (10, True)])
def test_only_mark_complete_finishes_a_training(states, step, finished):
    """A training at its last step is not finished: the job may be killed before it writes the weights."""
    save(states(OLD), step)
    if finished:
        states(OLD).mark_complete()
        assert states(NEW).load_resumable("stop") is None
        assert step_of(states(OLD).load_resumable("stop")) == 10  # should its outcome be lost
    else:
        with pytest.raises(OtherTrainingError, match=rf"\(step {step} of 10\)"):
            states(NEW).load_resumable("stop")


def test_finished_other_training_does_not_free_unfinished_state(states):
    save(states(OLD), 10)
    states(OLD).mark_complete()
    states(OLD).path.unlink()
    save(states(NEW), 3)
    with pytest.raises(OtherTrainingError, match=r"\(step 3 of 10\)"):
        states(OLD).load_resumable("stop")


def test_begin_removes_finished_mark(states):
    save(states(OLD), 10)
    states(OLD).mark_complete()
    states(OLD).path.unlink()
    assert states(OLD).load_resumable("stop") is None
    states(OLD).begin()
    save(states(OLD), 2)
    with pytest.raises(OtherTrainingError, match=r"\(step 2 of 10\)"):
        states(NEW).load_resumable("stop")


def test_mark_complete_keeps_only_last_state(states):
    save(states(OLD), 5)
    save(states(OLD), 10)
    assert previous_path(states(OLD).path).exists()
    states(OLD).mark_complete()
    assert not previous_path(states(OLD).path).exists()
    assert states(OLD).path.exists()


def test_restart_keeps_other_state_which_resumes_with_its_settings(states, caplog):
    save(states(OLD), 4)
    save(states(OLD), 5)
    before = contents(states(OLD).folder)
    with caplog.at_level("WARNING"):
        assert states(NEW).load_resumable("restart") is None
    for words in (f"{states(OLD).path}: this is", "(step 5 of 10)", "batch was 12, is 6", "It is kept. Restore these values"):
        assert words in caplog.text
    states(NEW).begin()
    save(states(NEW), 2)
    assert contents(states(OLD).folder) == before
    for changed in ("restart", "stop"):  # each has its own folder, so that none is in the way of the other
        assert step_of(states(NEW).load_resumable(changed)) == 2
        assert step_of(states(OLD).load_resumable(changed)) == 5
    with pytest.raises(OtherTrainingError) as caught:
        states(NEW | {"code": "b"}).load_resumable("stop")
    assert all(str(states(one).path) in str(caught.value) for one in (OLD, NEW))


def test_begin_removes_other_finished_trainings_and_keeps_unfinished_ones(states):
    third = OLD | {"batch": 3}
    save(states(OLD), 10)
    states(OLD).mark_complete()
    save(states(third), 4)
    states(NEW).begin()
    assert not states(OLD).folder.exists()
    assert step_of(states(third).load_resumable("stop")) == 4


@pytest.mark.parametrize("done", range(3))
def test_begin_killed_midway_leaves_no_unfinished_training(states, monkeypatch, done):
    save(states(OLD), 5)
    save(states(OLD), 10)
    previous = previous_path(states(OLD).path).read_bytes()
    states(OLD).mark_complete()
    previous_path(states(OLD).path).write_bytes(previous)  # killed before it was removed
    whole, left = Path.unlink, iter(range(1 + done))

    def killed(path, missing_ok=False):
        if next(left, None) is None:
            raise KeyboardInterrupt
        whole(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", killed)
    monkeypatch.setattr(resume, "rmtree", lambda folder: killed(folder / "finished.json"))
    with pytest.raises(KeyboardInterrupt):
        states(NEW).begin()
    monkeypatch.undo()
    assert states(NEW).load_resumable("stop") is None
    states(NEW).begin()


def test_load_resumable_rejects_damaged_state_with_any_settings(states):
    save(states(OLD), 4)
    states(OLD).path.write_bytes(states(OLD).path.read_bytes()[:-1])
    for inputs in (OLD, NEW):
        for changed in ("stop", "restart"):
            with pytest.raises(CheckpointError, match="Delete it to restart this training"):
                states(inputs).load_resumable(changed)


def test_load_resumable_names_readable_previous_state(states, caplog):
    save(states(OLD), 4)
    save(states(OLD), 5)
    states(OLD).path.write_bytes(b"")
    with caplog.at_level("WARNING"):
        assert states(NEW).load_resumable("restart") is None
    assert f"{previous_path(states(OLD).path)}: this is an unfinished training (step 4" in caplog.text
    assert step_of(states(OLD).load_resumable("stop")) == 4


def test_differences_lists_each_changed_key():
    assert list(differences(OLD, OLD)) == []
    assert list(differences({"a": {"b": 1, "c": [1]}, "d": 1}, {"a": {"b": 2, "c": (1,)}, "e": None})) == [
        "a.b was 1, is 2",
        "d was 1, is missing",
        "e was missing, is None",
    ]
    cases = [f"p{n}" for n in range(40)]
    assert list(differences({"train": cases}, {"train": [*cases[1:], "q"]})) == ["train has lost p0 and gained q"]
    assert list(differences({"train": cases[:2]}, {"train": cases[1:3]})) == ["train was ['p0', 'p1'], is ['p1', 'p2']"]
