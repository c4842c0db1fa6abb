"""Sealed files: written atomically, next to a hidden file with their SHA-256, which every reader compares.

The seal of `table.csv` is `.table.csv.sha256`, in the format of `sha256sum --check`. A flipped bit in a table would otherwise
change a number without any error. A file without a seal is read as it is, since users and earlier versions write none.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pd_ddpm.runtime.files import atomic_write, file_sha256
from pd_ddpm.runtime.problem import Problem, ProblemError

_REMEDY = "Delete it and run `snakemake` again, which writes it again"


class DamagedFileError(ProblemError):
    """Raised if the content of a file is no longer what was written."""


def seal_path(path: str | Path) -> Path:
    """Return the path of a file's seal."""
    path = Path(path)
    return path.with_name(f".{path.name}.sha256")


@contextmanager
def sealed_write(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path; if the block ends without an error, seal the file and rename it to `path`.

    Raises:
        DiskFullError: see `atomic_write`.
    """
    path = Path(path)
    with atomic_write(path) as temporary:
        yield temporary
        # The seal comes first, so that no killed process leaves a file without one.
        _write_seal(path, file_sha256(temporary))


def seal(path: Path) -> None:
    """Write the seal of a finished file."""
    _write_seal(path, file_sha256(path))


def seal_foreign_files(folder: Path, pattern: str) -> None:
    """Seal the files of a folder that another program has written since they were sealed.

    Args:
        folder: the folder, which may not exist.
        pattern: glob of the files' names.
    """
    for path in folder.rglob(pattern):
        if not _has_current_seal(path):
            seal(path)


def read_foreign(path: Path) -> bytes:
    """Read a file of `seal_foreign_files`, and compare it with its seal unless it was written after it.

    Raises:
        DamagedFileError: file and seal differ.
        FileNotFoundError: the file does not exist.
    """
    return read_sealed(path) if _has_current_seal(path) else path.read_bytes()


def check_seal(path: Path) -> None:
    """Compare a file with its seal if it has one, without reading it into memory.

    Raises:
        DamagedFileError: file and seal differ.
        FileNotFoundError: the file does not exist.
    """
    _compare(path, file_sha256(path))


def read_sealed(path: str | Path) -> bytes:
    """Read a file, and compare it with its seal if it has one.

    Raises:
        DamagedFileError: file and seal differ.
        FileNotFoundError: the file does not exist.
    """
    path = Path(path)
    content = path.read_bytes()
    _compare(path, hashlib.sha256(content).hexdigest())
    return content


def copy_sealed(source: str | Path, target: str | Path) -> None:
    """Copy a file and seal the copy.

    Raises:
        DamagedFileError: the source differs from its seal.
    """
    content = read_sealed(source)
    with sealed_write(target) as temporary:
        temporary.write_bytes(content)


def write_sealed_json(path: str | Path, content: Any) -> None:
    """Write indented JSON and its seal."""
    with sealed_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def read_sealed_json(path: str | Path) -> Any:
    """Read JSON, and compare it with its seal if it has one.

    Raises:
        DamagedFileError: file and seal differ, or the file is not JSON.
        FileNotFoundError: the file does not exist.
    """
    content = read_sealed(path)
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        problem = f"it is not JSON ({error})"
        raise DamagedFileError(Problem(path, problem, _REMEDY)) from error


def _has_current_seal(path: Path) -> bool:
    stored = seal_path(path)
    return stored.exists() and stored.stat().st_mtime_ns >= path.stat().st_mtime_ns


def _write_seal(path: Path, sha256: str) -> None:
    with atomic_write(seal_path(path)) as temporary:
        temporary.write_bytes(_seal_content(path, sha256))


def _compare(path: Path, sha256: str) -> None:
    """Raise DamagedFileError if a file has a seal that does not hold this hash."""
    stored = seal_path(path)
    if stored.exists() and stored.read_bytes() != _seal_content(path, sha256):
        problem = f"it was changed or damaged after it was written: its SHA-256 differs from that in {stored.name}"
        raise DamagedFileError(Problem(path, problem, _REMEDY))


def _seal_content(path: Path, sha256: str) -> bytes:
    return f"{sha256}  {path.name}\n".encode()
