"""Saved states of unfinished trainings: written atomically, protected by a SHA-256, with the previous one kept."""

import hashlib
import os
from pathlib import Path
from typing import Any, BinaryIO

import torch

from pd_ddpm.models.weights import CheckpointError, tensor_bytes
from pd_ddpm.runtime.files import atomic_write
from pd_ddpm.runtime.memory import is_shortage
from pd_ddpm.runtime.problem import Problem
from pd_ddpm.runtime.progress import log

# A state ends with this and the SHA-256 of everything before it. Readers of zip files ignore it.
_SEAL = b"\npd-ddpm state, sha256 "

_SEAL_SIZE = len(_SEAL) + 64


def previous_path(path: Path) -> Path:
    """Return where the state before the one in `path` is kept."""
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write the state of a training atomically and flush it to the disk.

    The file ends with its own SHA-256. The previous content of `path` moves to `previous_path(path)`; one of the two exists
    at any moment. A state holds the weights, their moving average, the best ones of both, and Adam's two moments. For the
    paper's denoiser (113.7 million parameters) that is 2.7 GB. A training then needs 5.5 GB of disk, and 8.2 GB while it
    saves.

    Args:
        path: where to write it.
        state: tensors and plain values only, in nested dictionaries and lists.

    Raises:
        DiskFullError: if it does not fit on the disk.
    """
    with atomic_write(path, tensor_bytes(state)) as temporary:
        with temporary.open("wb") as file:
            content = _HashingFile(file)
            torch.save(state, content)
            file.write(_SEAL + content.hash.hexdigest().encode())
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            path.replace(previous_path(path))


def load_state(path: Path) -> dict[str, Any]:
    """Read the state of a training; nothing in the file is executed.

    Raises:
        CheckpointError: if a single bit differs from what was written, or if the file holds anything but tensors and plain
            values. The hash detects damage; it does not prove who wrote the file.
    """
    try:
        _verify(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except OSError as error:
        raise _unreadable(path, f"it cannot be read ({error})", "Check the disk and the permissions of the file") from error
    except Exception as error:
        if is_shortage(error):
            raise
        raise _unreadable(
            path,
            "it cannot be read: its hash is right, but it holds other things than tensors and plain values, so it is foreign, "
            "perhaps malicious, and nothing in it was executed",
            "Find out who put it there, and delete it to restart this training",
        ) from error


def last_good_state(path: Path) -> tuple[dict[str, Any], Path] | None:
    """Return the state in `path`, or the one before it if that is damaged or missing, with its file; None if there is neither.

    Raises:
        CheckpointError: if there are states and none can be read.
    """
    problems: list[Problem] = []
    for file in (path, previous_path(path)):
        if file.exists():
            try:
                state = load_state(file)
            except CheckpointError as error:
                problems += error.problems
                continue
            for problem in problems:
                log.warning("%s: %s. The state before it is used instead: %s", problem.location, problem.problem, file)
            return state, file
    if problems:
        raise CheckpointError(*problems, heading="no saved state of this training can be read")
    return None


def _verify(path: Path) -> None:
    """Compare the file's SHA-256 with the one at its end."""
    with path.open("rb") as file:
        remaining = max(0, path.stat().st_size - _SEAL_SIZE)
        content = hashlib.sha256()
        while block := file.read(min(remaining, 1 << 20)):
            content.update(block)
            remaining -= len(block)
        seal = file.read()
    if not seal.startswith(_SEAL):
        raise _unreadable(
            path,
            "it cannot be read: it was cut short, or is a foreign file or one of an earlier version, and nothing in it was "
            "executed",
            "Delete it to restart this training",
        )
    if seal != _SEAL + content.hexdigest().encode():
        raise _unreadable(
            path,
            "it cannot be read: it was altered or damaged after it was written (its SHA-256 differs)",
            "Delete it to restart this training",
        )


def _unreadable(path: Path, problem: str, remedy: str) -> CheckpointError:
    return CheckpointError(Problem(str(path), problem, remedy))


class _HashingFile:
    """A binary file that hashes everything written to it."""

    def __init__(self, file: BinaryIO):
        self.file, self.hash = file, hashlib.sha256()

    def write(self, content: bytes) -> int:
        self.hash.update(content)
        return self.file.write(content)

    def flush(self) -> None:
        self.file.flush()
