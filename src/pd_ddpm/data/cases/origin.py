"""Origin of a dataset's scans: simulated or downloaded by the workflow, or provided by the user."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pd_ddpm.data.cases.find import case_files
from pd_ddpm.data.download.published import LISTING_NAMES, RECORD_NAME


def is_downloaded(source: Mapping[str, Any]) -> bool:
    """Return whether the workflow downloads a dataset: its folder has no scans yet, or its download has begun.

    The workflow leaves scans alone that the user has put into the folder.
    """
    if not source.get("download"):
        return False
    folder = Path(source["folder"])
    has_begun = any((folder / name).is_file() for name in (*LISTING_NAMES.values(), RECORD_NAME))
    return has_begun or not case_files(source)


def completion_files(source: Mapping[str, Any]) -> list[str]:
    """Return the file that is written after the last scan; none if the user provides the scans."""
    if "simulate" in source:
        return [f"{source['folder']}/simulated.json"]
    return [f"{source['folder']}/downloaded.json"] if is_downloaded(source) else []


def user_files(source: Mapping[str, Any]) -> list[str]:
    """Return the files by which the cases of a user's folder are recognised; none if the workflow writes the scans."""
    return [] if completion_files(source) else case_files(source)
