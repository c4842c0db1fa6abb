"""Trained weights on disk: safetensors with their architecture and a metadata file."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from pd_ddpm.runtime.files import atomic_write, file_sha256, write_json

# What a network is built from: where two differ in one of these, the weights of one do not fit the other. How it is trained,
# and what changes no tensor, is not here.
ARCHITECTURE = (
    *("architecture", "spatial_dims", "channels", "latent", "multipliers", "residual_blocks", "attention_at", "heads"),
    *("skip", "scale_shift", "discriminator_channels", "image_channels"),
)


class CheckpointError(ValueError):
    """A weights or state file that cannot be used; the message names it and the remedy."""


def save_weights(path: Path, weights: dict[str, Tensor], architecture: Mapping[str, Any] | None = None) -> None:
    """Write named tensors atomically, and with them the settings of the network that they belong to."""
    described = None if architecture is None else {"architecture": json.dumps(_architecture(architecture), sort_keys=True)}
    content = save({name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}, described)
    with atomic_write(path, len(content)) as temporary:
        temporary.write_bytes(content)


def save_early(path: Path, early: Sequence[dict[str, Tensor]], architecture: Mapping[str, Any] | None = None) -> None:
    """Write the weights of early checkpoints into one file, atomically: early-1 and so on, in their order."""
    named = {f"early-{n}/{name}": tensor for n, weights in enumerate(early, 1) for name, tensor in weights.items()}
    save_weights(path, named, architecture)


def save_card(path: Path, files: Sequence[Path], card: dict[str, Any]) -> None:
    """Write what is needed to rebuild and to trust a network: its settings and record, and the hashes of its weights files."""
    write_json(path, card | {"sha256": {file.name: file_sha256(file) for file in files}})


def load_weights(weights: Path, card: Path, checkpoint: str = "selected") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the card of a trained network.

    Raises CheckpointError if they do not belong together: the card has the file's SHA-256, the file the network's settings.
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
    differing = list(_differing(_own_architecture(weights), architecture(settings), weights, card))
    if differing:
        raise CheckpointError(f"{card} does not describe {weights}: {'; '.join(differing)}; restore the card or train again")
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


def fill(
    model: nn.Module,
    tensors: dict[str, Tensor],
    source: Path,
    ours: Mapping[str, Any] | None = None,
    theirs: Mapping[str, Any] | None = None,
) -> None:
    """Give the model these weights: its own trained ones, or those of another model that it starts from.

    What the model names as `training_only` (prefixes of names) may be missing and then stays as it is. Raises
    CheckpointError for any other tensor that is missing, left over or of another shape. Where the settings of the model
    (`ours`) and of the network that the weights are from (`theirs`) are given, it names those that differ.
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
        told = "; ".join(_differing(theirs or {}, ours or {}, "these weights", "the model"))
        told = told or "; ".join(sorted(wrong)[:3]) + (" ..." if len(wrong) > 3 else "")
        raise CheckpointError(f"{source} does not fit the model: {told}; both networks need the same architecture and widths")
    model.load_state_dict(tensors, strict=False)


def architecture(card: Mapping[str, Any]) -> dict[str, Any]:
    """What the network of a card is built from."""
    return _architecture({"image_channels": card.get("image_channels")} | card.get("settings", {}))


def _architecture(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {key: settings[key] for key in ARCHITECTURE if key in settings}


def _own_architecture(weights: Path) -> dict[str, Any]:
    """The settings that a weights file itself names; none in one that this package did not write."""
    with safe_open(weights, "pt") as file:
        return json.loads((file.metadata() or {}).get("architecture", "{}"))


def _differing(ones: Mapping[str, Any], others: Mapping[str, Any], one: Any, other: Any) -> Iterator[str]:
    """A sentence for each setting of the architecture in which two networks differ."""
    known = (_architecture(ones), _architecture(others))
    for key in known[0]:
        if key in known[1] and known[0][key] != known[1][key]:
            yield f"'{key}' is {known[0][key]} in {one} and {known[1][key]} in {other}"


def tensor_bytes(value: Any) -> int:
    """Bytes of all tensors in nested dictionaries and lists."""
    if isinstance(value, Tensor):
        return value.nbytes
    values = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return sum(map(tensor_bytes, values))
