"""The saved states of one training, and what becomes of them when the training's settings, data or code have changed.

A folder holds state.pt and the state before it, of a training that is unfinished or has come to its last step; finished.json
once the outcome of that training is written, which frees its states; and set-aside/, where the states of trainings that were
broken off for others lie, each under a hash of what it depends on, until those others are wanted again.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from shutil import rmtree
from typing import Any, Literal

from pd_ddpm import checkpoint
from pd_ddpm.console import log
from pd_ddpm.files import fingerprint, write_json

ChangedTraining = Literal["stop", "restart"]
_LISTED = 12


class OtherTrainingError(RuntimeError):
    """An unfinished training of other settings, data or code is in the way; the message says in what they differ."""


class TrainingStates:
    """The states of one training in their folder, which one run at a time may use."""

    def __init__(self, folder: Path):
        self.folder, self.path = folder, folder / "state.pt"

    def resumable(self, dependencies: Mapping[str, Any], changed: ChangedTraining) -> dict[str, Any] | None:
        """The state to go on from, None to start anew.

        dependencies: plain values by name. A state of others is left to be overwritten if its training is finished. If not,
        raises OtherTrainingError, or with "restart" sets it aside. One of these dependencies that was set aside comes back.
        Raises CheckpointError if there are states and none of them can be read.
        """
        aside = self._aside(dependencies)
        found = checkpoint.last_good_state(self.path)
        if found is not None:
            state, file = found
            before = _plain(state["progress"]["dependencies"])
            if before == _plain(dependencies):
                _move(aside / "early", self.folder / "early")  # where setting aside was broken off
                return state
            if not self._is_finished(before):
                self._make_way(state["progress"], file, dependencies, changed)
        if not (aside / "state.pt").exists():
            return None
        log.info("taking up the training that was set aside in %s", aside)
        checkpoint.previous_of(self.path).unlink(missing_ok=True)  # of another training
        _move(aside / "early", self.folder / "early")
        _move(aside / "state.pt", self.path)
        return checkpoint.load_state(self.path)

    def finish(self, dependencies: Mapping[str, Any]) -> None:
        """Say that the outcome is written. The last state stays, in case the outcome is lost; the one before it goes."""
        write_json(self._finished, {"dependencies": _hash(dependencies)})
        checkpoint.previous_of(self.path).unlink(missing_ok=True)

    @property
    def _finished(self) -> Path:
        return self.folder / "finished.json"

    def _is_finished(self, dependencies: Mapping[str, Any]) -> bool:
        try:
            return json.loads(self._finished.read_text(encoding="utf-8"))["dependencies"] == _hash(dependencies)
        except (OSError, ValueError, KeyError):
            return False

    def _aside(self, dependencies: Mapping[str, Any]) -> Path:
        return self.folder / "set-aside" / _hash(dependencies)

    def _make_way(
        self, progress: Mapping[str, Any], file: Path, dependencies: Mapping[str, Any], changed: ChangedTraining
    ) -> None:
        """Set the state of an unfinished training aside, or raise OtherTrainingError."""
        step, steps = progress["step"], progress["steps"]
        found = list(differences(progress["dependencies"], dependencies))
        text = "; ".join(found[:_LISTED]) + (f"; and {len(found) - _LISTED} more" if len(found) > _LISTED else "")
        if changed == "stop":
            raise OtherTrainingError(
                f"{file} holds an unfinished training, at step {step} of {steps}, of other settings, data or code: {text}. It "
                "is kept. Put these back, and it goes on from there; or run with --config changed_training=restart, which sets "
                "it aside and begins anew"
            )
        aside = self._aside(progress["dependencies"])
        _move(self.folder / "early", aside / "early")
        _move(file, aside / "state.pt")
        for left in (self.path, checkpoint.previous_of(self.path)):
            left.unlink(missing_ok=True)
        log.warning("an unfinished training, at step %d of %d, is set aside in %s, since %s", step, steps, aside, text)


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


def _hash(dependencies: Mapping[str, Any]) -> str:
    return fingerprint(_plain(dependencies))


def _move(source: Path, target: Path) -> None:
    """Rename a file or folder, over what stands there; nothing where there is no source."""
    if source.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_dir():
            rmtree(target)
        source.replace(target)
