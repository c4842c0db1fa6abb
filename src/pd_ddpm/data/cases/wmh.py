"""Find the cases of the WMH segmentation challenge."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pandas as pd

from pd_ddpm.data.cases.links import glob_through_links
from pd_ddpm.data.cases.table import (
    OBSERVERS,
    CohortError,
    clean_name,
    complete_table,
    duplicate_problems,
    raise_problems,
)
from pd_ddpm.runtime.missing_file import missing_file_problem, missing_folder_text
from pd_ddpm.runtime.problem import Problem

# Part of the WMH challenge -> the folder in which it is published.
PARTS = {"training": "training", "held_out": "test"}

# Images of a case that can serve as its T1, best first, each with the transform that it needs. Those in pre/ are corrected for
# the bias field, as the FLAIR in pre/ is. The challenge has resampled pre/T1.nii.gz onto the FLAIR.
_REGISTRATION = "orig/reg_3DT1_to_FLAIR.txt"
_T1_VERSIONS = (("pre/3DT1.nii.gz", _REGISTRATION), ("pre/T1.nii.gz", ""), ("orig/3DT1.nii.gz", _REGISTRATION))
_VERSIONS = {"pre/FLAIR.nii.gz", *(image for image, _ in _T1_VERSIONS)}

_HOW_TO_GET_WMH = (
    "Get the data of the WMH segmentation challenge from DataverseNL, doi:10.34894/AECRSD (licence CC BY-NC 4.0): let "
    "`snakemake` download them by accepting the licence in the config key `datasets.wmh.download`, or unpack `{part}/` (and "
    "`additional_annotations/`, for further observers) below that folder"
)


def wmh_masks(folder: str | Path, part: str = "training") -> Iterator[Path]:
    """Return the reference masks of one part of the WMH challenge, at any depth. There is one per case."""
    return glob_through_links(Path(folder) / PARTS[part], "**/wmh.nii.gz")


def find_wmh_cases(
    folder: str | Path, channels: Sequence[str] = ("FLAIR", "T1"), key: str = "dataset.folder", part: str = "training"
) -> pd.DataFrame:
    """Find the cases of one part of the WMH segmentation challenge.

    Sites lie at different depths, so cases are recognised by their wmh.nii.gz. T1 is the bias-corrected 3D scan on its own
    grid with the challenge's elastix transform, see `t1_version` for other choices. The further
    observers O3 and O4 are read from `additional_annotations/`, if they are there.

    Args:
        folder: folder that holds `training/`, `test/` or both.
        channels: names of the channels, FLAIR and T1 or one of them.
        key: config key that holds the folder, for messages.
        part: "training", or "held_out" for the challenge's `test/`. Only this part is searched.

    Returns:
        The case table.

    Raises:
        CohortError: there are no cases, or files are missing. It lists all of them.

    Reference: Kuijf et al. 2019; data at doi:10.34894/AECRSD.
    """
    folder = Path(folder)
    location = f"{key}: {folder}"
    masks = sorted(wmh_masks(folder, part), key=lambda path: _natural_order(path.parent))
    if not masks:
        problem = f"no wmh.nii.gz lies below its {PARTS[part]}/" if folder.is_dir() else missing_folder_text(folder)
        raise CohortError(Problem(location, problem, _HOW_TO_GET_WMH.format(part=PARTS[part])))
    if unknown := [channel for channel in channels if channel not in ("FLAIR", "T1")]:
        problem = f"the WMH challenge has the channels FLAIR and T1, not {', '.join(unknown)}"
        raise CohortError(Problem(location, problem, "Correct `channels`"))

    problems = []
    rows = []
    for mask in masks:
        source = mask.parent
        site = clean_name(source.parent.name)
        row = {"case": f"{site}-{clean_name(source.name)}", "site": site, "mask": str(mask)}
        if not mask.is_file():
            problems.append(missing_file_problem(mask))
            row["mask"] = ""
        for channel in channels:
            row[channel], row[f"{channel}_transform"] = _wmh_channel(source, channel)
            if not Path(row[channel]).is_file():
                problems.append(missing_file_problem(row[channel], "Unpack it from the archive of the challenge"))
                row[channel] = ""
        for column, observer in OBSERVERS.items():
            mask_path = folder / f"additional_annotations/observer_{observer}" / source.relative_to(folder) / "result.nii.gz"
            if mask_path.is_symlink() and not mask_path.is_file():
                problems.append(missing_file_problem(mask_path))
            row[column] = str(mask_path) if mask_path.is_file() else ""
        rows.append(row)
    problems += duplicate_problems([row["case"] for row in rows], list(map(str, masks)))
    table = complete_table(pd.DataFrame(rows), channels)
    raise_problems(location, problems, table)
    return table


def t1_version(is_available: Callable[[str], bool]) -> tuple[str, str]:
    """Return the image that serves as T1 of a case and the transform that it needs, "" for none.

    They are the first of these whose files are available: `pre/3DT1.nii.gz` with the challenge's transform, the resampled
    `pre/T1.nii.gz`, and `orig/3DT1.nii.gz` with the transform, whose bias field is not corrected. If none is, it is the second.

    Args:
        is_available: whether a file exists, named by its path in the folder of the case.
    """
    for image, transform in _T1_VERSIONS:
        if is_available(image) and (not transform or is_available(transform)):
            return image, transform
    return _T1_VERSIONS[1]


def image_versions(table: pd.DataFrame, channels: Sequence[str]) -> dict[str, dict[str, int]]:
    """Return which of the challenge's versions of an image the cases have: channel -> such as pre/3DT1.nii.gz -> cases.

    Other data have no versions, and their channels are left out.
    """
    versions = {}
    for channel in channels:
        counts = Counter("/".join(Path(path).parts[-2:]) for path in table[channel])
        if counts and counts.keys() <= _VERSIONS:
            versions[channel] = dict(counts.most_common())
    return versions


def _wmh_channel(source: Path, channel: str) -> tuple[str, str]:
    """Return the paths of a case's channel and of its transform, "" if it has none."""
    if channel != "T1":
        return str(source / "pre" / f"{channel}.nii.gz"), ""
    # A dangling link stands for an image whose content must be fetched, not for another version.
    image, transform = t1_version(lambda name: os.path.lexists(source / name))
    return str(source / image), str(source / transform) if transform else ""


def _natural_order(path: Path) -> list[tuple[int, int, str]]:
    parts = re.split(r"(\d+)", path.as_posix())
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in parts if part]
