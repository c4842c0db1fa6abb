"""Preprocess cases: resample, mask the brain, normalise, store."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
from nibabel.orientations import apply_orientation, io_orientation
from scipy import ndimage

from pd_ddpm.data.cases.brats import label_recoding
from pd_ddpm.data.cases.table import OBSERVERS
from pd_ddpm.data.label_maps import CLASSES_COLUMN, parse_classes
from pd_ddpm.data.nifti.geometry import GRID_TOLERANCE_VOXELS, ImageError, check_same_grid, reorient, spacing_mm
from pd_ddpm.data.nifti.read import read_image, read_labels
from pd_ddpm.data.nifti.write import write_image
from pd_ddpm.data.preparation.frame import OWN_GRID, Frame
from pd_ddpm.data.preparation.normalise import read_normalised
from pd_ddpm.runtime.code_version import code_version
from pd_ddpm.runtime.files import (
    file_sha256,
    fingerprint,
    read_completion_record,
    remove_partial_files,
    write_completion_record,
)
from pd_ddpm.runtime.memory import is_shortage
from pd_ddpm.runtime.missing_file import missing_file_problem
from pd_ddpm.runtime.problem import Problem, ProblemError, problems_of
from pd_ddpm.runtime.process_pool import in_processes

_FRAME_KEYS = {field.name for field in fields(Frame)}


def voxel_hash(volume: np.ndarray, affine: np.ndarray) -> str:
    """Return a hash of an image's voxels as float32 in RAS order. Files with equal hashes hold the same scan.

    volume and affine: (X, Y, Z), in any order and direction of its axes, and (4, 4), which gives them.
    """
    turned = apply_orientation(volume, io_orientation(affine))
    # NIfTI stores X fastest, so the transpose is mostly contiguous. Outliers may exceed float32 and become infinite.
    with np.errstate(over="ignore"):
        return hashlib.sha256(np.ascontiguousarray(turned.T, dtype=np.float32)).hexdigest()


def prepare_case(
    case: Mapping,
    channels: Sequence[str],
    output_folder: str | Path,
    *,
    frame: Frame = OWN_GRID,
    grid_tolerance_voxels: float = GRID_TOLERANCE_VOXELS,
    **reading: Any,
) -> dict:
    """Preprocess one case and return its row of the manifest. A case that is complete and up to date is skipped.

    Writes these files, all on the grid of the first channel, or on that of `frame`:

    * `{case}_image.nii.gz`: (X, Y, Z, M) float32, see `read_normalised`
    * `{case}_mask.nii.gz`: (X, Y, Z) uint8, labels 0, 1, 2, or those of the dataset's classes
    * `{case}_brain.nii.gz`: (X, Y, Z) uint8
    * `{case}_observer-2.nii.gz` and so on: (X, Y, Z) uint8, the masks of further observers, if there are any
    * `{case}.json`: written last, with the fingerprint of settings, code and inputs

    Args:
        case: row of the case table.
        channels: names of the channels; the first defines the grid.
        output_folder: folder of the prepared cases.
        frame: grid and axes of the prepared case.
        grid_tolerance_voxels: how far masks may lie from the grid of the first channel, see `check_same_grid`.
        reading: further keywords of `read_normalised`.

    Raises:
        ImageError: a file cannot be used, a mask is not on the grid of the first channel, or a channel does not cover the
            brain.
    """
    name = case["case"]
    output_folder = Path(output_folder)
    settings = {
        "channels": list(channels),
        "frame": asdict(frame),
        "grid_tolerance_voxels": grid_tolerance_voxels,
        **reading,
    }
    case_fingerprint = _case_fingerprint(case, channels, settings)
    record_path = output_folder / f"{name}.json"
    if (row := read_completion_record(record_path, case_fingerprint)) is not None:
        return row
    record_path.unlink(missing_ok=True)
    output_folder.mkdir(parents=True, exist_ok=True)

    scan = read_normalised(case, channels, frame=frame, **reading)
    # Masks lie on the grid of the channel as stored, whose voxels were read already if this is the grid of the result.
    first = scan.reference if frame.is_own_grid else read_image(case[channels[0]])
    observers = [observer for observer in OBSERVERS if case.get(observer)]
    labels = [_read_labels(case, column, first, channels[0], grid_tolerance_voxels) for column in ("mask", *observers)]
    scan, (mask, *observed) = frame.fit(scan, [np.asarray(frame.regrid(image, is_label=True).dataobj) for image in labels])
    first = scan.reference
    files = {
        f"{name}_image.nii.gz": scan.image,
        f"{name}_mask.nii.gz": mask,
        f"{name}_brain.nii.gz": scan.brain.astype(np.uint8),
    }
    files |= {_observer_file(name, observer): array for observer, array in zip(observers, observed, strict=True)}
    for observer in set(OBSERVERS) - set(observers):
        (output_folder / _observer_file(name, observer)).unlink(missing_ok=True)
    orientation = frame.orientation
    grid = first if orientation is None else reorient(np.asarray(first.dataobj), first, orientation)
    for file, array in files.items():
        if orientation is not None:
            array = np.asarray(reorient(array, first, orientation).dataobj)
        write_image(output_folder / file, array, reference=grid, dtype=array.dtype)
    row = _manifest_row(case, grid, mask, scan.brain, voxel_hash(np.asarray(first.dataobj), first.affine))
    # Training and scoring depend on the manifest alone, so it must change when any voxel does.
    row["prepared_sha256"] = fingerprint([file_sha256(output_folder / file) for file in files])
    write_completion_record(record_path, case_fingerprint, files, row)
    return row


def _observer_file(name: str, observer: str) -> str:
    return f"{name}_{observer.replace('_', '-')}.nii.gz"


def _read_labels(
    case: Mapping, column: str, first: nib.Nifti1Image, first_channel: str, tolerance_voxels: float
) -> nib.Nifti1Image:
    """Read the labels of the mask in a column of the case table, which must lie on the grid of the first channel."""
    labels, image = read_labels(case[column], label_recoding(case))
    check_same_grid(first, image, (case[first_channel], case[column]), tolerance_voxels)
    return nib.Nifti1Image(labels, first.affine, first.header, dtype=labels.dtype)


def prepare_cohort(
    table: pd.DataFrame,
    channels: Sequence[str],
    output_folder: str | Path,
    processes: int = 1,
    **settings: Any,
) -> pd.DataFrame:
    """Preprocess all cases of a case table.

    Args:
        table: the case table.
        channels: names of the channels; the first defines the grid.
        output_folder: folder of the prepared cases.
        processes: number of cases at the same time.
        settings: keys of the section `preparation`, see `prepare_case` and `Frame`.

    Returns:
        The manifest, one row per case, in the order of the table.

    Raises:
        ProblemError: cases could not be preprocessed, hold the same scan, or differ in their voxel axes. It lists all of
            these problems. Cases that are complete stay on disk.
    """
    cases = table.to_dict("records")
    remove_partial_files(Path(output_folder))
    frame = Frame(**{key: settings.pop(key) for key in list(settings) if key in _FRAME_KEYS})
    attempt = partial(_attempt, channels=list(channels), output_folder=str(output_folder), frame=frame, **settings)
    outcomes = in_processes(attempt, cases, processes, "preparing")
    problems = [problem for outcome in outcomes if isinstance(outcome, tuple) for problem in outcome]
    manifest = pd.DataFrame([outcome for outcome in outcomes if isinstance(outcome, dict)])
    if len(manifest):
        problems += cohort_problems(manifest)
    if problems:
        raise ProblemError(*problems, heading=f"preprocessing of {len(cases)} cases")
    return manifest.drop(columns="sha256")


def _manifest_row(case: Mapping, grid: nib.Nifti1Image, mask: np.ndarray, brain: np.ndarray, sha256: str) -> dict:
    spacing = spacing_mm(grid)
    ml = float(np.prod(spacing)) / 1000
    return {
        "case": case["case"],
        "site": case["site"],
        "orientation": "".join(nib.aff2axcodes(grid.affine)),
        **{f"size_{axis}": int(size) for axis, size in zip("xy", grid.shape, strict=False)},
        "slices": int(grid.shape[2]),
        **{f"spacing_{axis}_mm": size for axis, size in zip("xyz", spacing, strict=True)},
        **_mask_volumes(case, mask, brain, ml),
        "brain_ml": round(int(brain.sum()) * ml, 4),
        "sha256": sha256,
    }


def _mask_volumes(case: Mapping, mask: np.ndarray, brain: np.ndarray, ml: float) -> dict:
    """Return the columns of the manifest that describe the mask, for voxels of this volume."""
    if classes := parse_classes(case.get(CLASSES_COLUMN, "")):
        volumes = {f"label_{label}_ml": round(int((mask == label).sum()) * ml, 4) for label in classes}
        return {"foreground_ml": round(int((mask > 0).sum()) * ml, 4), **volumes}
    lesion = mask == 1
    return {
        "lesion_ml": round(int(lesion.sum()) * ml, 4),
        # Voxels that share a corner belong to one lesion, as in the WMH challenge.
        "lesion_count": int(ndimage.label(lesion, np.ones((3, 3, 3)))[1]),
        "lesion_outside_brain_ml": round(int((lesion & ~brain).sum()) * ml, 4),
        "ignored_ml": round(int((mask == 2).sum()) * ml, 4),
    }


def _case_fingerprint(case: Mapping, channels: Sequence[str], settings: dict) -> str:
    paths = [case[name] for name in (*channels, *(f"{c}_transform" for c in channels), "mask")]
    paths += [case.get(observer, "") for observer in OBSERVERS]
    inputs = []
    for path in paths:
        if path and not Path(path).is_file():
            raise ImageError(missing_file_problem(path))
        inputs.append([path, file_sha256(Path(path))] if path else None)
    labels = [*sorted(label_recoding(case).items()), *(["classes"] if case.get(CLASSES_COLUMN) else [])]
    return fingerprint([case["case"], case["site"], settings, inputs, labels, code_version(__file__)])


def _attempt(case: Mapping, **settings: Any) -> dict | tuple[Problem, ...]:
    """Preprocess a case and return its row of the manifest, or the problems that prevent it."""
    try:
        return prepare_case(case, **settings)
    # An unforeseen error of one case must not hide what is wrong with the others.
    except Exception as error:
        name = f"case {case['case']}"
        if is_shortage(error):
            remedy = "Use fewer processes (`snakemake --set-threads prepare=1`), or give the job more memory"
            return (Problem(name, f"out of memory ({str(error) or type(error).__name__})", remedy),)
        return tuple(problem.within(name) for problem in problems_of(error))


def cohort_problems(manifest: pd.DataFrame) -> list[Problem]:
    """Return problems that only a comparison of the cases reveals.

    manifest: columns case, sha256 (see `voxel_hash`) and orientation.
    """
    problems = [
        Problem(
            "",
            f"cases {', '.join(names)} hold the same scan, which would leak between training and test",
            "Remove all but one",
        )
        for names in manifest.groupby("sha256")["case"].agg(list)
        if len(names) > 1
    ]
    by_orientation = manifest.groupby("orientation")["case"].agg(list)
    if len(by_orientation) > 1:
        listed = "; ".join(f"{codes}: {', '.join(names)}" for codes, names in by_orientation.items())
        problems.append(
            Problem(
                "",
                f"the voxel axes point different ways ({listed}), so networks would see some heads mirrored or rotated",
                "Set `preparation.orientation` to one of them for all cases",
            )
        )
    return problems
