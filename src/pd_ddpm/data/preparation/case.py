"""Prepare cases: resample, mask the brain, normalise, store."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
from scipy import ndimage

from pd_ddpm.data.cases.table import OBSERVERS
from pd_ddpm.data.nifti.geometry import ImageError, check_same_grid, reorient, spacing_mm
from pd_ddpm.data.nifti.read import read_labels
from pd_ddpm.data.nifti.write import write_image
from pd_ddpm.data.preparation.normalise import Normalisation, read_normalised
from pd_ddpm.data.preparation.resample import Interpolator
from pd_ddpm.runtime.code_version import code_version
from pd_ddpm.runtime.files import (
    file_sha256,
    fingerprint,
    read_completion_record,
    remove_partial_files,
    write_completion_record,
)
from pd_ddpm.runtime.process_pool import in_processes


def voxel_hash(volume: np.ndarray) -> str:
    """Hash of an image's voxels as float32, which tells that two files hold the same scan."""
    # NIfTI stores X fastest, so that the transpose is contiguous already.
    return hashlib.sha256(np.ascontiguousarray(volume.T, dtype=np.float32)).hexdigest()


def prepare_case(
    case: Mapping,
    channels: Sequence[str],
    output_folder: str | Path,
    normalisation: Normalisation = "zscore_brain",
    interpolator: Interpolator = "linear",
    orientation: str | None = None,
) -> dict:
    """Prepare one case (a row of the case table) and return its row of the manifest.

    Writes, on the grid of the first channel: `{case}_image.nii.gz` (H, W, D, channel) float32 (see `read_normalised`),
    `{case}_mask.nii.gz` uint8 labels 0, 1, 2, `{case}_brain.nii.gz` uint8, `{case}_observer-2.nii.gz` and so on where there are
    further observers, and last `{case}.json`, the fingerprint of settings, code and inputs. If that is there and still right,
    nothing is done.

    orientation: axis codes such as "LPS" to which the grid is turned, without interpolation; None keeps the scan's own.

    Raises ImageError if a file is unusable, a mask is not on the FLAIR's grid, or a channel does not cover the brain.
    """
    name = case["case"]
    output_folder = Path(output_folder)
    settings = {
        "channels": list(channels),
        "normalisation": normalisation,
        "interpolator": interpolator,
        "orientation": orientation,
    }
    stamp = _stamp(case, channels, settings)
    record_path = output_folder / f"{name}.json"
    if (row := read_completion_record(record_path, stamp)) is not None:
        return row
    record_path.unlink(missing_ok=True)
    output_folder.mkdir(parents=True, exist_ok=True)

    scan = read_normalised(case, channels, normalisation, interpolator)
    brain, first = scan.brain, scan.reference
    mask = _labels_on_grid(case, "mask", first, channels)
    files = {
        f"{name}_image.nii.gz": scan.image,
        f"{name}_mask.nii.gz": mask,
        f"{name}_brain.nii.gz": brain.astype(np.uint8),
    }
    for observer in OBSERVERS:
        file = f"{name}_{observer.replace('_', '-')}.nii.gz"
        if case.get(observer):
            files[file] = _labels_on_grid(case, observer, first, channels)
        else:
            (output_folder / file).unlink(missing_ok=True)
    grid = first if orientation is None else reorient(np.asarray(first.dataobj), first, orientation)
    for file, array in files.items():
        if orientation is not None:
            array = np.asarray(reorient(array, first, orientation).dataobj)
        write_image(output_folder / file, array, reference=grid, dtype=array.dtype)
    row = _manifest_row(case, grid, mask, brain, np.asarray(first.dataobj))
    # What is trained on and scored depends on this manifest alone, so it must tell when a voxel has changed.
    row["prepared_sha256"] = fingerprint([file_sha256(output_folder / file) for file in files])
    write_completion_record(record_path, stamp, files, row)
    return row


def _labels_on_grid(case: Mapping, column: str, first: nib.Nifti1Image, channels: Sequence[str]) -> np.ndarray:
    """The labels of a mask that must lie on the grid of the first channel."""
    labels, image = read_labels(case[column])
    check_same_grid(first, image, (case[channels[0]], case[column]))
    return labels


def prepare_cohort(
    table: pd.DataFrame,
    channels: Sequence[str],
    output_folder: str | Path,
    normalisation: Normalisation = "zscore_brain",
    interpolator: Interpolator = "linear",
    orientation: str | None = None,
    processes: int = 1,
) -> pd.DataFrame:
    """Prepare all cases of a case table (see `prepare_case`) and return the manifest, one row per case in their order.

    Raises one ValueError at the end that lists every case that could not be prepared, cases that hold the same scan, and
    cases whose voxel axes point elsewhere than those of the others; what has been prepared stays on disk.
    """
    cases = table.to_dict("records")
    arguments = (list(channels), str(output_folder), normalisation, interpolator, orientation)
    remove_partial_files(Path(output_folder))
    outcomes = in_processes(partial(_attempt, arguments=arguments), cases, processes, "preparing")
    problems = [outcome for outcome in outcomes if isinstance(outcome, str)]
    manifest = pd.DataFrame([outcome for outcome in outcomes if isinstance(outcome, dict)])
    if len(manifest):
        problems += cohort_problems(manifest)
    if problems:
        raise ValueError(f"{len(problems)} problem(s) in {len(cases)} cases:\n" + "\n".join(f"  {text}" for text in problems))
    return manifest.drop(columns="sha256")


def _manifest_row(case: Mapping, grid: nib.Nifti1Image, mask: np.ndarray, brain: np.ndarray, flair: np.ndarray) -> dict:
    spacing = spacing_mm(grid)
    ml = float(np.prod(spacing)) / 1000
    lesion = mask == 1
    return {
        "case": case["case"],
        "site": case["site"],
        "orientation": "".join(nib.aff2axcodes(grid.affine)),
        **{f"size_{axis}": int(size) for axis, size in zip("xy", grid.shape, strict=False)},
        "slices": int(grid.shape[2]),
        **{f"spacing_{axis}_mm": size for axis, size in zip("xyz", spacing, strict=True)},
        "lesion_ml": round(int(lesion.sum()) * ml, 4),
        # Voxels that share a corner are one lesion, as the WMH challenge counts them.
        "lesion_count": int(ndimage.label(lesion, np.ones((3, 3, 3)))[1]),
        "lesion_outside_brain_ml": round(int((lesion & ~brain).sum()) * ml, 4),
        "ignored_ml": round(int((mask == 2).sum()) * ml, 4),
        "brain_ml": round(int(brain.sum()) * ml, 4),
        "sha256": voxel_hash(flair),
    }


def _stamp(case: Mapping, channels: Sequence[str], settings: dict) -> str:
    paths = [case[name] for name in (*channels, *(f"{c}_transform" for c in channels), "mask")]
    paths += [case.get(observer, "") for observer in OBSERVERS]
    inputs = []
    for path in paths:
        if path and not Path(path).is_file():
            raise ImageError(f"{path}: there is no such file; correct the path or fetch the file.")
        inputs.append([path, Path(path).stat().st_size, Path(path).stat().st_mtime_ns] if path else None)
    return fingerprint([case["case"], case["site"], settings, inputs, code_version(__file__)])


def _attempt(case: Mapping, arguments: tuple) -> dict | str:
    try:
        return prepare_case(case, *arguments)
    except (ValueError, OSError, RuntimeError) as error:
        return f"case {case['case']}: {error}"


def cohort_problems(manifest: pd.DataFrame) -> list[str]:
    """What is wrong with cases only beside each other, from their columns case, sha256 (see `voxel_hash`) and orientation."""
    problems = [
        f"cases {', '.join(names)} hold the same scan, which would leak between training and test; remove all but one."
        for names in manifest.groupby("sha256")["case"].agg(list)
        if len(names) > 1
    ]
    by_orientation = manifest.groupby("orientation")["case"].agg(list)
    if len(by_orientation) > 1:
        listed = "; ".join(f"{codes}: {', '.join(names)}" for codes, names in by_orientation.items())
        problems.append(
            f"the voxel axes point different ways ({listed}), so that networks would see some heads mirrored or "
            "turned; set orientation to one of them for all."
        )
    return problems
