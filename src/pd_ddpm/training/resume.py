"""The saved states of a training, and what becomes of them when the training's settings, data or code have changed.

A training's folder holds a folder for each set of settings, data and code, named by its fingerprint. That holds state.pt and
the state before it, and finished.json once the outcome is written.
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
_LISTED = 12


class OtherTrainingError(RuntimeError):
    """An unfinished training of other settings, data or code lies there; the message says in what they differ."""


class TrainingStates:
    """The states of one training in the folder of its fingerprint; one run at a time may use the training's folder.

    training: the folder of the training, whatever its settings. dependencies: plain values by name.
    """

    def __init__(self, training: Path, dependencies: Mapping[str, Any]):
        self.training, self.dependencies = training, _plain(dependencies)
        self.folder = training / fingerprint(self.dependencies)
        self.path = self.folder / "state.pt"

    def resumable(self, changed: ChangedTraining) -> dict[str, Any] | None:
        """Return the state to resume from, or None to start anew.

        Unfinished states of other dependencies stay untouched. If one of them would be left behind by a new training, raises
        OtherTrainingError, or with "restart" logs a warning. Raises CheckpointError if there are states, its own or such
        others, and none of them can be read.
        """
        last = saved_state.last_good_state(self.path)
        if last is not None:
            return last[0]
        sentences = [sentence for folder in self._others() if not _is_finished(folder) for sentence in self._describe(folder)]
        if sentences and changed == "stop":
            remedy = f"run with --config changed_training=restart, which begins anew in {self.folder}"
            raise OtherTrainingError("\n".join(sentences) + f"; or {remedy}")
        for sentence in sentences:
            log.warning("%s", sentence)
        return None

    def begin(self) -> None:
        """Remove the finished trainings of other dependencies, and the record that this one, which begins anew, is finished."""
        _finished(self.folder).unlink(missing_ok=True)
        for folder in self._others():
            if _is_finished(folder):
                for state in (folder / self.path.name, saved_state.previous_of(folder / self.path.name)):
                    state.unlink(missing_ok=True)  # first: without finished.json they would be of an unfinished training
                rmtree(folder)

    def finish(self) -> None:
        """Record that the outcome is written. The last state stays, in case the outcome is lost; the one before it goes."""
        write_json(_finished(self.folder), {"dependencies": self.dependencies})
        saved_state.previous_of(self.path).unlink(missing_ok=True)

    def _others(self) -> list[Path]:
        """The folders of other dependencies."""
        return sorted(path for path in self.training.glob("*/") if path != self.folder)

    def _describe(self, folder: Path) -> Iterator[str]:
        """A sentence on the unfinished training in the folder of other dependencies, if it has saved a state."""
        last = saved_state.last_good_state(folder / self.path.name)
        if last is not None:
            state, file = last
            step, steps = state["progress"]["step"], state["progress"]["steps"]
            changes = list(differences(state["progress"]["dependencies"], self.dependencies))
            text = "; ".join(changes[:_LISTED]) + (f"; and {len(changes) - _LISTED} more" if len(changes) > _LISTED else "")
            yield (
                f"{file} holds an unfinished training, at step {step} of {steps}, of other settings, data or code: {text}. It "
                "is kept. Put these back, and it goes on from there"
            )


def _finished(folder: Path) -> Path:
    return folder / "finished.json"


def _is_finished(folder: Path) -> bool:
    return _finished(folder).exists()


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """A sentence for each value, of nested dictionaries too, that is another one now, such as "batch was 12, is 6"."""
    ones, others = _flat(_plain(before)), _flat(_plain(now))
    for key in dict.fromkeys([*ones, *others]):
        one, other = ones.get(key, "not there"), others.get(key, "not there")
        if isinstance(one, list) and isinstance(other, list) and len(one) + len(other) > _LISTED:
            lost, gained = ([str(value) for value in a if value not in b] for a, b in ((one, other), (other, one)))
            if lost or gained:
                yield f"{key} has lost {', '.join(lost) or 'nothing'} and gained {', '.join(gained) or 'nothing'}"
                continue
        if one != other:
            yield f"{key} was {one}, is {other}"


def _flat(values: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in values.items():
        flat |= _flat(value, f"{before}{key}.") if isinstance(value, dict) else {f"{before}{key}": value}
    return flat


def _plain(dependencies: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON holds it, where a tuple is a list."""
    return json.loads(json.dumps(dict(dependencies), default=str))
