"""Weights as safetensors with a json beside them, and the resumable state of a training."""

import json
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pd_ddpm.files import file_sha256, replacing, write_json


class CheckpointError(ValueError):
    """A weights or state file that cannot be used; the message names it and the remedy."""


def save_weights(path: Path, weights: dict[str, Tensor]) -> None:
    """Write named tensors atomically."""
    with replacing(path) as temporary:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}, temporary)


def save_early(path: Path, early: Sequence[dict[str, Tensor]]) -> None:
    """Write the weights of early checkpoints into one file, atomically: early-1 and so on, in their order."""
    save_weights(path, {f"early-{n}/{name}": tensor for n, weights in enumerate(early, 1) for name, tensor in weights.items()})


def save_card(path: Path, files: Sequence[Path], card: dict[str, Any]) -> None:
    """Write what is needed to rebuild and to trust a network: its settings, the hashes of its weights files, and versions."""
    versions = {"torch": torch.__version__, "python": platform.python_version()}
    write_json(path, card | versions | {"sha256": {file.name: file_sha256(file) for file in files}})


def load_weights(weights: Path, card: Path, checkpoint: str = "selected") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the card of a trained network. Raises CheckpointError if they do not belong together.

    checkpoint: "selected", or which of the early checkpoints that the file holds.
    """
    try:
        settings = json.loads(card.read_text(encoding="utf-8"))
        expected = settings["sha256"][weights.name]
    except (ValueError, KeyError) as error:
        raise CheckpointError(f"{card} is not the card of {weights.name} ({error!r}); delete it and train again") from error
    if file_sha256(weights) != expected:
        raise CheckpointError(
            f"{weights} is not the file that {card} describes (its SHA-256 differs): it was changed or damaged; "
            "delete both and train again"
        )
    tensors = load_tensors(weights)
    if checkpoint != "selected":
        prefix = f"{checkpoint}/"
        tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        if not tensors:
            raise CheckpointError(
                f"{weights} holds no {checkpoint}; it takes validation cases and a level in the network's early_levels"
            )
    return tensors, settings


def load_tensors(path: Path) -> dict[str, Tensor]:
    """The named tensors of a file. Raises CheckpointError if it is not there or damaged."""
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); delete its folder and train again") from error


def fill(model: nn.Module, tensors: dict[str, Tensor], source: Path) -> None:
    """Give the model these weights: its own trained ones, or those of another model that it starts from.

    What the model names as `training_only` (prefixes of names) may be missing and then stays as it is. Raises
    CheckpointError for any other tensor that is missing, left over or of another shape.
    """
    expected = model.state_dict()
    optional = getattr(model, "training_only", ())
    wrong = [f"{name} is missing" for name in expected.keys() - tensors.keys() if not name.startswith(optional)]
    wrong += [f"the model has no {name}" for name in tensors.keys() - expected.keys()]
    wrong += [
        f"{name} is {list(tensors[name].shape)}, not {list(expected[name].shape)}"
        for name in expected.keys() & tensors.keys()
        if tensors[name].shape != expected[name].shape
    ]
    if wrong:
        raise CheckpointError(
            f"{source} does not fit the model: {'; '.join(sorted(wrong)[:3])}{' ...' if len(wrong) > 3 else ''}; both networks "
            "need the same architecture and widths"
        )
    model.load_state_dict(tensors, strict=False)


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write the state of a training, tensors and plain values only, atomically and to the disk itself."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())


def load_state(path: Path) -> dict[str, Any]:
    """Read a training's state; nothing in it is executed. Raises CheckpointError if the file is damaged."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(f"{path} cannot be read ({error}); delete it to start this training anew") from error
