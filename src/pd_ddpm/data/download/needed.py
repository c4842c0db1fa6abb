"""Which published files each layout reads, and what is unpacked of archives."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from pd_ddpm.data.cases.table import OBSERVERS
from pd_ddpm.data.cases.wmh import PARTS, t1_version
from pd_ddpm.data.download.published import Listing, PublishedFile
from pd_ddpm.runtime.problem import Problem, ProblemError


@dataclass(frozen=True)
class ArchivedData:
    """How a data set is published as archives.

    Attributes:
        files: regular expression of the published files that are needed.
        members: regular expression of the members of archives that are needed.
        example: name of a needed file, for messages.
    """

    files: str
    members: str
    example: str


# Layout -> archives. The WMH challenge is published file by file.
ARCHIVED = {
    "muscle_us": ArchivedData(r"[^/]+\.zip", r"(?:.*/)?(?:train|val|test)(?:annot)?/[^/]+\.png", "*.zip"),
    "amos": ArchivedData(r"amos22\.zip", r"amos22/(?:dataset\.json|(?:images|labels)(?:Tr|Va)/[^/]+)", "amos22.zip"),
    "male_pelvic": ArchivedData(r"(?:data\.zip|institution\.txt)", r"data/[^/]+_(?:img|mask)\.nii", "data.zip"),
}


@dataclass(frozen=True)
class Marker:
    """The files by which the copy of a dataset is recognised.

    Attributes:
        pattern: regular expression of such a file, below the folder in its first group.
        name: what these files are called in messages.
        folder: what several of them have in common in messages.
        remedy: what to do if none exists.
    """

    pattern: str
    name: str
    folder: str
    remedy: str


def marker_of(layout: str, part: str) -> Marker:
    """Return the files by which a copy of a dataset is recognised.

    Args:
        layout: layout of the dataset.
        part: part of the WMH challenge, "training" or "held_out".
    """
    if layout in ARCHIVED:
        archived = ARCHIVED[layout]
        remedy = "Set it to the folder with the published files, or to the archive"
        return Marker(rf"((?:[^/]+/)*?){archived.files}$", archived.example, f"with {archived.example}", remedy)
    folder = PARTS[part]
    return Marker(
        rf"((?:[^/]+/)*?){folder}/(?:.+/)?wmh\.nii\.gz$",
        f"{folder}/.../wmh.nii.gz",
        f"{folder}/",
        "Set it to the folder or zip file of the WMH challenge's data",
    )


def select_files(listing: Listing, selection: str, layout: str, part: str) -> list[PublishedFile]:
    """Return the files to obtain.

    Args:
        listing: all published files.
        selection: "needed" or "all".
        layout: layout of the dataset.
        part: part of the WMH challenge, "training" or "held_out".

    Raises:
        ProblemError: no file is needed.
    """
    if selection == "all":
        files = list(listing.files)
    elif layout in ARCHIVED:
        files = [file for file in listing.files if re.fullmatch(ARCHIVED[layout].files, file.path)]
    else:
        by_path = {file.path: file for file in listing.files}
        files = [by_path[path] for path in _paths_needed_for_wmh(by_path, PARTS[part])]
    if files:
        return files
    if layout in ARCHIVED:
        wanted = f"the file {ARCHIVED[layout].example}"
    else:
        wanted = f"a case of the WMH challenge's {PARTS[part]}/ ({PARTS[part]}/.../wmh.nii.gz)"
    raise ProblemError(
        Problem(
            f"doi:{listing.doi}, version {listing.version}" if listing.version else f"doi:{listing.doi}",
            f"none of its {len(listing.files)} files is {wanted}",
            "Check `doi` and `version` in the configuration, or set `files` to all",
        )
    )


def members_of_archives(files: Sequence[PublishedFile], selection: str, layout: str) -> tuple[list[str], str]:
    """Return the archives among published files, and the regular expression of the members that are unpacked."""
    if layout not in ARCHIVED:
        return [], ""
    archives = [file.path for file in files if file.path.endswith(".zip")]
    return archives, ".*" if selection == "all" else ARCHIVED[layout].members


def _paths_needed_for_wmh(paths: Collection[str], part: str) -> list[str]:
    """Return the paths that the layout `wmh_challenge` reads, see `pd_ddpm.data.cases.wmh.find_wmh_cases`.

    These are neither cases of the other part, nor further versions of a scan.

    Args:
        paths: all published paths.
        part: "training" or "test".
    """
    published = set(paths)
    needed = []
    for mask in sorted(path for path in published if path.startswith(f"{part}/") and path.endswith("/wmh.nii.gz")):
        case = mask.removesuffix("/wmh.nii.gz")
        t1 = [f"{case}/{name}" for name in t1_version(lambda name, case=case: f"{case}/{name}" in published) if name]
        observers = [f"additional_annotations/observer_{name}/{case}/result.nii.gz" for name in OBSERVERS.values()]
        needed += [f"{case}/pre/FLAIR.nii.gz", *t1, mask, *observers]
    return [path for path in needed if path in published]
