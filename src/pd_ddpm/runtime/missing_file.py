"""Explain why a path holds no content: missing files, dangling links, and pointers of git-annex and Git LFS.

Datasets are often distributed with DataLad or git-annex. A clone then holds links or small text files until their content is
fetched.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from pd_ddpm.runtime.problem import Problem

# A pointer of git-annex names the object, "/annex/objects/MD5E-s1--0.nii.gz". A link that was stored as text names its target.
_ANNEX = re.compile(rb"\s*\S*/annex/objects/\S+")
_LFS = b"version https://git-lfs"


def missing_file_problem(path: str | Path, remedy: str = "Correct the path or fetch the file") -> Problem:
    """Return why a path is not a file.

    Args:
        path: a path for which `Path.is_file` is false.
        remedy: what to do if the path does not exist at all.
    """
    path = Path(path)
    if path.is_dir():
        return Problem(path, "is a folder, but a file is needed", "Enter the file in it")
    link = _dangling_link(path)
    if link is None:
        return Problem(path, "the file does not exist", remedy)
    target = os.readlink(link)
    if "annex/objects" in target:
        return Problem(path, "its content has not been fetched (a link of git-annex)", _fetch(path))
    subject = "is" if link == path else f"{link} is"
    return Problem(path, f"{subject} a link to a missing file ({target})", "Fetch the target, or correct the link")


def missing_folder_text(path: str | Path) -> str:
    """Return why a path is not a folder, such as a link to a disk that is not mounted."""
    if Path(path).exists():
        return "it is a file, but a folder is needed"
    link = _dangling_link(Path(path))
    return "the folder does not exist" if link is None else f"{link} is a link to a missing folder ({os.readlink(link)})"


def _dangling_link(path: Path) -> Path | None:
    """Return the path, or that of its parents, which is a link to nothing; None if there is none."""
    return next((link for link in (path, *path.parents) if link.is_symlink() and not link.exists()), None)


def pointer_problem(path: str | Path, start: bytes) -> Problem | None:
    """Return which content a file stands for that has not been fetched, or None if it is no pointer.

    Args:
        path: the file.
        start: its first bytes, 100 or more.
    """
    if start.startswith(_LFS):
        return Problem(path, "is a Git LFS pointer, so its content has not been fetched", "Run `git lfs pull`")
    if _ANNEX.match(start):
        return Problem(path, "is a pointer of git-annex, so its content has not been fetched", _fetch(path))
    return None


def _fetch(path: str | Path) -> str:
    return f"Run `datalad get {path}` or `git annex get {path}`"
