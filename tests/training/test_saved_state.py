"""Saved states: damaged, foreign and malicious files are refused (below 1 s)."""

import hashlib
import io
import os
import pickle
import signal
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch

from pd_ddpm.models.weights import CheckpointError
from pd_ddpm.training.saved_state import last_good_state, load_state, previous_path, save_state

WEIGHTS = {"a.weight": torch.arange(12.0).reshape(3, 4), "a.bias": torch.zeros(3), "count": torch.tensor(7)}
PROGRESS = {"dependencies": "abc", "step": 3, "losses": [0.5, 0.25], "history": [{"step": 3, "dice": float("nan")}], "best": {}}


def test_load_state_returns_saved_state(tmp_path):
    optimiser = torch.optim.Adam([torch.nn.Parameter(torch.ones(2))], fused=True)
    save_state(tmp_path / "state.pt", {"model": WEIGHTS, "optimiser": optimiser.state_dict(), "progress": PROGRESS})
    state = load_state(tmp_path / "state.pt")
    assert torch.equal(state["model"]["a.weight"], WEIGHTS["a.weight"])
    assert str(state["progress"]) == str(PROGRESS)
    assert state["optimiser"]["param_groups"] == optimiser.state_dict()["param_groups"]
    assert [path.name for path in tmp_path.iterdir()] == ["state.pt"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[: len(content) // 2],
        lambda content: content[:-1],
        lambda content: content + b"0",
        lambda content: b"",
        lambda content: b"hello",
    ],
    ids=["half", "a byte less", "a byte more", "empty", "text"],
)
def test_load_state_rejects_incomplete_file(tmp_path, damage):
    path = tmp_path / "state.pt"
    save_state(path, {"model": WEIGHTS, "progress": PROGRESS})
    path.write_bytes(damage(path.read_bytes()))
    words = r"state\.pt: it cannot be read: .*was cut short, or is a foreign file.*\. Delete it to restart this training"
    with pytest.raises(CheckpointError, match=words):
        load_state(path)


def test_load_state_detects_any_flipped_bit(tmp_path):
    """Flip one bit in 300 places and in each byte of the seal. Without the seal, most of them would go unnoticed."""
    path = tmp_path / "state.pt"
    save_state(path, {"model": {"weights": torch.arange(1000.0)}, "progress": PROGRESS})
    whole = path.read_bytes()
    random, unnoticed = np.random.default_rng(0), 0
    for position in [*random.integers(0, len(whole), 300), *range(len(whole) - 100, len(whole))]:
        content = bytearray(whole)
        content[position] ^= 1 << random.integers(8)
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match="cannot be read"):
            load_state(path)
        try:
            torch.load(path, weights_only=True)
            unnoticed += 1
        except Exception:
            pass
    assert unnoticed > 200


# Two states


def state(step):
    return {"model": WEIGHTS, "progress": PROGRESS | {"step": step}}


def test_save_state_keeps_previous_state(tmp_path):
    path = tmp_path / "state.pt"
    assert last_good_state(path) is None
    for step in (1, 2, 3):
        save_state(path, state(step))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["state.previous.pt", "state.pt"]
    assert [load_state(file)["progress"]["step"] for file in (path, previous_path(path))] == [3, 2]
    assert last_good_state(path)[0]["progress"]["step"] == 3


@pytest.mark.parametrize("damage", ["cut", "bit", "gone"])
def test_last_good_state_falls_back_to_previous_state_with_warning(tmp_path, damage, caplog):
    path = tmp_path / "state.pt"
    for step in (1, 2):
        save_state(path, state(step))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    path.write_bytes(content if damage == "bit" else content[: len(content) // 3])
    if damage == "gone":
        path.unlink()
    with caplog.at_level("WARNING"):
        found, file = last_good_state(path)
    assert (found["progress"]["step"], file) == (1, previous_path(path))
    said = "" if damage == "gone" else f"{path}: it cannot be read"
    assert said in caplog.text
    assert ("The state before it is used instead" in caplog.text) == bool(said)


def test_last_good_state_names_both_unreadable_states(tmp_path):
    path = tmp_path / "state.pt"
    for step in (1, 2):
        save_state(path, state(step))
    for file in (path, previous_path(path)):
        file.write_bytes(file.read_bytes()[:300])
    with pytest.raises(CheckpointError) as caught:
        last_good_state(path)
    for words in (
        "no saved state of this training can be read",
        f"{path}: it cannot be read",
        f"{previous_path(path)}: it cannot be read",
        "Delete",
    ):
        assert words in str(caught.value)


@pytest.mark.parametrize("call", range(3))
def test_save_state_killed_at_any_rename_leaves_good_state(tmp_path, call):
    """The process is killed before the first, second or third rename after the first state."""
    path = tmp_path / "state.pt"
    code = (
        "import os, signal, sys, torch\n"
        "from pathlib import Path\n"
        "from pd_ddpm.training.saved_state import save_state\n"
        "path, left = Path(sys.argv[1]), int(sys.argv[2])\n"
        "save_state(path, {'progress': {'step': 0}})\n"
        "whole = os.replace\n"
        "def replace(source, target):\n"
        "    global left\n"
        "    if left == 0: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    left -= 1\n"
        "    return whole(source, target)\n"
        "os.replace = replace\n"
        "for step in (1, 2): save_state(path, {'progress': {'step': step}})"
    )
    assert subprocess.run([sys.executable, "-c", code, path, str(call)]).returncode == -signal.SIGKILL
    assert last_good_state(path)[0]["progress"]["step"] == [0, 0, 1][call]


class Malicious:
    """Creates a folder if it is unpickled without protection."""

    def __init__(self, victim):
        self.victim = victim

    def __reduce__(self):
        return os.mkdir, (str(self.victim),)


@pytest.mark.parametrize("sealed", [False, True], ids=["as it is", "with a right hash"])
@pytest.mark.parametrize("how", ["torch.save", "old torch.save", "pickle", "inside the zip"])
def test_load_state_executes_nothing(tmp_path, how, sealed):
    path, victim = tmp_path / "state.pt", tmp_path / "executed"
    evil = {"model": WEIGHTS, "progress": PROGRESS | {"best": Malicious(victim)}}
    if how == "inside the zip":
        buffer = io.BytesIO()
        torch.save({"model": 1}, buffer)
        with zipfile.ZipFile(buffer) as good, zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as bad:
            for item in good.infolist():
                bad.writestr(item, pickle.dumps(evil, protocol=2) if item.filename.endswith("data.pkl") else good.read(item))
    elif how == "pickle":
        path.write_bytes(pickle.dumps(evil))
    else:
        torch.save(evil, path, _use_new_zipfile_serialization=how == "torch.save")
    if sealed:
        content = path.read_bytes()
        path.write_bytes(content + b"\npd-ddpm state, sha256 " + hashlib.sha256(content).hexdigest().encode())
    with pytest.raises(CheckpointError, match=r"cannot be read: .*foreign.*nothing in it was executed"):
        load_state(path)
    assert not victim.exists()
