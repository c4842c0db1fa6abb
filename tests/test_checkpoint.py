"""Weights and states: damaged, foreign and malicious files are refused (below 1 s)."""

import io
import os
import pickle
import zipfile

import pytest
import torch

from pd_ddpm.checkpoint import CheckpointError, load_state, load_weights, save_card, save_early, save_state, save_weights

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


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "bit"])
def test_a_damaged_state_is_refused(tmp_path, damage):
    path = tmp_path / "state.pt"
    save_state(path, {"model": WEIGHTS, "progress": PROGRESS})
    content = bytearray(path.read_bytes())
    content[content.index(b"dependencies")] ^= 0xFF
    path.write_bytes({"cut": content[: len(content) // 2], "empty": b"", "text": b"hello", "bit": content}[damage])
    with pytest.raises(CheckpointError, match=r"state\.pt cannot be read .*; delete it to start this training anew"):
        load_state(path)


class Malicious:
    """Runs a command when it is unpickled without care."""

    def __init__(self, victim):
        self.victim = victim

    def __reduce__(self):
        return os.mkdir, (str(self.victim),)


@pytest.mark.parametrize("how", ["torch.save", "old torch.save", "pickle", "inside the zip"])
def test_nothing_in_a_state_is_executed(tmp_path, how):
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
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_state(path)
    assert not victim.exists()
