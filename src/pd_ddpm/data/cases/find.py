"""Find the cases of a dataset by its folder layout."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from pd_ddpm.data.cases.csv_table import read_case_table
from pd_ddpm.data.cases.wmh import find_wmh_cases, wmh_masks


def find_cases(dataset: str, settings: Mapping[str, Any]) -> pd.DataFrame:
    """The cases of an entry of the configuration's `datasets`, by its layout; raises CohortError or ValueError."""
    # Imported here, because this module is what they make their tables by.
    from pd_ddpm.data.cases.bids import find_bids_cases
    from pd_ddpm.data.cases.nnunet import find_nnunet_cases

    key, folder, channels = f"datasets.{dataset}", settings["folder"], settings["channels"]
    if settings["layout"] == "wmh_challenge":
        return find_wmh_cases(folder, channels, f"{key}.folder", settings.get("part", "training"))
    if settings["layout"] == "bids":
        return find_bids_cases(folder, channels, settings.get("masks"), settings.get("images"), key)
    if settings["layout"] == "nnunet":
        return find_nnunet_cases(folder, channels, key)
    return read_case_table(settings["table"], channels, folder)


def layout_of(folder: str | Path) -> str:
    """The layout of a folder, by what lies in it; raises ValueError if that is none of those that are known."""
    folder = Path(folder)
    if (folder / "dataset.json").is_file():
        return "nnunet"
    if (folder / "dataset_description.json").is_file() or any(path.is_dir() for path in folder.glob("sub-*")):
        return "bids"
    if (folder / "training").is_dir():
        return "wmh_challenge"
    raise ValueError(
        f"{folder}: is neither a raw data set of nnU-Net (dataset.json) nor a BIDS data set (dataset_description.json or "
        "sub-*/) nor the WMH challenge (training/); correct the path, or list the cases in a csv."
    )


def case_files(settings: Mapping[str, Any]) -> list[str]:
    """The files of a searched folder by which its cases are found: others among them are other cases. None of a csv."""
    from pd_ddpm.data.cases.bids import bids_files
    from pd_ddpm.data.cases.nnunet import nnunet_files

    folder = Path(settings["folder"])
    if settings["layout"] == "wmh_challenge":
        return sorted(map(str, wmh_masks(folder, settings.get("part", "training"))))
    if settings["layout"] == "bids":
        return bids_files(folder, settings.get("masks"))
    return nnunet_files(folder) if settings["layout"] == "nnunet" else []


def tables_of_cases(settings: Mapping[str, Any]) -> list[str]:
    """The files that say something of the cases beside the names of the scans: a csv, or what a layout has of its own."""
    if settings["layout"] == "table":
        return [settings["table"]]
    name = {"bids": "participants.tsv", "nnunet": "dataset.json"}.get(settings["layout"])
    return [str(path) for path in Path(settings["folder"]).glob(name)] if name else []
