"""Writing predictions in another format into a folder that holds nothing else."""

import json
from pathlib import Path
from typing import Any

from pd_ddpm.data.nifti.write import write_image
from pd_ddpm.deployment.formats.layout import Layout
from pd_ddpm.deployment.formats.predictions import Predictions
from pd_ddpm.runtime.files import write_json
from pd_ddpm.runtime.progress import progress

# What a folder was made from, and its files. Hidden, because validators and evaluations list the others.
RECORD = ".pd-ddpm.json"


def convert(predictions: Predictions, layout: Layout, folder: Path, kind: str) -> None:
    """Write the files of a layout, images on the grids of their scans; kind: the format's name.

    Each file is whole or not there, so that a conversion that was broken off can be repeated. Files of an earlier one that
    are no longer part of it are removed; hidden files are left alone.

    Raises ValueError if the folder holds other files or another conversion, ImageError for images that cannot be used.
    """
    made = {"format": kind, "dataset": predictions.dataset, "method": predictions.method, "seed": predictions.seed}
    _claim(folder, made, layout.files())
    for prediction in progress(predictions.cases, f"{predictions.method} to {kind}"):
        grid = prediction.grid()
        for name, part in layout.images[prediction.case].items():
            array = prediction.array(part)
            write_image(folder / name, grid.turned(array), grid.template, array.dtype)
    for name, content in layout.documents.items():
        write_json(folder / name, content)


def _claim(folder: Path, made: dict[str, Any], files: set[str]) -> None:
    """Make sure that the folder may be written to, remove what is out of date, and note what is about to be written."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder}: is a file; name a folder.")
    record = _read_record(folder / RECORD)
    if record and record["made"] != made:
        earlier = " ".join(f"{key} {value}," for key, value in record["made"].items()).rstrip(",")
        raise ValueError(f"{folder}: holds another conversion ({earlier}); name another folder, or remove this one.")
    ours = set(record["files"]) if record else set()
    if foreign := sorted(_visible_files(folder) - ours):
        raise ValueError(
            f"{folder}: holds {len(foreign)} file(s) that no conversion has written, such as {foreign[0]}; name a new or empty "
            "folder, or move them away."
        )
    for name in ours - files:
        _remove(folder, folder / name)
    write_json(folder / RECORD, {"made": made, "files": sorted(files)})


def _read_record(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return {"made": record["made"], "files": record["files"]}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: is damaged; remove the folder, or name another one.") from error


def _visible_files(folder: Path) -> set[str]:
    paths = (path.relative_to(folder) for path in folder.rglob("*") if not path.is_dir())
    return {path.as_posix() for path in paths if not any(part.startswith(".") for part in path.parts)}


def _remove(folder: Path, path: Path) -> None:
    """Remove a file, and the folders that it leaves empty."""
    path.unlink(missing_ok=True)
    for parent in path.parents:
        if parent == folder or not parent.is_dir() or any(parent.iterdir()):
            return
        parent.rmdir()
