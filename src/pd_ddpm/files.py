"""Files that are either whole or not there, and folders that one run at a time may use."""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class BusyError(RuntimeError):
    """Another run is using the folder."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, of the same ending, that takes its place when the block ends without an error.

    What stood under `path` is untouched until then, also when the process is killed or the disk is full. What a killed
    process leaves is overwritten by the next attempt.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".partial.{path.name}")
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Write indented JSON atomically."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def write_record(path: Path, stamp: str, files: Iterable[str], row: dict[str, Any]) -> None:
    """Say that the files beside `path` are finished, what they depend on (`stamp`) and what is known of them (`row`)."""
    sizes = {file: (path.parent / file).stat().st_size for file in files}
    write_json(path, {"stamp": stamp, "files": sizes, "row": row})


def finished_row(path: Path, stamp: str) -> dict[str, Any] | None:
    """The row of a record, if it has this stamp and its files are there in their full size; else None."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        sizes = {file: (path.parent / file).stat().st_size for file in record["files"]}
        return record["row"] if (record["stamp"], record["files"]) == (stamp, sizes) else None
    except (OSError, ValueError, KeyError):
        return None


def fingerprint(content: Any) -> str:
    """Short hash of anything that JSON can hold; equal contents give equal hashes whatever the order of keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:16]


def file_sha256(path: Path) -> str:
    """Hash of a file's bytes."""
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keep the folder for this process; raises BusyError when another one has it. The lock ends with the process."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BusyError(f"{folder} is in use by another run; wait for it or stop it, then start again") from None
        yield
