"""Find scans without masks, which are to be segmented: in a csv, a BIDS dataset, or a folder."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import pandas as pd

from pd_ddpm.data.cases.bids import find_bids_cases, has_bids_masks
from pd_ddpm.data.cases.csv_table import read_case_table
from pd_ddpm.data.cases.find import is_bids, layout_of
from pd_ddpm.data.cases.links import glob_through_links
from pd_ddpm.data.cases.table import (
    WEIGHTED,
    CohortError,
    clean_name,
    complete_table,
    duplicate_problems,
    raise_problems,
    read_cells,
)
from pd_ddpm.runtime.missing_file import missing_file_problem, missing_folder_text
from pd_ddpm.runtime.problem import Problem

_MAX_INSPECTED = 100  # files that are searched for DICOM


def find_scans(source: Path, channels: Sequence[str], folder: Path | None = None) -> pd.DataFrame:
    """Find scans, whether or not they have masks.

    In a folder that is no BIDS dataset, the files of a scan lie in one folder and are called after their channels, as in
    `{case}/FLAIR.nii.gz`, or begin alike, as in `{case}_FLAIR.nii.gz`. T1, T2 and PD also match T1w, T2w and PDw.

    Args:
        source: a csv with the columns case and one per channel, or a folder.
        channels: names of the channels; the first defines the grid.
        folder: csv: where relative paths start; None is the folder of the csv.

    Returns:
        The case table; its column `mask` is empty.

    Raises:
        CohortError: there are no scans, or some lack a channel. It names all of them.
    """
    if not source.is_dir():
        return read_case_table(source, channels, folder, with_masks=False)
    if is_bids(source):
        return find_bids_cases(source, channels, key=str(source), with_masks=False)
    return _find_in_folder(source, channels)


def has_masks(source: Path) -> bool:
    """Return whether a csv or a folder holds masks, so that it can be trained on."""
    if not source.is_dir():
        return "mask" in read_cells(source)
    try:
        return layout_of(source) != "bids" or has_bids_masks(source)
    except CohortError:
        return False


def _find_in_folder(folder: Path, channels: Sequence[str]) -> pd.DataFrame:
    """Return the case table of a folder with one subfolder or one beginning of names for each scan."""
    if not folder.is_dir():
        raise CohortError(Problem(folder, missing_folder_text(folder), "Correct the path"))
    suffixes = {name.lower(): channel for channel in channels for name in (channel, WEIGHTED.get(channel, channel))}
    name_of_file = re.compile(rf"(?P<stem>.+_)?(?P<suffix>{'|'.join(suffixes)})\.nii(\.gz)?", re.IGNORECASE)
    scans: dict[tuple[Path, str], dict[str, list[Path]]] = defaultdict(lambda: defaultdict(list))
    for path in glob_through_links(folder, "**/*"):
        if match := name_of_file.fullmatch(path.name):
            channel = suffixes[match["suffix"].lower()]
            scans[path.parent, match["stem"] or ""][channel].append(path)
    if not scans:
        raise CohortError(_absence_problem(folder, channels[0]))
    problems, rows, places = [], [], []
    for (parent, stem), files in sorted(scans.items()):
        name = clean_name("_".join([*parent.relative_to(folder).parts, stem])) or clean_name(folder.absolute().name)
        row = {"case": name, "site": "unknown"}
        for channel in channels:
            problem = _file_problem(parent, stem, channel, files[channel])
            problems += [problem.within(f"scan {name}")] if problem else []
            row[channel] = "" if problem else str(files[channel][0])
        rows.append(row)
        places.append(f"{parent}/{stem}")
    table = complete_table(pd.DataFrame(rows), channels)
    raise_problems(str(folder), [*problems, *duplicate_problems([row["case"] for row in rows], places)], table)
    return table


def _absence_problem(folder: Path, first: str) -> Problem:
    """Return what a folder without scans holds instead."""
    some = islice(glob_through_links(folder, "**/*"), _MAX_INSPECTED)
    if dicom := next((path for path in some if _is_dicom(path)), None):
        problem = f"it holds DICOM files, such as {dicom.relative_to(folder)}, not NIfTI"
        return Problem(folder, problem, f"Convert each series with `dcm2niix -z y`, and name the files as CASE_{first}.nii.gz")
    problem = (
        "holds neither a raw dataset of nnU-Net (dataset.json), nor a BIDS dataset (dataset_description.json or sub-*/), nor "
        f"the WMH challenge (training/), nor scans without masks, such as {first}.nii.gz or CASE_{first}.nii.gz"
    )
    return Problem(folder, problem, "Correct the path or the names, or list the cases in a csv")


def _is_dicom(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def _file_problem(parent: Path, stem: str, channel: str, files: Sequence[Path]) -> Problem | None:
    """Return what is wrong with the files of a channel, or None if there is exactly one and it exists."""
    if not files:
        return Problem(parent, f"there is no {channel}", f"Add {stem}{channel}.nii.gz, or list the scans in a csv")
    if len(files) > 1:
        listed = ", ".join(path.name for path in files)
        return Problem(parent, f"{len(files)} files could be its {channel}: {listed}", "Remove all but one")
    return None if files[0].is_file() else missing_file_problem(files[0])
