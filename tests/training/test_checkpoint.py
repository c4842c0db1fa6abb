"""Weights and states: damaged, foreign and malicious files are refused (below 1 s)."""

import hashlib
import io
import json
import os
import pickle
import signal
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch
from torch import nn

from pd_ddpm.models.factory import model
from pd_ddpm.models.weights import CheckpointError, architecture, fill, load_weights, save_card, save_early, save_weights
from pd_ddpm.training.saved_state import last_good_state, load_state, previous_of, save_state

WEIGHTS = {"a.weight": torch.arange(12.0).reshape(3, 4), "a.bias": torch.zeros(3), "count": torch.tensor(7)}
PROGRESS = {"dependencies": "abc", "step": 3, "losses": [0.5, 0.25], "history": [{"step": 3, "dice": float("nan")}], "best": {}}


@pytest.fixture
def saved(tmp_path):
    weights, card = tmp_path / "model.safetensors", tmp_path / "model.json"
    save_weights(weights, WEIGHTS)
    save_card(card, [weights], {"network": "unet", "settings": {"channels": [1, 2]}})
    return weights, card


def test_weights_and_card_come_back(saved):
    tensors, card = load_weights(*saved)
    assert tensors.keys() == WEIGHTS.keys()
    for name, tensor in WEIGHTS.items():
        assert torch.equal(tensors[name], tensor)
        assert tensors[name].dtype == tensor.dtype
    assert (card["network"], card["settings"]) == ("unet", {"channels": [1, 2]})


def test_transposed_weights_are_saved_as_they_read(tmp_path):
    weights = WEIGHTS["a.weight"].T
    save_weights(tmp_path / "w.safetensors", {"w": weights})
    save_card(tmp_path / "w.json", [tmp_path / "w.safetensors"], {})
    assert torch.equal(load_weights(tmp_path / "w.safetensors", tmp_path / "w.json")[0]["w"], weights)


def test_early_checkpoints_are_told_apart(tmp_path):
    path, card = tmp_path / "early.safetensors", tmp_path / "model.json"
    save_early(path, [{"a": torch.ones(2)}, {"a": torch.zeros(2)}])
    save_card(card, [path], {})
    assert load_weights(path, card, "early-1")[0]["a"].tolist() == [1, 1]
    assert load_weights(path, card, "early-2")[0]["a"].tolist() == [0, 0]
    with pytest.raises(CheckpointError, match="holds no early-3"):
        load_weights(path, card, "early-3")


@pytest.mark.parametrize("position", [0, 8, 60, -1, -20])
def test_a_flipped_bit_is_noticed(saved, position):
    weights, card = saved
    content = bytearray(weights.read_bytes())
    content[position] ^= 1
    weights.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model\.safetensors is not the file that .*model\.json describes"):
        load_weights(weights, card)


def test_a_cut_file_and_the_card_of_another_are_noticed(saved, tmp_path):
    weights, card = saved
    save_weights(tmp_path / "other.safetensors", {"a.bias": torch.ones(3)})
    with pytest.raises(CheckpointError, match="train again"):
        load_weights(tmp_path / "other.safetensors", card)
    weights.write_bytes(weights.read_bytes()[:-4])
    with pytest.raises(CheckpointError, match="train again"):
        load_weights(weights, card)


def test_what_is_no_safetensors_file_is_refused_although_the_card_fits(tmp_path):
    weights, card = tmp_path / "model.safetensors", tmp_path / "model.json"
    weights.write_bytes(pickle.dumps(WEIGHTS))
    save_card(card, [weights], {})
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_weights(weights, card)


def test_a_state_comes_back(tmp_path):
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
def test_a_state_that_is_not_whole_is_refused(tmp_path, damage):
    path = tmp_path / "state.pt"
    save_state(path, {"model": WEIGHTS, "progress": PROGRESS})
    path.write_bytes(damage(path.read_bytes()))
    words = r"state\.pt cannot be read: .*was cut short, or is a foreign file.*; delete it to start this training anew"
    with pytest.raises(CheckpointError, match=words):
        load_state(path)


def test_one_flipped_bit_anywhere_in_a_state_is_noticed(tmp_path):
    """In 300 places, and in each byte of the seal itself. Read without it, most of them pass."""
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


def test_the_state_before_is_kept_beside_the_last(tmp_path):
    path = tmp_path / "state.pt"
    assert last_good_state(path) is None
    for step in (1, 2, 3):
        save_state(path, state(step))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["state.previous.pt", "state.pt"]
    assert [load_state(file)["progress"]["step"] for file in (path, previous_of(path))] == [3, 2]
    assert last_good_state(path)[0]["progress"]["step"] == 3


@pytest.mark.parametrize("damage", ["cut", "bit", "gone"])
def test_instead_of_a_damaged_state_the_one_before_is_taken_and_that_is_said(tmp_path, damage, caplog):
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
    assert (found["progress"]["step"], file) == (1, previous_of(path))
    said = "" if damage == "gone" else f"{path} cannot be read"
    assert said in caplog.text
    assert ("The state before it is taken instead" in caplog.text) == bool(said)


def test_where_no_state_can_be_read_both_are_named(tmp_path):
    path = tmp_path / "state.pt"
    for step in (1, 2):
        save_state(path, state(step))
    for file in (path, previous_of(path)):
        file.write_bytes(file.read_bytes()[:300])
    with pytest.raises(CheckpointError) as caught:
        last_good_state(path)
    for words in (
        "no state of this training is left",
        f"{path} cannot be read",
        f"{previous_of(path)} cannot be read",
        "delete",
    ):
        assert words in str(caught.value)


@pytest.mark.parametrize("call", range(3))
def test_killed_at_any_rename_there_is_a_good_state(tmp_path, call):
    """The process dies before its first, second or third rename since the first state was written."""
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
    """Runs a command when it is unpickled without care."""

    def __init__(self, victim):
        self.victim = victim

    def __reduce__(self):
        return os.mkdir, (str(self.victim),)


@pytest.mark.parametrize("sealed", [False, True], ids=["as it is", "with a right hash"])
@pytest.mark.parametrize("how", ["torch.save", "old torch.save", "pickle", "inside the zip"])
def test_nothing_in_a_state_is_executed(tmp_path, how, sealed):
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


# Another architecture


@pytest.mark.parametrize(
    ("network", "changes", "named"),
    [
        ("attunet", {"channels": [8, 16]}, ["'channels' is [8, 16] in these weights and [4, 8] in the model"]),
        (
            "denoiser",
            {"multipliers": [1, 2, 2], "attention_at": [4], "steps": 7, "learning_rate": 1.0},
            ["'multipliers' is [1, 2, 2] in these", "'attention_at' is [4] in these weights and [2] in the model"],
        ),
        ("denoiser", {"skip": "concatenate"}, ["'skip' is concatenate in these weights and average in the model"]),
        ("attunet", {"image_channels": 3}, ["'image_channels' is 3 in these weights and 2 in the model"]),
        (
            "attunet",
            {"architecture": "unet_plus_plus"},
            ["'architecture' is unet_plus_plus in these weights and"],
        ),
    ],
)
def test_weights_of_another_architecture_name_the_keys_that_differ(configured, network, changes, named):
    small = {"attunet": {"channels": [4, 8]}, "denoiser": {"channels": 8, "multipliers": [1, 2], "attention_at": [2]}}[network]
    small |= {"skip": "average", "residual_blocks": 1} if network == "denoiser" else {}
    ours = configured("network", network, **small) | {"image_channels": 2}
    theirs = ours | changes
    if theirs["architecture"] == "unet_plus_plus":
        theirs["channels"] = [4, 8, 8, 8, 8]
    first, second = (model(settings, settings["image_channels"]) for settings in (theirs, ours))
    with pytest.raises(CheckpointError) as caught:
        fill(second, first.state_dict(), "denoiser/model.safetensors", ours, theirs)
    for words in [*named, "denoiser/model.safetensors does not fit the model", "both networks need the same architecture"]:
        assert words in str(caught.value)
    for unsaid in ("steps", "learning_rate", "weight"):
        assert unsaid not in str(caught.value).replace("these weights", "")


def test_a_card_that_was_edited_is_noticed_by_the_key(tmp_path):
    """The card's settings build the network; the weights carry those that they were trained with."""
    weights, card = tmp_path / "model.safetensors", tmp_path / "model.json"
    settings = {"architecture": "unet", "channels": [4, 8], "steps": 12}
    save_weights(weights, nn.Linear(2, 2).state_dict(), settings | {"image_channels": 2})
    save_card(card, [weights], {"settings": settings, "image_channels": 2})
    assert load_weights(weights, card)[1]["settings"] == settings
    edited = json.loads(card.read_text())
    for settings, image_channels, words in (
        ({"channels": [4, 16]}, 2, r"'channels' is \[4, 8\] in .*model\.safetensors and \[4, 16\] in .*model\.json"),
        ({}, 1, "'image_channels' is 2 in .*model.safetensors and 1 in"),
    ):
        card.write_text(json.dumps(edited | {"settings": edited["settings"] | settings, "image_channels": image_channels}))
        with pytest.raises(
            CheckpointError, match=rf"model\.json does not describe .*{words}.*; restore the card or train again"
        ):
            load_weights(weights, card)
    card.write_text(json.dumps(edited | {"settings": edited["settings"] | {"steps": 13}}))  # changes no tensor
    assert architecture(load_weights(weights, card)[1])["channels"] == [4, 8]
