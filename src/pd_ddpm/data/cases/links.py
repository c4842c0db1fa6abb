"""Find files below folders that may be symbolic links, as on shared disks and in datalad datasets."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path


def glob_through_links(folder: str | Path, pattern: str) -> Iterator[Path]:
    """Yield the files below a folder whose relative path matches a glob; `**` also descends into linked folders.

    pathlib does not descend into them before Python 3.13. A link to one of its own parent folders is not followed.

    Args:
        folder: folder to search; nothing is yielded if it does not exist.
        pattern: glob relative to the folder, such as `**/wmh.nii.gz`.
    """
    yield from (path for path in _files_below(Path(folder), frozenset()) if is_match(path.relative_to(folder), pattern))


def is_match(path: Path, pattern: str) -> bool:
    """Return whether a relative path matches a glob such as `**/wmh.nii.gz`."""
    return _is_match(path.parts, pattern.split("/"))


def _files_below(folder: Path, parents: frozenset[str]) -> Iterator[Path]:
    """Yield all files and dangling links below a folder, in the order of their names."""
    real = os.path.realpath(folder)
    if real in parents:
        return
    try:
        paths = sorted(folder.iterdir())
    except OSError:
        return
    for path in paths:
        if path.is_dir():
            yield from _files_below(path, parents | {real})
        else:
            yield path


def _is_match(parts: Sequence[str], patterns: Sequence[str]) -> bool:
    if not patterns:
        return not parts
    if patterns[0] == "**":
        return any(_is_match(parts[skipped:], patterns[1:]) for skipped in range(len(parts) + 1))
    return bool(parts) and fnmatchcase(parts[0], patterns[0]) and _is_match(parts[1:], patterns[1:])
