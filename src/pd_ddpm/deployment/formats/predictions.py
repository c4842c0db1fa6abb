"""What a method has predicted, where the workflow has left it, and the grid of the scans that it was predicted for."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd

from pd_ddpm.config.run import parse_slug
from pd_ddpm.data.cases.table import read_table
from pd_ddpm.data.nifti.geometry import ImageError, check_same_grid, reorient, reorient_back
from pd_ddpm.data.nifti.read import read_array, read_image
from pd_ddpm.deployment.formats.layout import Part
from pd_ddpm.inference.prediction_store import read_predictions, read_samples
from pd_ddpm.runtime.problem import Problem


@dataclass(frozen=True)
class Prediction:
    """The prediction of one case: the first `members` of those in `folder` are the ensemble; flair: the source scan."""

    case: str
    split: int
    members: int
    folder: Path
    flair: Path

    def array(self, part: Part) -> np.ndarray:
        """On the stored grid (X, Y, Z): the mask (uint8), or the mean or the variance of the members (float32)."""
        if part == "probability":
            ensemble = read_samples(self.folder, self.case)[..., : self.members]
            return ensemble.mean(axis=-1, dtype=np.float64).astype(np.float32)
        return read_array(self._file(part), mask=True, dtype=np.uint8 if part == "mask" else np.float32)

    def grid(self) -> "Grid":
        """The FLAIR's own grid, or the stored one where that scan is gone.

        Raises ImageError if the scan is another than the one that was segmented.
        """
        stored = read_image(self._file("mask"), mask=True)
        if not self.flair.is_file():
            return Grid(stored, _codes(stored))
        flair = read_image(self.flair)
        as_flair = reorient(np.asarray(stored.dataobj), stored, _codes(flair))
        try:
            check_same_grid(flair, as_flair, (str(self.flair), str(self._file("mask"))))
        except ImageError as error:
            raise ImageError(
                Problem(
                    self.flair,
                    f"its grid is not the one that case {self.case} was segmented on, so the scan has changed since",
                    "Restore that scan, or sample the masks again with `snakemake`",
                )
            ) from error
        return Grid(flair, _codes(stored))

    def _file(self, part: Part) -> Path:
        return self.folder / f"{self.case}_{part}.nii.gz"


@dataclass(frozen=True)
class Grid:
    """The image `template`, on whose grid a prediction is written, and the codes of the axes that it is stored with."""

    template: nib.Nifti1Image
    codes: str

    def turned(self, stored: np.ndarray) -> np.ndarray:
        """A stored array (X, Y, Z) in the axis order of the template; no voxel is interpolated."""
        return reorient_back(stored, self.template, self.codes)


@dataclass(frozen=True)
class Predictions:
    """The predictions of one method with one seed; channels: the names of the data set's images, the FLAIR first."""

    dataset: str
    method: str
    seed: int
    cases: list[Prediction]
    channels: list[str]
    splits: pd.DataFrame


def find_predictions(folder: Path, splits: Sequence[int] = (), seed: int | None = None) -> Predictions:
    """The predictions in the folder of a method, `{dataset}/predictions/{method}`, or in one of its `split-{i}_seed-{j}`.

    Without `splits` all are taken; without `seed` the lowest. Relative paths in cases.csv start from the folder that holds
    the results, where the workflow has run.

    Raises ValueError if there is no such folder, split or seed, if drawing has not finished, if a case is predicted in more
    than one of the splits, or if the tables of the data set do not lie beside the predictions.
    """
    # Not resolved: results may be a link to another disk, and the scans lie beside the link.
    folder = Path(os.path.abspath(folder))
    if not folder.is_dir():
        raise ValueError(f"{folder}: there is no such folder; name the folder of a method in a data set's predictions.")
    if split_and_seed := parse_slug(folder.name):
        if splits or seed is not None:
            raise ValueError(f"{folder}: is one split and seed already; leave out --split and --seed, or name its parent.")
        splits, seed, folder = [split_and_seed[0]], split_and_seed[1], folder.parent
    seed, chosen = _chosen(folder, splits, seed)
    data = folder.parent.parent
    table = read_table(_table(data / "cases.csv"))
    channels = [name for name in table.columns if f"{name}_transform" in table.columns]
    scans = zip(table["case"], table[channels[0]], strict=True)
    flairs = {case: Path(os.path.normpath(data.parent.parent / path)) for case, path in scans}
    cases = [prediction for split, place in chosen.items() for prediction in _of_split(split, place, flairs)]
    _check_once(folder, cases)
    return Predictions(
        dataset=data.name,
        method=folder.name,
        seed=seed,
        cases=cases,
        channels=channels,
        splits=pd.read_csv(_table(data / "splits.csv"), dtype={"case": str}),
    )


def _codes(image: nib.Nifti1Image) -> str:
    """Where the voxel axes point to, such as LPS."""
    return "".join(nib.aff2axcodes(image.affine))


def _chosen(folder: Path, splits: Sequence[int], seed: int | None) -> tuple[int, dict[int, Path]]:
    """The seed, and split -> its folder."""
    found = {}
    for place in folder.iterdir():
        if split_and_seed := parse_slug(place.name):
            found[split_and_seed] = place
    if not found:
        raise ValueError(f"{folder}: holds no predictions (split-0_seed-0 and the like); name the folder of a method.")
    seeds = sorted({other for _, other in found})
    seed = seeds[0] if seed is None else seed
    there = sorted(split for split, other in found if other == seed)
    if not there:
        raise ValueError(f"{folder}: holds no predictions of seed {seed}; choose --seed from {_listed(seeds)}.")
    if missing := sorted(set(splits) - set(there)):
        raise ValueError(f"{folder}: holds no predictions of split {_listed(missing)}; choose --split from {_listed(there)}.")
    chosen = {split: found[split, seed] for split in (sorted(set(splits)) or there)}
    finished = [split for split, place in chosen.items() if (place / "predictions.csv").is_file()]
    if unfinished := sorted(set(chosen) - set(finished)):
        others = f", or take the others with --split {' '.join(map(str, finished))}" if finished else ""
        raise ValueError(
            f"{chosen[unfinished[0]]}: has no predictions.csv, cases are still to be drawn; finish it with snakemake{others}."
        )
    return seed, chosen


def _of_split(split: int, folder: Path, flairs: dict[str, Path]) -> list[Prediction]:
    records = read_predictions(folder / "predictions.csv")
    if unknown := sorted(set(records["case"]) - set(flairs)):
        raise ValueError(
            f"{folder}: cases.csv, which has changed since, does not list {', '.join(unknown)}; draw the masks again with "
            "snakemake."
        )
    drawn = zip(records["case"], records["samples"].astype(int), strict=True)
    return [Prediction(case, split, members, folder, flairs[case]) for case, members in drawn]


def _check_once(folder: Path, cases: list[Prediction]) -> None:
    splits: dict[str, list[int]] = {}
    for prediction in cases:
        splits.setdefault(prediction.case, []).append(prediction.split)
    if repeated := {case: where for case, where in splits.items() if len(where) > 1}:
        case, where = next(iter(repeated.items()))
        raise ValueError(
            f"{folder}: {len(repeated)} case(s) are predicted in more than one split, such as {case} in {_listed(where)}; "
            f"choose one of them, for instance with --split {where[0]}."
        )


def _table(path: Path) -> Path:
    if not path.is_file():
        raise ValueError(f"{path}: there is no such table; convert predictions where the workflow has left them.")
    return path


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))
