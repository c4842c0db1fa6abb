"""Weights files and their metadata."""

import json
import pickle

import pytest
import torch
from torch import nn

from pd_ddpm.models.factory import build_model
from pd_ddpm.models.weights import (
    CheckpointError,
    architecture_settings,
    assign_weights,
    join_weights,
    load_weights,
    save_early,
    save_metadata,
    save_weights,
    validated_weights,
)

WEIGHTS = {"a.weight": torch.arange(12.0).reshape(3, 4), "a.bias": torch.zeros(3), "count": torch.tensor(7)}


@pytest.fixture
def saved(tmp_path):
    weights, metadata_file = tmp_path / "model.safetensors", tmp_path / "model.json"
    save_weights(weights, WEIGHTS)
    save_metadata(metadata_file, [weights], {"network": "unet", "settings": {"channels": [1, 2]}})
    return weights, metadata_file


def test_load_weights_returns_saved_tensors_and_metadata(saved):
    tensors, metadata = load_weights(*saved)
    assert tensors.keys() == WEIGHTS.keys()
    for name, tensor in WEIGHTS.items():
        assert torch.equal(tensors[name], tensor)
        assert tensors[name].dtype == tensor.dtype
    assert (metadata["network"], metadata["settings"]) == ("unet", {"channels": [1, 2]})


def test_save_weights_keeps_transposed_tensors(tmp_path):
    weights = WEIGHTS["a.weight"].T
    save_weights(tmp_path / "w.safetensors", {"w": weights})
    save_metadata(tmp_path / "w.json", [tmp_path / "w.safetensors"], {})
    assert torch.equal(load_weights(tmp_path / "w.safetensors", tmp_path / "w.json")[0]["w"], weights)


def test_load_weights_selects_early_checkpoint_by_name(tmp_path):
    path, metadata_file = tmp_path / "early.safetensors", tmp_path / "model.json"
    save_early(path, [{"a": torch.ones(2)}, {"a": torch.zeros(2)}])
    save_metadata(metadata_file, [path], {})
    assert load_weights(path, metadata_file, "early-1")[0]["a"].tolist() == [1, 1]
    assert load_weights(path, metadata_file, "early-2")[0]["a"].tolist() == [0, 0]
    with pytest.raises(CheckpointError, match="has no checkpoint early-3"):
        load_weights(path, metadata_file, "early-3")


def test_load_weights_selects_raw_or_averaged_weights(tmp_path):
    """The validated weights are the default, in a checkpoint of the best step and in early ones."""
    path, early, metadata_file = (tmp_path / name for name in ("model.safetensors", "early.safetensors", "model.json"))
    checkpoints = [join_weights({"a": torch.full((2,), n)}, {"a": torch.full((2,), -n)}, "raw") for n in (1.0, 2.0, 3.0)]
    save_weights(path, checkpoints[0])
    save_early(early, checkpoints[1:])
    save_metadata(metadata_file, [path, early], {"settings": {"weights": "ema"}})
    for kind, sign in (("selected", 1), ("ema", 1), ("raw", -1)):
        tensors, _ = load_weights(path, metadata_file, kind=kind)
        assert {name: tensor.tolist() for name, tensor in tensors.items()} == {"a": [sign, sign]}
        tensors, _ = load_weights(early, metadata_file, "early-2", kind)
        assert {name: tensor.tolist() for name, tensor in tensors.items()} == {"a": [3 * sign, 3 * sign]}
    assert {name: tensor.tolist() for name, tensor in validated_weights(checkpoints[0]).items()} == {"a": [1, 1]}


@pytest.mark.parametrize(("checkpoint", "words"), [("selected", "selected with raw"), ("early-1", "early-1 with raw")])
def test_load_weights_without_the_other_weights_names_them(tmp_path, checkpoint, words):
    path, metadata_file = tmp_path / "model.safetensors", tmp_path / "model.json"
    save_weights(path, {"a": torch.ones(2), "early-1/a": torch.ones(2)})
    save_metadata(metadata_file, [path], {"settings": {"weights": "ema"}})
    with pytest.raises(CheckpointError, match=f"has no checkpoint {words} weights"):
        load_weights(path, metadata_file, checkpoint, "raw")


@pytest.mark.parametrize("position", [0, 8, 60, -1, -20])
def test_load_weights_rejects_flipped_bit(saved, position):
    weights, metadata_file = saved
    content = bytearray(weights.read_bytes())
    content[position] ^= 1
    weights.write_bytes(content)
    with pytest.raises(
        CheckpointError, match=r"model\.safetensors: it was changed or damaged: its SHA-256 differs from that in .*model\.json"
    ):
        load_weights(weights, metadata_file)


def test_load_weights_rejects_truncated_file_and_other_metadata(saved, tmp_path):
    weights, metadata_file = saved
    save_weights(tmp_path / "other.safetensors", {"a.bias": torch.ones(3)})
    with pytest.raises(CheckpointError, match=r"model\.json: it is not the metadata file of other\.safetensors.*train again"):
        load_weights(tmp_path / "other.safetensors", metadata_file)
    weights.write_bytes(weights.read_bytes()[:-4])
    with pytest.raises(CheckpointError, match="train again"):
        load_weights(weights, metadata_file)


def test_load_weights_rejects_pickle_with_matching_hash(tmp_path):
    weights, metadata_file = tmp_path / "model.safetensors", tmp_path / "model.json"
    weights.write_bytes(pickle.dumps(WEIGHTS))
    save_metadata(metadata_file, [weights], {})
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_weights(weights, metadata_file)


@pytest.mark.parametrize(
    ("network", "changes", "named"),
    [
        ("attunet", {"channels": [8, 16]}, ["`channels` is [8, 16] in these weights and [4, 8] in the model"]),
        (
            "denoiser",
            {"multipliers": [1, 2, 2], "attention_at": [4], "steps": 7, "learning_rate": 1.0},
            ["`multipliers` is [1, 2, 2] in these", "`attention_at` is [4] in these weights and [2] in the model"],
        ),
        ("denoiser", {"skip": "concatenate"}, ["`skip` is concatenate in these weights and average in the model"]),
        ("attunet", {"image_channels": 3}, ["`image_channels` is 3 in these weights and 2 in the model"]),
        (
            "attunet",
            {"architecture": "unet_plus_plus"},
            ["`architecture` is unet_plus_plus in these weights and"],
        ),
    ],
)
def test_assign_weights_of_other_architecture_names_differing_keys(configured, network, changes, named):
    small = {"attunet": {"channels": [4, 8]}, "denoiser": {"channels": 8, "multipliers": [1, 2], "attention_at": [2]}}[network]
    small |= {"skip": "average", "residual_blocks": 1} if network == "denoiser" else {}
    ours = configured("network", network, **small) | {"image_channels": 2}
    theirs = ours | changes
    if theirs["architecture"] == "unet_plus_plus":
        theirs["channels"] = [4, 8, 8, 8, 8]
    first, second = (build_model(settings, settings["image_channels"]) for settings in (theirs, ours))
    with pytest.raises(CheckpointError) as caught:
        assign_weights(second, first.state_dict(), "denoiser/model.safetensors", ours, theirs)
    for words in [*named, "denoiser/model.safetensors: it does not fit the model", "Give both networks the same architecture"]:
        assert words in str(caught.value)
    for unsaid in ("steps", "learning_rate", "weight"):
        assert unsaid not in str(caught.value).replace("these weights", "")


def test_load_weights_rejects_edited_metadata_and_names_key(tmp_path):
    """The metadata's settings build the network; the weights file has those of the training."""
    weights, metadata_file = tmp_path / "model.safetensors", tmp_path / "model.json"
    settings = {"architecture": "unet", "channels": [4, 8], "steps": 12}
    save_weights(weights, nn.Linear(2, 2).state_dict(), settings | {"image_channels": 2})
    save_metadata(metadata_file, [weights], {"settings": settings, "image_channels": 2})
    assert load_weights(weights, metadata_file)[1]["settings"] == settings
    edited = json.loads(metadata_file.read_text())
    for settings, image_channels, words in (
        ({"channels": [4, 16]}, 2, r"`channels` is \[4, 8\] in .*model\.safetensors and \[4, 16\] in .*model\.json"),
        ({}, 1, "`image_channels` is 2 in .*model.safetensors and 1 in"),
    ):
        changed = {"settings": edited["settings"] | settings, "image_channels": image_channels}
        metadata_file.write_text(json.dumps(edited | changed))
        expected = rf"model\.json: it does not describe the weights: {words}.*\. Restore the metadata file or train again"
        with pytest.raises(CheckpointError, match=expected):
            load_weights(weights, metadata_file)
    metadata_file.write_text(json.dumps(edited | {"settings": edited["settings"] | {"steps": 13}}))  # changes no tensor
    assert architecture_settings(load_weights(weights, metadata_file)[1])["channels"] == [4, 8]
