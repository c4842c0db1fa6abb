"""Cases of the WMH segmentation challenge."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

from pd_ddpm.data.cases.table import OBSERVERS, as_table, clean_name, duplicates, raise_all

# The parts of the WMH challenge, and the folders in which they are published.
PARTS = {"training": "training", "held_out": "test"}

_HOW_TO_GET_WMH = (
    "The data of the WMH segmentation challenge are at DataverseNL, doi:10.34894/AECRSD (licence CC BY-NC 4.0): `snakemake` "
    "fetches them where the config key datasets.wmh.download accepts the licence, or unpack `{part}/` (and "
    "`additional_annotations/`, for further observers) below that folder."
)


def wmh_masks(folder: str | Path, part: str = "training") -> Iterator[Path]:
    """The reference masks of one part of the WMH challenge, by which its cases are recognised, at any depth."""
    return Path(folder).glob(f"{PARTS[part]}/**/wmh.nii.gz")


def find_wmh_cases(
    folder: str | Path, channels: Sequence[str] = ("FLAIR", "T1"), key: str = "dataset.folder", part: str = "training"
) -> pd.DataFrame:
    """Find the cases of one part of the WMH segmentation challenge (doi:10.34894/AECRSD) below `folder`.

    part: "training", or "held_out", the challenge's `test/`. Only this part's folder is searched. Sites lie at different
    depths, so cases are recognised by their wmh.nii.gz. T1 is the defaced 3D scan on its own grid with the challenge's
    elastix transform, or, where either is missing, the T1 that the challenge has resampled. The further observers are O3
    and O4, where `additional_annotations/` has them.

    Raises ValueError, naming the config key that held the folder, if there are no cases, and CohortError with all missing
    files.
    """
    folder = Path(folder)
    masks = sorted(wmh_masks(folder, part), key=lambda path: _natural_order(path.parent))
    if not masks:
        finding = "there is no such folder" if not folder.is_dir() else f"no wmh.nii.gz lies below its {PARTS[part]}/"
        raise ValueError(f"{key}: {folder}: {finding}. {_HOW_TO_GET_WMH.format(part=PARTS[part])}")
    if unknown := [channel for channel in channels if channel not in ("FLAIR", "T1")]:
        raise ValueError(f"{key}: {folder}: the WMH challenge has the channels FLAIR and T1, not {', '.join(unknown)}.")

    problems = []
    rows = []
    for mask in masks:
        source = mask.parent
        site = clean_name(source.parent.name)
        row = {"case": f"{site}-{clean_name(source.name)}", "site": site, "mask": str(mask)}
        for channel in channels:
            row[channel], row[f"{channel}_transform"] = _wmh_channel(source, channel)
            if not Path(row[channel]).is_file():
                problems.append(f"{row[channel]}: there is no such file; unpack it from the challenge's archive.")
                row[channel] = ""
        for column, observer in OBSERVERS.items():
            drawn = folder / f"additional_annotations/observer_{observer}" / source.relative_to(folder) / "result.nii.gz"
            row[column] = str(drawn) if drawn.is_file() else ""
        rows.append(row)
    problems += duplicates([row["case"] for row in rows], [row["mask"] for row in rows])
    table = as_table(pd.DataFrame(rows), channels)
    raise_all(f"{key}: {folder}", problems, table)
    return table


def _wmh_channel(source: Path, channel: str) -> tuple[str, str]:
    if channel == "T1":
        image, transform = source / "orig/3DT1.nii.gz", source / "orig/reg_3DT1_to_FLAIR.txt"
        if image.is_file() and transform.is_file():
            return str(image), str(transform)
    return str(source / "pre" / f"{channel}.nii.gz"), ""


def _natural_order(path: Path) -> list[tuple[int, int, str]]:
    parts = re.split(r"(\d+)", path.as_posix())
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in parts if part]
