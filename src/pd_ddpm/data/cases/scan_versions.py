"""Versions of the scans of a case table, so that a changed scan re-runs everything that depends on it.

Snakemake compares the times of a rule's inputs, but the scans are no inputs. Their paths are unknown until the cases are
listed, and raw scans may be archived after their preparation. `scans.json` lists them instead. Each start of
Snakemake updates it.
"""

from collections.abc import Mapping
from os import utime
from pathlib import Path
from typing import Any

import pandas as pd

from pd_ddpm.runtime.files import file_sha256
from pd_ddpm.runtime.sealed import read_sealed_json, write_sealed_json

_NO_FILES = ("case", "patient", "site", "role", "fold", "lesion_labels", "classes")


def write_scan_versions(table: pd.DataFrame, path: str | Path) -> None:
    """Write size, times and SHA-256 of each file of a case table as JSON."""
    cells = table.drop(columns=[name for name in _NO_FILES if name in table])
    files = sorted({str(file) for file in cells.to_numpy().ravel() if file})
    write_sealed_json(path, {file: _version(Path(file)) for file in files})


def update_scan_versions(path: Path) -> list[str]:
    """Update the list of versions, and return the files whose content has changed.

    The time of the list changes only if the content of a file has. A file that does not exist keeps its version.

    Args:
        path: the list, which may not exist yet.

    Raises:
        DamagedFileError: the list itself was changed.
    """
    if not path.exists():
        return []
    before = read_sealed_json(path)
    after = before | {file: _version(Path(file)) for file, version in before.items() if _is_touched(Path(file), version)}
    changed = [file for file in before if before[file]["sha256"] != after[file]["sha256"]]
    if before != after:
        status = path.stat()
        write_sealed_json(path, after)
        if not changed:
            utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    return changed


def _version(file: Path) -> dict[str, Any]:
    return {**_size_and_times(file), "sha256": file_sha256(file)}


def _size_and_times(file: Path) -> dict[str, int]:
    """Return size and times of a file. Programs can set back the modification time, but not the change time."""
    status = file.stat()
    return {"size": status.st_size, "mtime_ns": status.st_mtime_ns, "ctime_ns": status.st_ctime_ns}


def _is_touched(file: Path, version: Mapping[str, Any]) -> bool:
    """Return whether size or times of an existing file differ from its version."""
    try:
        return not _size_and_times(file).items() <= version.items()
    except OSError:
        return False
