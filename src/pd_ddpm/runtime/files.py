"""Files that are either whole or not there, and folders that one run at a time may use."""

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

PARTIAL = ".partial."  # begins the name of a file that is being written
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class BusyError(RuntimeError):
    """Another run is using the folder."""


class DiskFullError(OSError):
    """There is no room for a file; the message names it, what it needs and what there is."""


@contextmanager
def replacing(path: Path, size: int = 0) -> Iterator[Path]:
    """A temporary path beside `path`, of the same ending, that takes its place when the block ends without an error.

    What stood under `path` is untouched until then, also when the process is killed or the disk is full. What a killed
    process leaves is overwritten by the next attempt, or removed by `sweep`.

    size: bytes that the file will have at least, as far as they are known; for the message of the DiskFullError that is
    raised when the block fails for want of room, by a full file system, a quota or a limit on the size of a file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{PARTIAL}{path.name}")
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    except Exception as error:
        if not _for_want_of_room(error):
            raise
        # A file of the same name that stands there already tells more of the size than a part that was written does.
        needed = max([size, *(one.stat().st_size for one in (path, temporary) if one.exists())])
        temporary.unlink(missing_ok=True)
        raise DiskFullError(
            f"{path}: there is no room for it on the disk or in the quota: it needs {readable(needed)} or more, and "
            f"{readable(disk_usage(path.parent).free)} are free; make room and start again: what is finished is kept, and the "
            "run goes on from there"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Remove what killed processes have left half written in a folder, which no other process may be writing into."""
    for left in folder.glob(f"{PARTIAL}*"):
        left.unlink()


def readable(size: int) -> str:
    """A number of bytes for people, such as "2273.4 MB"."""
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.1f} kB"


def _for_want_of_room(error: BaseException | None) -> bool:
    """Whether this error, or one that it arose from, says that nothing more can be written."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _NO_ROOM:
            return True
        error = error.__cause__ or error.__context__
    return False


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
    """Keep the folder for this process. The lock ends with the process, however it ends.

    Raises BusyError when another one has it, with what that one has written into the lock: its host, number and start.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("a+", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            holder = lock.read() or "which has not said who it is"
            raise BusyError(f"{folder} is in use by another run ({holder}); wait for it or stop it, then start again") from None
        now = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
        with suppress(OSError):  # the lock holds also where there is no room for a word
            lock.truncate(0)
            lock.write(f"process {os.getpid()} on {socket.gethostname()} since {now}")
            lock.flush()
        yield
