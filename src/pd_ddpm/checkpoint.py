"""Weights as safetensors with a json beside them, and the resumable state of a training."""

import json
import os
import platform
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from pd_ddpm.files import file_sha256, replacing, write_json


class CheckpointError(ValueError):
    """A weights or state file that cannot be used; the message names it and the remedy."""


def save_weights(path: Path, weights: dict[str, Tensor]) -> None:
    """Write named tensors atomically."""
    with replacing(path) as temporary:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}, temporary)


def save_card(path: Path, weights: Path, card: dict[str, Any]) -> None:
    """Write what is needed to rebuild and to trust a network: its settings, the hash of its weights file, and versions."""
    versions = {"torch": torch.__version__, "python": platform.python_version()}
    write_json(path, card | versions | {"weights_sha256": file_sha256(weights)})


def load_weights(weights: Path, card: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the card of a trained network. Raises CheckpointError if they do not belong together."""
    try:
        settings = json.loads(card.read_text(encoding="utf-8"))
        expected = settings["weights_sha256"]
    except (ValueError, KeyError) as error:
        raise CheckpointError(f"{card} is not the card of a trained network ({error!r}); delete it and train again") from error
    if file_sha256(weights) != expected:
        raise CheckpointError(
            f"{weights} is not the file that {card} describes (its SHA-256 differs): it was changed or damaged; "
            "delete both and train again"
        )
    try:
        return load_file(weights), settings
    except SafetensorError as error:
        raise CheckpointError(f"{weights} cannot be read ({error}); delete it and train again") from error


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
