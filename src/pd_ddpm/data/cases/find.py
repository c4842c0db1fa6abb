"""Find the cases of a dataset by its folder layout."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from pd_ddpm.data.cases.bids import PARTICIPANTS, bids_files, find_bids_cases
from pd_ddpm.data.cases.brats import WHOLE_TUMOUR, brats_files, find_brats_cases, is_brats
from pd_ddpm.data.cases.csv_table import read_case_table
from pd_ddpm.data.cases.imgx import (
    INSTITUTIONS,
    amos_files,
    find_amos_cases,
    find_muscle_cases,
    find_pelvic_cases,
    muscle_files,
    pelvic_files,
    tables_of_amos,
)
from pd_ddpm.data.cases.nnunet import find_nnunet_cases, nnunet_files
from pd_ddpm.data.cases.table import CohortError, raise_problems, site_problems
from pd_ddpm.data.cases.wmh import find_wmh_cases, wmh_masks
from pd_ddpm.data.label_maps import CLASSES_COLUMN, classes_to_text
from pd_ddpm.runtime.problem import Problem

_IMGX_FINDERS = {"muscle_us": find_muscle_cases, "amos": find_amos_cases, "male_pelvic": find_pelvic_cases}
_IMGX_FILES = {"muscle_us": muscle_files, "amos": amos_files, "male_pelvic": pelvic_files}


def find_cases(key: str, settings: Mapping[str, Any]) -> pd.DataFrame:
    """Find the cases of an entry of the configuration's `datasets` and return their case table.

    Args:
        key: key of the entry, for messages.
        settings: its settings.

    Raises:
        CohortError: cases are missing or incomplete, or spreadsheets would execute a site's name.
    """
    table = _find_in_layout(key, settings)
    raise_problems(key, site_problems(table["site"]), table)
    return table.assign(**{CLASSES_COLUMN: classes_to_text(classes)}) if (classes := settings.get("classes")) else table


def _find_in_layout(key: str, settings: Mapping[str, Any]) -> pd.DataFrame:
    folder, channels = settings["folder"], settings["channels"]
    if settings["layout"] == "wmh_challenge":
        return find_wmh_cases(folder, channels, f"{key}.folder", settings.get("part", "training"))
    if settings["layout"] == "bids":
        return find_bids_cases(folder, channels, settings.get("masks"), settings.get("images"), key)
    if settings["layout"] == "nnunet":
        return find_nnunet_cases(folder, channels, key, settings.get("classes"))
    if settings["layout"] == "brats":
        labels, roles = settings.get("lesion_labels", WHOLE_TUMOUR), settings.get("roles", "folds")
        return find_brats_cases(folder, channels, labels, roles, key)
    if find := _IMGX_FINDERS.get(settings["layout"]):
        return find(folder, channels, settings.get("roles", "folds"), key)
    return read_case_table(settings["table"], channels, folder)


def layout_of(folder: str | Path) -> str:
    """Recognise the layout of a folder by its content.

    Raises:
        CohortError: the folder has none of the known layouts.
    """
    folder = Path(folder)
    if any(list_files(folder) for list_files in _IMGX_FILES.values()):
        return next(layout for layout, list_files in _IMGX_FILES.items() if list_files(folder))
    if (folder / "dataset.json").is_file():
        return "nnunet"
    if is_bids(folder):
        return "bids"
    if (folder / "training").is_dir():
        return "wmh_challenge"
    if is_brats(folder):
        return "brats"
    raise CohortError(
        Problem(
            folder,
            "is neither a raw dataset of nnU-Net (dataset.json), nor a BIDS dataset (dataset_description.json or sub-*/), nor "
            "the WMH challenge (training/), nor BraTS (folders with {case}_flair.nii.gz, {case}_seg.nii.gz and so on), nor "
            "muscle ultrasound (trainannot/*.png), AMOS (amos22/dataset.json) or male pelvic MR (data/{case}_img.nii)",
            "Correct the path, or list the cases in a csv",
        )
    )


def is_bids(folder: Path) -> bool:
    """Return whether a folder looks like a BIDS dataset."""
    return (folder / "dataset_description.json").is_file() or any(path.is_dir() for path in folder.glob("sub-*"))


def case_files(settings: Mapping[str, Any]) -> list[str]:
    """Return the files by which the cases of a folder are found. If they change, so do the cases. A csv has none."""
    folder = Path(settings["folder"])
    if settings["layout"] == "wmh_challenge":
        return sorted(map(str, wmh_masks(folder, settings.get("part", "training"))))
    if settings["layout"] == "bids":
        return bids_files(folder, settings.get("masks"))
    if settings["layout"] == "brats":
        return brats_files(folder)
    if list_files := _IMGX_FILES.get(settings["layout"]):
        return list_files(folder)
    return nnunet_files(folder) if settings["layout"] == "nnunet" else []


def tables_of_cases(settings: Mapping[str, Any]) -> list[str]:
    """Return the files that describe the cases: the csv, or the description file of the layout."""
    if settings["layout"] == "table":
        return [settings["table"]]
    if settings["layout"] == "amos":
        return tables_of_amos(settings["folder"])
    names = {"bids": PARTICIPANTS, "nnunet": "dataset.json", "male_pelvic": INSTITUTIONS}
    name = names.get(settings["layout"])
    return [str(path) for path in Path(settings["folder"]).glob(name)] if name else []
