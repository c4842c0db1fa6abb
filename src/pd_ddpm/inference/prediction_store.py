"""The predictions of one method, case by case: written whole, and taken up again by a job that was killed."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

import nibabel as nib
import numpy as np
import pandas as pd

from pd_ddpm.data.nifti.read import read_array
from pd_ddpm.data.nifti.write import PROBABILITY_SLOPE, write_image
from pd_ddpm.inference.cost import Cost
from pd_ddpm.inference.ensemble import Segmentation, ensemble_mask, threshold
from pd_ddpm.runtime.files import (
    atomic_write,
    fingerprint,
    read_completion_record,
    remove_partial_files,
    write_completion_record,
    write_json,
)


@dataclass(frozen=True)
class PredictionFolder:
    """A folder of predictions; `stamp` is a hash of all that they depend on, apart from the case."""

    folder: Path
    stamp: str

    def finished(self, case: str) -> dict[str, Any] | None:
        """The record of a case that is already here, whole and under the same stamp."""
        return read_completion_record(self.folder / f"{case}.json", self.stamp)

    def write(self, case: str, pool: np.ndarray, samples: int, template: nib.Nifti1Image, cost: Cost) -> dict[str, Any]:
        """Write the pool of members (X, Y, Z, N), mask and variance of the first `samples`, then the record; returns it.

        Members are stored in steps of 1/255; mask and variance are those of the stored members.
        """
        (self.folder / f"{case}.json").unlink(missing_ok=True)
        names = {part: f"{case}_{part}.nii.gz" for part in ("samples", "mask", "uncertainty")}
        stored = as_stored(pool)
        segmentation = Segmentation.from_members(stored[..., :samples])
        write_image(self.folder / names["samples"], stored, template, np.uint8, PROBABILITY_SLOPE)
        write_image(self.folder / names["mask"], segmentation.mask, template, np.uint8)
        write_image(self.folder / names["uncertainty"], segmentation.variance, template)
        record = {"case": case, "samples": samples, "pool": pool.shape[-1], **asdict(cost), "stamp": self.stamp}
        write_completion_record(self.folder / f"{case}.json", self.stamp, names.values(), record)
        return record


def write_manifest(predictions: Path, method_card: Path, cases: Sequence[str], shards: Sequence[Mapping[str, Any]]) -> None:
    """Write the table of all cases of a method, in their order, and what is to be known of it.

    shards: of each job that has drawn some of the cases into the folder of the table its "stamp", its "cases" and what it says
    of the "method". No job may be writing there any more. Raises ValueError where the jobs do not make up one whole.
    """
    folder, stamps = predictions.parent, {shard["stamp"] for shard in shards}
    again = "draw them again: `snakemake --forcerun sample_shard` and this file"
    if len(stamps) > 1:
        how = {f"{made['device']} in {made['precision']}" for made in (shard["method"]["provenance"] for shard in shards)}
        raise ValueError(
            f"{predictions}: its shards were drawn differently ({', '.join(sorted(how))}), or from different files; set "
            f"'device' and 'precision', and {again}."
        )
    records = {case: PredictionFolder(folder, *stamps).finished(case) for case in cases}
    if missing := [case for case, record in records.items() if record is None]:
        raise ValueError(f"{predictions}: {', '.join(missing)} of its cases are not whole, though drawn once; {again}.")
    remove_partial_files(folder)
    method = shards[0]["method"]
    seconds = round(sum(shard["method"]["provenance"]["seconds"] for shard in shards), 1)
    write_json(method_card, {**method, "shards": len(shards), "provenance": method["provenance"] | {"seconds": seconds}})
    with atomic_write(predictions) as table:
        pd.DataFrame(list(records.values())).to_csv(table, index=False)


def read_predictions(manifest: str | Path) -> pd.DataFrame:
    """The records of a folder of predictions, by case."""
    return pd.read_csv(manifest, dtype={"case": str}).set_index("case", drop=False)


def sampling_seconds(records: Iterable[Mapping[str, Any]], before: "Presegmentations | None") -> float:
    """Wall time of drawing the cases of these records, whichever jobs drew them, without that of the masks they start from."""
    rows = list(records)
    whole = sum(Cost.from_record(row).total(row["pool"])["seconds"] for row in rows)
    return whole - sum(before.cost(row["case"]).total(row["pool"])["seconds"] for row in rows if before)


def as_stored(members: np.ndarray) -> np.ndarray:
    """Probabilities as they come back from a file: float32, in steps of 1/255."""
    return np.round(members * 255).astype(np.float32) * np.float32(PROBABILITY_SLOPE)


def read_samples(folder: Path, case: str) -> np.ndarray:
    """All stored members of a case, (X, Y, Z, N) float32 in [0, 1]."""
    samples = read_array(folder / f"{case}_samples.nii.gz", mask=True, allow_4d=True)
    return samples.reshape(*samples.shape[:3], -1)


def starting_masks(members: np.ndarray, which: Literal["mean", "each"], harden: bool) -> np.ndarray:
    """What the members of a method start from, of another method's members (X, Y, Z, K) as they are stored.

    "mean": all from that ensemble, (X, Y, Z, 1); "each": each from the member of its number, (X, Y, Z, K). harden: cut at 0.5.
    """
    if which == "each":
        return threshold(members).astype(np.float32) if harden else members
    mean = ensemble_mask(members).astype(np.float32) if harden else members.mean(axis=-1)
    return mean[..., None]


@dataclass(frozen=True)
class Presegmentations:
    """The masks that the members of a method start from.

    manifest: the predictions of another method, or None for no lesion anywhere. members: "mean": all start from the
    ensemble of that method; "each": a member from the member of the same number. harden: they are cut at 0.5.
    """

    manifest: Path | None
    members: Literal["mean", "each"]
    harden: bool

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any], manifest: str | Path | None) -> Self | None:
        """What the settings of a method say it starts from; None if it starts from no mask."""
        if settings.get("start") != "presegmentation":
            return None
        return cls(manifest and Path(manifest), settings["presegmentation_members"], settings["harden"])

    def read(self, case: str, shape: tuple[int, ...], pool: int) -> np.ndarray:
        """(X, Y, Z, 1), or (X, Y, Z, pool) where each member has its own; shape: (X, Y, Z)."""
        if self.manifest is None:
            return np.zeros((*shape, 1), dtype=np.float32)
        samples = read_samples(self.manifest.parent, case)
        if self.members == "each":
            return starting_masks(samples[..., :pool], self.members, self.harden)
        return starting_masks(samples[..., : self._records.loc[case, "samples"]], self.members, self.harden)

    def version(self) -> str:
        """A hash of which masks these are; how long drawing them took is not part of it."""
        if self.manifest is None:
            return "zero"
        return fingerprint(self._records["stamp"].to_dict())

    def cost(self, case: str) -> Cost:
        """What drawing them took: once for a mask that all members share, else for each."""
        if self.manifest is None:
            return Cost()
        record = self._records.loc[case]
        cost = Cost.from_record(record)
        if self.members == "each":
            return cost
        return cost.as_shared(int(record["samples"]))

    @cached_property
    def _records(self) -> pd.DataFrame:
        return read_predictions(self.manifest)
