"""Predictions of a method in the results of the workflow or of `pd-ddpm predict`, and the grids of their scans."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd

from pd_ddpm.config.run import parse_slug
from pd_ddpm.data.cases.table import read_table
from pd_ddpm.data.label_maps import CLASSES_COLUMN, parse_classes
from pd_ddpm.data.nifti.geometry import ImageError, check_same_grid, reorient, reorient_back
from pd_ddpm.data.nifti.read import read_array, read_image
from pd_ddpm.deployment.formats.errors import ConversionError
from pd_ddpm.deployment.formats.layout import ClassProbability, Part
from pd_ddpm.deployment.scan_folder import RECORD
from pd_ddpm.inference.prediction_store import read_predictions, read_samples
from pd_ddpm.runtime.problem import Problem
from pd_ddpm.runtime.sealed_tables import read_sealed_csv


@dataclass(frozen=True)
class Grid:
    """The grid on which a prediction is written.

    Attributes:
        reference: image with this grid.
        stored_codes: axis codes of the stored prediction, such as "LPS".
    """

    reference: nib.Nifti1Image
    stored_codes: str

    def reorient(self, stored: np.ndarray) -> np.ndarray:
        """Return a stored array (X, Y, Z) with the voxel axes of the reference; nothing is interpolated."""
        return reorient_back(stored, self.reference, self.stored_codes)


@dataclass(frozen=True)
class Prediction:
    """The prediction of one case.

    Attributes:
        case: name of the case.
        patient: its patient, or "" if the case is the only one of its patient.
        split: split whose networks were used; None if they are those of a bundle.
        num_members: number of ensemble members, counted from the first stored one.
        folder: folder of the predictions.
        flair: the scan.
        num_labels: number of classes without background; 0 if masks hold lesions.
    """

    case: str
    patient: str
    split: int | None
    num_members: int
    folder: Path
    flair: Path
    num_labels: int = 0

    def array(self, part: Part) -> np.ndarray:
        """Return the mask (uint8), or the mean or variance of the members (float32), as (X, Y, Z) on the stored grid.

        The mask of classes is a label map, and the variance that over all classes.
        """
        if isinstance(part, ClassProbability):
            samples = read_samples(self.folder, self.case, self.num_labels)[:, :, :, : self.num_members, part.number]
            return samples.mean(axis=-1, dtype=np.float64).astype(np.float32)
        if part == "probability":
            samples = read_samples(self.folder, self.case)[..., : self.num_members]
            return samples.mean(axis=-1, dtype=np.float64).astype(np.float32)
        return read_array(self._file(part), mask=True, dtype=np.uint8 if part == "mask" else np.float32)

    def grid(self) -> Grid:
        """Return the grid of the FLAIR, or the stored grid if that scan no longer exists.

        Raises:
            ImageError: the scan is not the one that was segmented.
        """
        stored = read_image(self._file("mask"), mask=True)
        if not self.flair.is_file():
            return Grid(stored, _axis_codes(stored))
        flair = read_image(self.flair)
        reoriented = reorient(np.asarray(stored.dataobj), stored, _axis_codes(flair))
        try:
            check_same_grid(flair, reoriented, (str(self.flair), str(self._file("mask"))))
        except ImageError as error:
            raise ImageError(
                Problem(
                    self.flair,
                    f"its grid is not the one that case {self.case} was segmented on, so the scan has changed since",
                    "Restore that scan, or sample the masks again with `snakemake`",
                )
            ) from error
        return Grid(flair, _axis_codes(stored))

    def _file(self, part: Part) -> Path:
        return self.folder / f"{self.case}_{part}.nii.gz"


@dataclass(frozen=True)
class ScanPrediction(Prediction):
    """The prediction of one scan by `pd-ddpm predict`."""

    def array(self, part: Part) -> np.ndarray:
        """Return the mask (uint8), or the mean or variance of the members (float32), as (X, Y, Z) on the scan's grid."""
        if isinstance(part, ClassProbability):
            return read_array(self._file("probability"), mask=True, allow_4d=True)[..., part.number]
        return read_array(self._file(part), mask=True, dtype=np.uint8 if part == "mask" else np.float32)

    def _file(self, part: Part) -> Path:
        return self.folder / f"{part}.nii.gz"


@dataclass(frozen=True)
class Predictions:
    """The predictions of one method with one seed.

    Attributes:
        dataset: name of the dataset.
        method: name of the method.
        seed: seed of training and sampling.
        cases: the predictions, one per case.
        channels: names of the dataset's images; the first is the FLAIR.
        splits: table of all splits, with columns split, role and case.
        classes: label -> name of each class; empty if masks hold lesions.
    """

    dataset: str
    method: str
    seed: int
    cases: list[Prediction]
    channels: list[str]
    splits: pd.DataFrame
    classes: Mapping[int, str] = field(default_factory=dict)


def find_predictions(folder: Path, splits: Sequence[int] = (), seed: int | None = None) -> Predictions:
    """Find the predictions of a method.

    Relative paths in cases.csv start from the parent folder of the results, where the workflow has run.

    Args:
        folder: `{dataset}/predictions/{method}`, or one of the folders `split-{i}_seed-{j}` in it; or a folder of
            `pd-ddpm predict` for one scan or for many.
        splits: the splits to use; all if empty.
        seed: the seed to use; None is the lowest.

    Returns:
        The predictions.

    Raises:
        ConversionError: the folder, a split or the seed does not exist; sampling has not finished; several splits predict
            the same case; or a table of the dataset does not exist.
    """
    # Do not resolve links: results may be a link to another disk, and the scans are next to the link.
    folder = Path(os.path.abspath(folder))
    if not folder.is_dir():
        remedy = "Give the folder of a method in a dataset's predictions"
        raise ConversionError(Problem(folder, "the folder does not exist", remedy))
    if records := [path for path in (folder / RECORD, *sorted(folder.glob(f"*/{RECORD}"))) if path.is_file()]:
        if splits or seed is not None:
            raise ConversionError(Problem(folder, "it holds scans without splits", "Omit --split and --seed"))
        return _predictions_of_scans(folder, records)
    if split_and_seed := parse_slug(folder.name):
        if splits or seed is not None:
            remedy = "Omit --split and --seed, or give the parent folder"
            raise ConversionError(Problem(folder, "the folder already selects a split and a seed", remedy))
        split, seed = split_and_seed
        splits, folder = [split], folder.parent
    seed, split_folders = _select_folders(folder, splits, seed)
    data = folder.parent.parent
    table = read_table(_existing_table(data / "cases.csv"))
    channels = [name for name in table.columns if f"{name}_transform" in table.columns]
    classes = parse_classes(next(iter(table.get(CLASSES_COLUMN, [])), ""))
    table[channels[0]] = [Path(os.path.normpath(data.parent.parent / path)) for path in table[channels[0]]]
    scans = table.set_index("case").rename(columns={channels[0]: "flair"})[["patient", "flair"]]
    cases = [
        prediction
        for split, split_folder in split_folders.items()
        for prediction in _predictions_of_split(split, split_folder, scans, len(classes))
    ]
    _check_unique_cases(folder, cases)
    return Predictions(
        dataset=data.name,
        method=folder.name,
        seed=seed,
        cases=cases,
        channels=channels,
        splits=read_sealed_csv(_existing_table(data / "splits.csv")),
        classes=classes,
    )


def _predictions_of_scans(folder: Path, records: Sequence[Path]) -> Predictions:
    """Return the predictions of scans by one bundle, from their records."""
    cases: list[Prediction] = []
    made: dict[tuple[str, str, int], list[str]] = {}
    for path in records:
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            row, files = record["row"], record["files"]
            method, _, seed = row["settings"]["stages"][-1]
            made[row["settings"]["bundle"], method, seed] = row["channels"]
            is_complete = all((path.parent / file).stat().st_size == size for file, size in files.items())
            flair = Path(os.path.normpath(path.parent / row["scan"]))
            classes = {entry["label"]: entry["name"] for entry in row.get("classes", [])}
            scan = (row["name"], row["patient"], None, row["members"], path.parent, flair)
            cases.append(ScanPrediction(*scan, num_labels=len(classes)))
        except (OSError, ValueError, KeyError, TypeError) as error:
            problem = f"it is damaged or of an earlier version ({type(error).__name__}: {error})"
            raise ConversionError(Problem(path, problem, "Segment the scan again with `pd-ddpm predict`")) from error
        if not is_complete:
            problem = "its files are incomplete or were changed"
            raise ConversionError(Problem(path, problem, "Segment the scan again with `pd-ddpm predict --overwrite`"))
    if len(made) > 1:
        problem = f"it holds predictions of {len(made)} different bundles, methods or seeds"
        raise ConversionError(Problem(folder, problem, "Convert the folders of the scans one by one"))
    (((_, method, seed), channels),) = made.items()
    splits = pd.DataFrame({"split": [], "role": [], "case": []})
    return Predictions(folder.name, method, seed, cases, channels, splits, classes)


def _axis_codes(image: nib.Nifti1Image) -> str:
    """Return the directions of the voxel axes, such as "LPS"."""
    return "".join(nib.aff2axcodes(image.affine))


def _select_folders(folder: Path, splits: Sequence[int], seed: int | None) -> tuple[int, dict[int, Path]]:
    """Return the seed, and the folder of each split."""
    folders = {}
    for path in folder.iterdir():
        if split_and_seed := parse_slug(path.name):
            folders[split_and_seed] = path
    if not folders:
        problem = "it holds no predictions (folders such as split-0_seed-0)"
        raise ConversionError(Problem(folder, problem, "Give the folder of a method"))
    seeds = sorted({other for _, other in folders})
    seed = seeds[0] if seed is None else seed
    available = sorted(split for split, other in folders if other == seed)
    if not available:
        remedy = f"Choose --seed from {_comma_separated(seeds)}"
        raise ConversionError(Problem(folder, f"it holds no predictions of seed {seed}", remedy))
    if missing := sorted(set(splits) - set(available)):
        remedy = f"Choose --split from {_comma_separated(available)}"
        raise ConversionError(Problem(folder, f"it holds no predictions of split {_comma_separated(missing)}", remedy))
    selected = {split: folders[split, seed] for split in (sorted(set(splits)) or available)}
    finished = [split for split, path in selected.items() if (path / "predictions.csv").is_file()]
    if unfinished := sorted(set(selected) - set(finished)):
        alternative = f", or convert the others with --split {' '.join(map(str, finished))}" if finished else ""
        problem = "predictions.csv does not exist, because sampling has not finished"
        raise ConversionError(Problem(selected[unfinished[0]], problem, f"Finish it with `snakemake`{alternative}"))
    return seed, selected


def _predictions_of_split(split: int, folder: Path, scans: pd.DataFrame, num_labels: int) -> list[Prediction]:
    """Return the predictions in a folder.

    Args:
        split: the split.
        folder: the folder.
        scans: one row per case of the dataset, with its patient and FLAIR.
        num_labels: see `Prediction`.
    """
    records = read_predictions(folder / "predictions.csv")
    if unknown := sorted(set(records["case"]) - set(scans.index)):
        problem = f"cases.csv has changed since and does not list {', '.join(unknown)}"
        raise ConversionError(Problem(folder, problem, "Sample the masks again with `snakemake`"))
    members = zip(records["case"], records["samples"].astype(int), strict=True)
    return [
        Prediction(
            case=case,
            patient=scans.at[case, "patient"],
            split=split,
            num_members=num_members,
            folder=folder,
            flair=scans.at[case, "flair"],
            num_labels=num_labels,
        )
        for case, num_members in members
    ]


def _check_unique_cases(folder: Path, predictions: list[Prediction]) -> None:
    splits: dict[str, list[int]] = {}
    for prediction in predictions:
        splits.setdefault(prediction.case, []).append(prediction.split)
    if repeated := {case: numbers for case, numbers in splits.items() if len(numbers) > 1}:
        case, numbers = next(iter(repeated.items()))
        problem = (
            f"several splits predict the same case ({len(repeated)} case(s)), such as {case} in {_comma_separated(numbers)}"
        )
        raise ConversionError(Problem(folder, problem, f"Choose one of them, for instance with --split {numbers[0]}"))


def _existing_table(path: Path) -> Path:
    if not path.is_file():
        remedy = "Convert predictions in the folder in which the workflow has written them"
        raise ConversionError(Problem(path, "the table does not exist", remedy))
    return path


def _comma_separated(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))
