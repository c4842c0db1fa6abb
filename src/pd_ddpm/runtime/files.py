"""Atomic writes, locks of folders, fingerprints and completion records."""

import errno
import fcntl
import hashlib
import json
import os
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from shutil import disk_usage
from typing import Any

PARTIAL = ".partial."  # prefix of a file that is being written
_DISK_FULL_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class BusyError(RuntimeError):
    """Raised if another run has locked the folder."""


class DiskFullError(OSError):
    """Raised if there is no room for a file. The message names the file, its size and the free space."""


@contextmanager
def atomic_write(path: Path, size: int = 0) -> Iterator[Path]:
    """Yield a temporary path next to `path`, and rename it to `path` if the block ends without an error.

    An existing file stays unchanged until then, even if the process is killed or the disk is full. The next attempt, or
    `remove_partial_files`, removes what a killed process leaves behind.

    Args:
        path: file to write. The temporary file has the same ending.
        size: least number of bytes that the file will have, if known, for the message of DiskFullError.

    Raises:
        DiskFullError: the file system or the quota is full, or the file exceeds the limit on file size.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{PARTIAL}{path.name}")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except Exception as error:
        if not _is_disk_full(error):
            raise
        # An existing file of this name gives a better estimate of the size than the part that was written.
        needed = max([size, *(file.stat().st_size for file in (path, temporary) if file.exists())])
        temporary.unlink(missing_ok=True)
        free = disk_usage(path.parent).free
        raise DiskFullError(
            f"{path}: there is no room for it on the disk or in the quota: it needs {format_bytes(needed)} or more, and "
            f"{format_bytes(free)} are free. Make room and start again. Finished results are kept, and the run resumes there."
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def remove_partial_files(folder: Path) -> None:
    """Remove the partial files of killed processes from a folder that no other process is writing into."""
    for partial in folder.glob(f"{PARTIAL}*"):
        partial.unlink()


def format_bytes(size: int) -> str:
    """Return a number of bytes as text, such as "2273.4 MB"."""
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.1f} kB"


def _is_disk_full(error: BaseException | None) -> bool:
    """Return whether a full disk caused this error, directly or through the errors that led to it."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _DISK_FULL_ERRNOS:
            return True
        error = error.__cause__ or error.__context__
    return False


def write_json(path: Path, content: Any) -> None:
    """Write indented JSON atomically."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def write_completion_record(path: Path, fingerprint: str, files: Iterable[str], row: dict[str, Any]) -> None:
    """Record that the files next to `path` are complete.

    Args:
        path: the record, a json.
        fingerprint: hash of everything that the files depend on.
        files: names of the files, in the folder of the record.
        row: what later steps need to know of them.
    """
    sizes = {file: (path.parent / file).stat().st_size for file in files}
    record = {"stamp": fingerprint, "files": sizes, "row": row}
    write_json(path, record | {"seal": _seal(record)})


def read_completion_record(path: Path, fingerprint: str) -> dict[str, Any] | None:
    """Return the row of an intact record with this fingerprint whose files all have their full size, else None."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        seal = record.pop("seal")
        sizes = {file: (path.parent / file).stat().st_size for file in record["files"]}
        unchanged = (record["stamp"], record["files"], seal) == (fingerprint, sizes, _seal(record))
        return record["row"] if unchanged else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _seal(record: dict[str, Any]) -> str:
    """Return the hash by which a completion record is recognised as intact."""
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def fingerprint(content: Any) -> str:
    """Return a short hash of anything that JSON can hold, independent of the order of keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:16]


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Lock a folder exclusively. The operating system releases the lock when the process exits.

    Raises:
        BusyError: another process has locked it. The message names its host, process id and start time.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("a+", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            owner = lock.read() or "owner unknown"
            raise BusyError(
                f"{folder}: is locked by another run ({owner}). Wait for it or stop it, then start again."
            ) from None
        now = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
        with suppress(OSError):  # the lock works even if the disk is too full to name its owner
            lock.truncate(0)
            lock.write(f"process {os.getpid()} on {socket.gethostname()} since {now}")
            lock.flush()
        yield
