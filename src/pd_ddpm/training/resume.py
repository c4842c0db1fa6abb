"""The saved states of a training, and what happens to them if its settings, data or code change.

A training's folder holds one folder per fingerprint of settings, data and code. It contains state.pt, the state before it,
and finished.json once the result is written.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from shutil import rmtree
from typing import Any, Literal

from pd_ddpm.runtime.files import fingerprint, write_json
from pd_ddpm.runtime.progress import log
from pd_ddpm.training import saved_state

ChangedTraining = Literal["stop", "restart"]
_MAX_LISTED = 12


class OtherTrainingError(RuntimeError):
    """Raised if there is an unfinished training with other settings, data or code; the message lists the differences."""


class TrainingStates:
    """The saved states of one training with one fingerprint. One run at a time may use the folder of a training.

    Args:
        training: folder of the training, whatever its settings.
        fingerprint_inputs: everything that the result depends on, plain values by name, such as "learning_rate". Values may be
            nested dictionaries.
    """

    def __init__(self, training: Path, fingerprint_inputs: Mapping[str, Any]):
        self.training, self.fingerprint_inputs = training, _to_json_values(fingerprint_inputs)
        self.folder = training / fingerprint(self.fingerprint_inputs)
        self.path = self.folder / "state.pt"

    def load_resumable(self, changed: ChangedTraining) -> dict[str, Any] | None:
        """Return the state to resume from, or None to begin a new training.

        Unfinished states with another fingerprint stay untouched.

        Args:
            changed: what to do if such a state exists and there is none to resume from: raise an error, or log a warning.

        Raises:
            OtherTrainingError: if such a state exists and `changed` is "stop".
            CheckpointError: if there are states, with this or another fingerprint, and none can be read.
        """
        last = saved_state.last_good_state(self.path)
        if last is not None:
            return last[0]
        messages = [text for folder in self._other_folders() if not _is_finished(folder) for text in self._describe(folder)]
        if messages and changed == "stop":
            remedy = f"Or run with `--config changed_training=restart`, which begins a new training in {self.folder}."
            raise OtherTrainingError("\n".join([*messages, remedy]))
        for message in messages:
            log.warning("%s", message)
        return None

    def begin(self) -> None:
        """Prepare for a new training: it is not finished, and finished trainings with other fingerprints are removed."""
        _finished_path(self.folder).unlink(missing_ok=True)
        for folder in self._other_folders():
            if _is_finished(folder):
                for state in (folder / self.path.name, saved_state.previous_path(folder / self.path.name)):
                    state.unlink(missing_ok=True)  # first: a state without finished.json would be an unfinished training
                rmtree(folder)

    def mark_complete(self) -> None:
        """Record that the result is written. The last state stays, in case the result is lost; the one before is removed."""
        write_json(_finished_path(self.folder), {"dependencies": self.fingerprint_inputs})
        saved_state.previous_path(self.path).unlink(missing_ok=True)

    def _other_folders(self) -> list[Path]:
        """Return the folders of other fingerprints."""
        return sorted(path for path in self.training.glob("*/") if path != self.folder)

    def _describe(self, folder: Path) -> Iterator[str]:
        """Yield one message if the folder of another fingerprint holds an unfinished training with a saved state."""
        last = saved_state.last_good_state(folder / self.path.name)
        if last is not None:
            state, file = last
            step, steps = state["progress"]["step"], state["progress"]["steps"]
            changes = list(differences(state["progress"]["dependencies"], self.fingerprint_inputs))
            text = "; ".join(changes[:_MAX_LISTED])
            text += f"; and {len(changes) - _MAX_LISTED} more" if len(changes) > _MAX_LISTED else ""
            yield (
                f"{file}: this is an unfinished training (step {step} of {steps}) with other settings, data or code: {text}. "
                "It is kept. Restore these values to resume it."
            )


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """Yield a phrase for each value that differs, also in nested dictionaries, such as "batch was 12, is 6".

    Args:
        before: earlier values by name.
        now: present values by name.
    """
    flat_before, flat_now = _flatten(_to_json_values(before)), _flatten(_to_json_values(now))
    for key in dict.fromkeys([*flat_before, *flat_now]):
        old, new = flat_before.get(key, "missing"), flat_now.get(key, "missing")
        if isinstance(old, list) and isinstance(new, list) and len(old) + len(new) > _MAX_LISTED:
            lost, gained = ([str(value) for value in a if value not in b] for a, b in ((old, new), (new, old)))
            if lost or gained:
                yield f"{key} has lost {', '.join(lost) or 'nothing'} and gained {', '.join(gained) or 'nothing'}"
                continue
        if old != new:
            yield f"{key} was {old}, is {new}"


def _finished_path(folder: Path) -> Path:
    return folder / "finished.json"


def _is_finished(folder: Path) -> bool:
    return _finished_path(folder).exists()


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested dictionaries as one, with keys such as "grid.spacing_mm"."""
    flat = {}
    for key, value in values.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _to_json_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values as JSON holds them, with lists in place of tuples."""
    return json.loads(json.dumps(dict(values), default=str))
