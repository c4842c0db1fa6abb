"""Saved states of unfinished trainings: atomic, sealed by a SHA-256, the previous one kept."""

import hashlib
import os
from pathlib import Path
from typing import Any, BinaryIO

import torch

from pd_ddpm.models.weights import CheckpointError, tensor_bytes
from pd_ddpm.runtime.files import atomic_write
from pd_ddpm.runtime.memory import is_shortage
from pd_ddpm.runtime.progress import log

# A state ends with this and the SHA-256 of all that comes before. What reads a zip file passes over it.
_SEAL = b"\npd-ddpm state, sha256 "

_SEAL_SIZE = len(_SEAL) + 64


def previous_of(path: Path) -> Path:
    """Where the state before the one in `path` is kept."""
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write the state of a training, tensors and plain values only, atomically and to the disk itself.

    The file ends with its own SHA-256. What stood in `path` is kept beside it as `previous_of(path)`, and there is no moment
    without one of the two. A state holds the weights, their moving average, the best ones and Adam's two moments: for the
    paper's denoiser of 113.7 million parameters 2.3 GB, so that a training takes 4.5 GB of disk, and 6.8 GB while it saves.
    """
    with atomic_write(path, tensor_bytes(state)) as temporary:
        with temporary.open("wb") as file:
            content = _Hashing(file)
            torch.save(state, content)
            file.write(_SEAL + content.hash.hexdigest().encode())
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            path.replace(previous_of(path))


def load_state(path: Path) -> dict[str, Any]:
    """Read a training's state; nothing in it is executed.

    Raises CheckpointError if one bit of the file is not as it was written, or if it holds anything but tensors and plain
    values. The hash notices damage; it does not prove who wrote the file.
    """
    try:
        _verify(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error}); look at the disk and the rights to the file") from error
    except Exception as error:
        if is_shortage(error):
            raise
        raise CheckpointError(
            f"{path} cannot be read: its hash is right, but it holds other things than tensors and plain values, so it is "
            "foreign, perhaps malicious, and nothing in it was executed; find out who put it there, and delete it to start "
            "this training anew"
        ) from error


def last_good_state(path: Path) -> tuple[dict[str, Any], Path] | None:
    """The state in `path` or, where that is damaged or missing, the one before it, and its file; None where there is neither.

    Raises CheckpointError if there are states and none of them can be read.
    """
    problems = []
    for file in (path, previous_of(path)):
        if file.exists():
            try:
                state = load_state(file)
            except CheckpointError as error:
                problems.append(str(error))
                continue
            for problem in problems:
                log.warning("%s. The state before it is taken instead: %s", problem.rpartition(";")[0], file)
            return state, file
    if problems:
        raise CheckpointError("no state of this training is left that can be read:\n" + "\n".join(problems))
    return None


def _verify(path: Path) -> None:
    with path.open("rb") as file:
        left = max(0, path.stat().st_size - _SEAL_SIZE)
        content = hashlib.sha256()
        while block := file.read(min(left, 1 << 20)):
            content.update(block)
            left -= len(block)
        seal = file.read()
    if not seal.startswith(_SEAL):
        raise CheckpointError(
            f"{path} cannot be read: it does not end as a state does, was cut short, or is a foreign file or one of an earlier "
            "version, and nothing in it was executed; delete it to start this training anew"
        )
    if seal != _SEAL + content.hexdigest().encode():
        raise CheckpointError(
            f"{path} cannot be read: it was altered or damaged after it was written (its SHA-256 differs); delete it to start "
            "this training anew"
        )


class _Hashing:
    """A binary file that hashes what is written into it."""

    def __init__(self, file: BinaryIO):
        self.file, self.hash = file, hashlib.sha256()

    def write(self, content: bytes) -> int:
        self.hash.update(content)
        return self.file.write(content)

    def flush(self) -> None:
        self.file.flush()
