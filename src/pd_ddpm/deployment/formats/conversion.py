"""Write predictions in another format to a folder that holds nothing else."""

import json
from pathlib import Path
from typing import Any

from pd_ddpm.data.nifti.write import write_image
from pd_ddpm.deployment.formats.errors import ConversionError
from pd_ddpm.deployment.formats.layout import Layout
from pd_ddpm.deployment.formats.predictions import Predictions
from pd_ddpm.runtime.files import atomic_write, write_json
from pd_ddpm.runtime.problem import Problem
from pd_ddpm.runtime.progress import progress

# Record of a conversion: its source and its files. It is hidden, so that validators and evaluation scripts ignore it.
RECORD = ".pd-ddpm.json"


def convert(predictions: Predictions, layout: Layout, folder: Path, format_name: str) -> None:
    """Write the files of a layout, with images on the grids of their scans.

    Each file is written atomically, so an interrupted conversion can be repeated. Files of an earlier run that no longer
    belong to the conversion are removed. Hidden files are not touched.

    Args:
        predictions: the predictions.
        layout: the files to write.
        folder: output folder.
        format_name: name of the format.

    Raises:
        ConversionError: the folder holds other files or another conversion.
        ImageError: an image cannot be used.
    """
    source = {
        "format": format_name,
        "dataset": predictions.dataset,
        "method": predictions.method,
        "seed": predictions.seed,
    }
    _claim_folder(folder, source, layout.files())
    for prediction in progress(predictions.cases, f"{predictions.method} to {format_name}"):
        grid = prediction.grid()
        for name, part in layout.images[prediction.case].items():
            array = prediction.array(part)
            write_image(folder / name, grid.reorient(array), grid.reference, array.dtype)
    for name, content in layout.documents.items():
        write_json(folder / name, content)
    for name, text in layout.tables.items():
        with atomic_write(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")


def _claim_folder(folder: Path, source: dict[str, Any], files: set[str]) -> None:
    """Check that the folder can be written to, remove outdated files, and record the files that will be written."""
    if folder.exists() and not folder.is_dir():
        raise ConversionError(Problem(folder, "it is a file", "Give a folder"))
    record = _read_record(folder / RECORD)
    if record and record["made"] != source:
        existing = ", ".join(f"{key} {value}" for key, value in record["made"].items())
        problem = f"it holds another conversion ({existing})"
        raise ConversionError(Problem(folder, problem, "Choose another folder, or remove this one"))
    recorded = set(record["files"]) if record else set()
    if foreign := sorted(_visible_files(folder) - recorded):
        problem = f"it holds {len(foreign)} file(s) that are not part of a conversion, such as {foreign[0]}"
        raise ConversionError(Problem(folder, problem, "Choose a new or empty folder, or move these files"))
    for name in recorded - files:
        _remove(folder, folder / name)
    write_json(folder / RECORD, {"made": source, "files": sorted(files)})


def _read_record(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return {"made": record["made"], "files": record["files"]}
    except (ValueError, KeyError, TypeError) as error:
        problem = Problem(path, "it is damaged", "Remove the folder, or choose another one")
        raise ConversionError(problem) from error


def _visible_files(folder: Path) -> set[str]:
    paths = (path.relative_to(folder) for path in folder.rglob("*") if not path.is_dir())
    return {path.as_posix() for path in paths if not any(part.startswith(".") for part in path.parts)}


def _remove(folder: Path, path: Path) -> None:
    """Remove a file, and its parents within the folder if they are empty then."""
    path.unlink(missing_ok=True)
    for parent in path.parents:
        if parent == folder or not parent.is_dir() or any(parent.iterdir()):
            return
        parent.rmdir()
