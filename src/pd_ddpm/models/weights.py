"""Trained weights on disk: safetensors with the architecture's settings, and a metadata file with their hashes.

A checkpoint holds both weights of a step, the raw ones and their moving average. Those that were validated have the names of
the model's state dict. The others have these names after the prefix `raw/` or `ema/`. In the file of early checkpoints,
`early-1/` and so on precede both.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from pd_ddpm.runtime.files import atomic_write, file_sha256, write_json
from pd_ddpm.runtime.problem import Problem, ProblemError
from pd_ddpm.runtime.sealed import read_sealed_json

# Settings that decide names and shapes of the tensors. Weights fit another network only if all of these are equal.
ARCHITECTURE_KEYS = (
    *("architecture", "spatial_dims", "channels", "latent", "multipliers", "residual_blocks", "attention_at", "heads"),
    *("backbone", "first_downsampling", "middle_attention", "skip", "scale_shift"),
    *("discriminator_channels", "image_channels", "coordinates", "labels"),
)
WeightsKind = Literal["raw", "ema"]
MAX_LISTED_TENSORS = 3  # of the tensors that do not fit, in an error


class CheckpointError(ProblemError):
    """A weights file or a saved training state that cannot be used."""


def join_weights(validated: Mapping[str, Tensor], others: Mapping[str, Tensor], kind: WeightsKind) -> dict[str, Tensor]:
    """Return both weights of a step as the tensors of one checkpoint.

    Args:
        validated: the weights that were validated, by their names in the state dict.
        others: the other weights.
        kind: what the other weights are.
    """
    return {**validated, **{f"{kind}/{name}": tensor for name, tensor in others.items()}}


def validated_weights(checkpoint: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the validated weights of a checkpoint, by their names in the state dict."""
    return {name: tensor for name, tensor in checkpoint.items() if "/" not in name}


def save_weights(path: Path, weights: dict[str, Tensor], settings: Mapping[str, Any] | None = None) -> None:
    """Write named tensors atomically, together with the architecture's settings.

    Args:
        path: safetensors file to write.
        weights: tensors by their names in the state dict.
        settings: settings of the network and its `image_channels`; only the architecture's keys are written.
    """
    header = None if settings is None else {"architecture": json.dumps(_select_architecture(settings), sort_keys=True)}
    content = save({name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}, header)
    with atomic_write(path, len(content)) as temporary:
        temporary.write_bytes(content)


def save_early(path: Path, early: Sequence[dict[str, Tensor]], settings: Mapping[str, Any] | None = None) -> None:
    """Write the weights of early checkpoints atomically into one file, as early-1, early-2 and so on.

    Args:
        path: safetensors file to write.
        early: state dicts in the order of their numbers.
        settings: as in `save_weights`.
    """
    named = {f"early-{n}/{name}": tensor for n, weights in enumerate(early, 1) for name, tensor in weights.items()}
    save_weights(path, named, settings)


def save_metadata(path: Path, files: Sequence[Path], metadata: dict[str, Any]) -> None:
    """Write a network's metadata file: settings, training record and the hashes of its weights files.

    Args:
        path: JSON file to write.
        files: weights files, which must exist.
        metadata: content of the file without the hashes.
    """
    write_json(path, metadata | {"sha256": {file.name: file_sha256(file) for file in files}})


def load_weights(
    weights: Path,
    metadata_file: Path,
    checkpoint: str = "selected",
    kind: Literal["selected"] | WeightsKind = "selected",
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the weights of a trained network and its metadata, and check that they belong together.

    The metadata must hold the file's SHA-256, and the file the network's architecture.

    Args:
        weights: safetensors file.
        metadata_file: JSON file that `save_metadata` wrote.
        checkpoint: "selected", or the name of an early checkpoint in the file, such as "early-1".
        kind: "selected": the weights that were validated; "raw" or "ema": these, whichever were validated.

    Returns:
        Tensors by their names in the state dict, and the metadata.

    Raises:
        CheckpointError: if a file is damaged, the two do not belong together, or the checkpoint is missing.
    """
    metadata = read_sealed_json(metadata_file)
    try:
        expected = metadata["sha256"][weights.name]
    except (KeyError, TypeError) as error:
        problem = f"it is not the metadata file of {weights.name} ({error!r})"
        raise CheckpointError(Problem(str(metadata_file), problem, "Delete it and train again")) from error
    if file_sha256(weights) != expected:
        problem = f"it was changed or damaged: its SHA-256 differs from that in {metadata_file}"
        raise CheckpointError(Problem(str(weights), problem, "Delete both files and train again"))
    prefix = "" if checkpoint == "selected" else f"{checkpoint}/"
    if kind not in ("selected", metadata.get("settings", {}).get("weights")):
        prefix += f"{kind}/"
    tensors = _load_with_prefix(weights, prefix)
    names = (str(weights), str(metadata_file))
    differences = list(_differences(_stored_architecture(weights), architecture_settings(metadata), names))
    if differences:
        problem = f"it does not describe the weights: {', '.join(differences)}"
        raise CheckpointError(Problem(str(metadata_file), problem, "Restore the metadata file or train again"))
    if not tensors:
        if checkpoint != "selected":
            remedy = "Add a level to the network's `early_levels`; early checkpoints also need validation cases"
        else:
            remedy = "Train the network again"
        problem = f"it has no checkpoint {checkpoint}" + ("" if kind == "selected" else f" with {kind} weights")
        raise CheckpointError(Problem(str(weights), problem, remedy))
    return tensors, metadata


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read all named tensors of a safetensors file; raise CheckpointError if it is missing or damaged."""
    with _explain_unreadable(path):
        return load_file(path)


def _load_with_prefix(path: Path, prefix: str) -> dict[str, Tensor]:
    """Read the tensors of one checkpoint, whose names are the prefix and a name without `/`. Others are not read."""
    with _explain_unreadable(path), safe_open(path, "pt") as file:
        names = {name: name.removeprefix(prefix) for name in file.keys() if name.startswith(prefix)}  # noqa: SIM118
        return {short: file.get_tensor(name) for name, short in names.items() if "/" not in short}


@contextmanager
def _explain_unreadable(path: Path) -> Iterator[None]:
    """Turn the errors of a missing or damaged file into a CheckpointError."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            Problem(str(path), f"it cannot be read ({error})", "Delete its folder and train again")
        ) from error


def assign_weights(
    model: nn.Module,
    tensors: dict[str, Tensor],
    source: Path,
    model_settings: Mapping[str, Any] | None = None,
    weights_settings: Mapping[str, Any] | None = None,
) -> None:
    """Load weights into a model: its own trained ones, or those of another network to start training from.

    Tensors whose names start with one of the model's `training_only` prefixes may be missing; they keep their values.

    Args:
        model: the model to change.
        tensors: weights by their names in the state dict.
        source: file of the weights, for errors.
        model_settings: settings of the model, for errors.
        weights_settings: settings of the network that the weights belong to, for errors.

    Raises:
        CheckpointError: if a tensor is missing, unknown or of another shape. It names the settings that differ, if they
            are given, and the first tensors otherwise.
    """
    check_fit(model, tensors, source, model_settings, weights_settings)
    model.load_state_dict(tensors, strict=False)


def check_fit(
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    source: Path,
    model_settings: Mapping[str, Any] | None = None,
    weights_settings: Mapping[str, Any] | None = None,
) -> None:
    """Check that weights fit a model, which may be on the device "meta".

    Args:
        model: the model.
        tensors: weights by their names in the state dict.
        source: file of the weights, for errors.
        model_settings: settings of the model, for errors.
        weights_settings: settings of the network that the weights belong to, for errors.

    Raises:
        CheckpointError: see `assign_weights`.
    """
    expected = model.state_dict()
    optional = getattr(model, "training_only", ())
    misfits = [f"{name} is missing" for name in expected.keys() - tensors.keys() if not name.startswith(optional)]
    misfits += [f"the model has no {name}" for name in tensors.keys() - expected.keys()]
    misfits += [
        f"{name} is {list(tensors[name].shape)}, not {list(expected[name].shape)}"
        for name in expected.keys() & tensors.keys()
        if tensors[name].shape != expected[name].shape
    ]
    if misfits:
        details = ", ".join(_differences(weights_settings or {}, model_settings or {}, ("these weights", "the model")))
        if not details:
            details = ", ".join(sorted(misfits)[:MAX_LISTED_TENSORS]) + (" ..." if len(misfits) > MAX_LISTED_TENSORS else "")
        remedy = "Give both networks the same architecture and widths"
        raise CheckpointError(Problem(str(source), f"it does not fit the model: {details}", remedy))


def architecture_settings(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings in a network's metadata that decide names and shapes of its tensors."""
    return _select_architecture({"image_channels": metadata.get("image_channels")} | metadata.get("settings", {}))


def _select_architecture(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {key: settings[key] for key in ARCHITECTURE_KEYS if key in settings}


def _stored_architecture(weights: Path) -> dict[str, Any]:
    """Return the architecture's settings in a weights file; empty if another program wrote the file."""
    with safe_open(weights, "pt") as file:
        text = (file.metadata() or {}).get("architecture", "{}")
    try:
        return dict(json.loads(text))
    except (ValueError, TypeError, RecursionError) as error:
        problem = f"its header does not describe an architecture ({error})"
        raise CheckpointError(Problem(str(weights), problem, "Delete its folder and train again")) from error


def _differences(first: Mapping[str, Any], second: Mapping[str, Any], names: tuple[str, str]) -> Iterator[str]:
    """Describe each setting of the architecture that both have and in which they differ."""
    for key, value in _select_architecture(first).items():
        if key in second and second[key] != value:
            yield f"`{key}` is {value} in {names[0]} and {second[key]} in {names[1]}"


def tensor_bytes(value: Any) -> int:
    """Return the bytes of all tensors in nested dictionaries, lists and tuples."""
    if isinstance(value, Tensor):
        return value.nbytes
    values = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return sum(map(tensor_bytes, values))
