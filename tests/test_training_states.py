"""What becomes of a training's states when its settings, data or code have changed (below 1 s)."""

import pytest
import torch

from pd_ddpm.checkpoint import CheckpointError, last_good_state, previous_of, save_state
from pd_ddpm.training_states import OtherTrainingError, TrainingStates, differences

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
    return TrainingStates(tmp_path / "work")


def save(states, dependencies, step, steps=10, early="a"):
    save_state(states.path, {"model": {"w": torch.full((2,), float(step))}, "progress": progress(dependencies, step, steps)})
    (states.folder / "early").mkdir(exist_ok=True)
    (states.folder / "early" / "step-1.safetensors").write_text(early)


def progress(dependencies, step, steps):
    return {"dependencies": dependencies, "step": step, "steps": steps}


def step_of(state):
    return None if state is None else state["progress"]["step"]


def early(states):
    return (states.folder / "early" / "step-1.safetensors").read_text()


@pytest.mark.parametrize("changed", ["stop", "restart"])
def test_a_training_of_the_same_dependencies_goes_on(states, changed):
    assert states.resumable(OLD, changed) is None
    save(states, OLD, 4)
    assert step_of(states.resumable(OLD, changed)) == 4
    assert step_of(states.resumable(OLD | {"crop": [128, 192]}, changed)) == 4  # a list, as the configuration has it


def test_an_unfinished_training_of_others_stops_and_names_what_differs_what_is_kept_and_both_ways_on(states):
    save(states, OLD, 4)
    before = states.path.read_bytes()
    with pytest.raises(OtherTrainingError) as caught:
        states.resumable(NEW, "stop")
    for words in (
        f"{states.path} holds an unfinished training, at step 4 of 10",
        ": batch was 12, is 6; grid.spacing_mm was None, is 2.0. It is kept",
        "Put these back, and it goes on from there",
        "--config changed_training=restart",
    ):
        assert words in str(caught.value)
    assert "region" not in str(caught.value)
    assert states.path.read_bytes() == before
    assert step_of(states.resumable(OLD, "stop")) == 4


@pytest.mark.parametrize(("step", "finished"), [(9, False), (10, False), (10, True)])
def test_only_a_training_whose_outcome_is_written_is_finished(states, step, finished):
    """At its last step it is not yet: a job may be killed before the weights are written."""
    save(states, OLD, step)
    if finished:
        states.finish(OLD)
        assert states.resumable(NEW, "stop") is None
        assert step_of(states.resumable(OLD, "stop")) == 10  # should its outcome be lost
    else:
        with pytest.raises(OtherTrainingError, match=f"at step {step} of 10"):
            states.resumable(NEW, "stop")


def test_that_another_training_was_finished_frees_no_state_of_this(states):
    save(states, OLD, 10)
    states.finish(OLD)
    save(states, NEW, 3)
    with pytest.raises(OtherTrainingError, match="at step 3 of 10"):
        states.resumable(OLD, "stop")


def test_what_finishes_leaves_one_state(states):
    save(states, OLD, 5)
    save(states, OLD, 10)
    assert previous_of(states.path).exists()
    states.finish(OLD)
    assert not previous_of(states.path).exists()
    assert states.path.exists()


def test_what_is_set_aside_comes_back_with_its_settings(states, caplog):
    save(states, OLD, 4, early="old")
    save(states, OLD, 5, early="old")
    with caplog.at_level("WARNING"):
        assert states.resumable(NEW, "restart") is None
    assert "at step 5 of 10, is set aside in" in caplog.text
    assert "batch was 12, is 6" in caplog.text
    assert last_good_state(states.path) is None
    save(states, NEW, 2, early="new")
    assert step_of(states.resumable(NEW, "restart")) == 2
    with pytest.raises(OtherTrainingError, match="batch was 6, is 12"):
        states.resumable(OLD, "stop")
    assert step_of(states.resumable(OLD, "restart")) == 5
    assert early(states) == "old"
    assert step_of(states.resumable(NEW, "restart")) == 2
    assert early(states) == "new"
    states.finish(NEW)
    assert step_of(states.resumable(OLD, "stop")) == 5  # a finished one is not in the way


@pytest.mark.parametrize("moves", [0, 1])
def test_setting_aside_that_is_broken_off_loses_nothing(states, monkeypatch, moves):
    save(states, OLD, 4, early="old")
    from pd_ddpm import training_states

    whole, left = training_states._move, iter(range(moves))

    def killed(source, target):
        if next(left, None) is None:
            raise KeyboardInterrupt
        whole(source, target)

    monkeypatch.setattr(training_states, "_move", killed)
    with pytest.raises(KeyboardInterrupt):
        states.resumable(NEW, "restart")
    monkeypatch.setattr(training_states, "_move", whole)
    assert step_of(states.resumable(OLD, "stop")) == 4
    assert early(states) == "old"


def test_a_damaged_state_stops_whatever_the_settings(states):
    save(states, OLD, 4)
    states.path.write_bytes(states.path.read_bytes()[:-1])
    for changed in ("stop", "restart"):
        with pytest.raises(CheckpointError, match="delete it to start this training anew"):
            states.resumable(NEW, changed)


def test_the_state_that_can_be_read_is_set_aside(states):
    save(states, OLD, 4)
    save(states, OLD, 5)
    states.path.write_bytes(b"")
    assert states.resumable(NEW, "restart") is None
    assert not states.path.exists()
    assert step_of(states.resumable(OLD, "stop")) == 4


def test_differences_are_told_key_by_key():
    assert list(differences(OLD, OLD)) == []
    assert list(differences({"a": {"b": 1, "c": [1]}, "d": 1}, {"a": {"b": 2, "c": (1,)}, "e": None})) == [
        "a.b was 1, is 2",
        "d was 1, is not there",
        "e was not there, is None",
    ]
    cases = [f"p{n}" for n in range(40)]
    assert list(differences({"train": cases}, {"train": [*cases[1:], "q"]})) == ["train has lost p0 and gained q"]
    assert list(differences({"train": cases[:2]}, {"train": cases[1:3]})) == ["train was ['p0', 'p1'], is ['p1', 'p2']"]
