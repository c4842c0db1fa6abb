"""Unpack downloaded archives safely."""

from __future__ import annotations

import re
import shutil
import stat
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

from pd_ddpm.data.download.published import check_path
from pd_ddpm.runtime.files import atomic_write, format_bytes
from pd_ddpm.runtime.problem import Problem, ProblemError
from pd_ddpm.runtime.progress import progress

_CHUNK = 2**20
# Scans and masks are compressed to no less than this fraction. A bomb expands a thousandfold and more.
_MAX_EXPANSION = 200


def unpack(archives: Sequence[Path], folder: Path, members: str) -> int:
    """Unpack members of zip archives into a folder. Members that are there already, with the right checksum, are kept.

    Each file appears under its name only when it is complete, so an interrupted call can be repeated.

    Args:
        archives: the archives.
        folder: folder to unpack into.
        members: regular expression of the members that are unpacked.

    Returns:
        The number of members.

    Raises:
        ProblemError: an archive is damaged, has none of the members, would write outside of the folder or through a link,
            expands implausibly, or needs more room than there is.
    """
    count = 0
    for path in archives:
        try:
            with zipfile.ZipFile(path) as archive:
                wanted = [entry for entry in archive.infolist() if not entry.is_dir() and re.fullmatch(members, entry.filename)]
                _check_members(path, folder, wanted)
                missing = [entry for entry in wanted if not _is_unpacked(folder / entry.filename, entry)]
                _check_room(path, folder, missing)
                for entry in progress(missing, f"{path.name}: files", len(missing)):
                    _extract(archive, entry, folder / entry.filename)
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
            raise ProblemError(Problem(path, f"cannot be unpacked ({error})", "Delete it, and run again")) from error
        count += len(wanted)
    return count


def _extract(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, target: Path) -> None:
    with atomic_write(target, entry.file_size) as temporary, archive.open(entry) as content, temporary.open("wb") as output:
        shutil.copyfileobj(content, output, _CHUNK)


def _check_members(path: Path, folder: Path, entries: Sequence[zipfile.ZipInfo]) -> None:
    """Check the names and kinds of the members before anything is written."""
    remedy = "Do not use this archive"
    if not entries:
        raise ProblemError(Problem(path, "holds none of the files that are needed", "Check `doi` in the configuration"))
    root = folder.resolve()
    for entry in entries:
        try:
            check_path(entry.filename)
        except ValueError as error:
            raise ProblemError(Problem(path, str(error), remedy)) from error
        # The upper half holds the mode of Unix.
        kind = stat.S_IFMT(entry.external_attr >> 16)
        if kind not in (0, stat.S_IFREG):
            raise ProblemError(Problem(path, f"{entry.filename} is no regular file", remedy))
        # A link in the folder would lead a member out of it.
        if not (folder / entry.filename).resolve().is_relative_to(root):
            problem = f"{entry.filename} would be written through a link out of {folder}"
            raise ProblemError(Problem(path, problem, "Remove the link"))
    size, compressed = (sum(getattr(entry, name) for entry in entries) for name in ("file_size", "compress_size"))
    if size > _MAX_EXPANSION * compressed:
        raise ProblemError(Problem(path, f"would expand from {format_bytes(compressed)} to {format_bytes(size)}", remedy))


def _check_room(path: Path, folder: Path, entries: Sequence[zipfile.ZipInfo]) -> None:
    needed, free = sum(entry.file_size for entry in entries), shutil.disk_usage(folder).free
    if needed > free:
        problem = f"its files need {format_bytes(needed)}, but only {format_bytes(free)} are free"
        raise ProblemError(Problem(path, problem, "Free disk space"))


def _is_unpacked(target: Path, entry: zipfile.ZipInfo) -> bool:
    """Return whether a member is in the folder, with the archive's size and checksum."""
    if not target.is_file() or target.stat().st_size != entry.file_size:
        return False
    checksum = 0
    with target.open("rb") as content:
        while chunk := content.read(_CHUNK):
            checksum = zlib.crc32(chunk, checksum)
    return checksum == entry.CRC
