"""Predictions of one method on disk: one set of files per case, written atomically, so that a killed job can resume."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

import nibabel as nib
import numpy as np
import pandas as pd

from pd_ddpm.data.nifti.read import read_array
from pd_ddpm.data.nifti.write import PROBABILITY_SLOPE, write_image
from pd_ddpm.inference.class_ensemble import ClassSegmentation, class_starting_masks, empty_mask
from pd_ddpm.inference.cost import Cost
from pd_ddpm.inference.ensemble import Segmentation, ensemble_mask, threshold
from pd_ddpm.runtime.files import (
    fingerprint,
    read_completion_record,
    remove_partial_files,
    write_completion_record,
)
from pd_ddpm.runtime.sealed import write_sealed_json
from pd_ddpm.runtime.sealed_tables import read_sealed_csv, write_sealed_csv


@dataclass(frozen=True)
class PredictionFolder:
    """A folder of predictions.

    Attributes:
        folder: the folder.
        fingerprint: hash of everything that the predictions depend on, except the case.
        labels: labels of the dataset's classes; empty if masks hold lesions.
    """

    folder: Path
    fingerprint: str
    labels: tuple[int, ...] = ()

    def read_record(self, case: str) -> dict[str, Any] | None:
        """Return the record of a case, or None unless its files are complete and have the same fingerprint."""
        return read_completion_record(self.folder / f"{case}.json", self.fingerprint)

    def write(self, case: str, pool: np.ndarray, num_samples: int, template: nib.Nifti1Image, cost: Cost) -> dict[str, Any]:
        """Write a case's members, mask and uncertainty, then its record.

        Members are stored in steps of 1/255. Mask and uncertainty are computed from the stored values. With classes, the mask
        is a label map, and the uncertainty is `ClassSegmentation.variance`. The stored volumes are then the C classes of the
        first member, background first, then those of the second, and so on.

        Args:
            case: name of the case.
            pool: (X, Y, Z, N) all members that were sampled, in [0, 1]; with classes (X, Y, Z, N, C).
            num_samples: the number of members, counted from the first, from which mask and uncertainty are made.
            template: image with the grid of the predictions.
            cost: cost of sampling.

        Returns:
            The record.
        """
        (self.folder / f"{case}.json").unlink(missing_ok=True)
        names = {part: f"{case}_{part}.nii.gz" for part in ("samples", "mask", "uncertainty")}
        stored = as_stored(pool)
        if self.labels:
            segmentation = ClassSegmentation.from_members(stored[..., :num_samples, :])
            mask = np.array((0, *self.labels), dtype=np.uint8)[segmentation.index]
        else:
            segmentation = Segmentation.from_members(stored[..., :num_samples])
            mask = segmentation.mask
        volumes = stored.reshape(*stored.shape[:3], -1)
        write_image(self.folder / names["samples"], volumes, template, np.uint8, PROBABILITY_SLOPE)
        write_image(self.folder / names["mask"], mask, template, np.uint8)
        write_image(self.folder / names["uncertainty"], segmentation.variance, template)
        record = {"case": case, "samples": num_samples, "pool": pool.shape[3], **cost.to_record()}
        record["stamp"] = self.fingerprint
        write_completion_record(self.folder / f"{case}.json", self.fingerprint, names.values(), record)
        return record


def write_manifest(predictions: Path, metadata_file: Path, cases: Sequence[str], shards: Sequence[Mapping[str, Any]]) -> None:
    """Write the table of all cases of a method and the method's metadata, once no job writes to the folder any more.

    Args:
        predictions: the table to write, in the folder of the predictions.
        metadata_file: the JSON file to write.
        cases: all cases, in the order of the table.
        shards: one record per job that sampled some of the cases; its keys are "stamp" (the fingerprint of the
            predictions), "cases" and "method" (metadata).

    Raises:
        ValueError: the jobs sampled in different ways, or a case is incomplete.
    """
    fingerprints = {shard["stamp"] for shard in shards}
    remedy = "sample again with `snakemake --forcerun sample_shard` and this file"
    if len(fingerprints) > 1:
        provenances = [shard["method"]["provenance"] for shard in shards]
        devices = sorted({f"{provenance['device']} in {provenance['precision']}" for provenance in provenances})
        raise ValueError(
            f"{predictions}: the shards were sampled on different devices or precisions ({', '.join(devices)}), or from "
            f"different files. Set `device` and `precision`, then {remedy}."
        )
    store = PredictionFolder(predictions.parent, *fingerprints)
    records = {case: store.read_record(case) for case in cases}
    if missing := [case for case, record in records.items() if record is None]:
        raise ValueError(
            f"{predictions}: the files of {', '.join(missing)} are incomplete or were changed after sampling. Please {remedy}."
        )
    remove_partial_files(predictions.parent)
    method = shards[0]["method"]
    seconds = round(sum(shard["method"]["provenance"]["seconds"] for shard in shards), 1)
    provenance = method["provenance"] | {"seconds": seconds}
    write_sealed_json(metadata_file, {**method, "shards": len(shards), "provenance": provenance})
    write_sealed_csv(pd.DataFrame(list(records.values())), predictions)


def read_predictions(manifest: str | Path) -> pd.DataFrame:
    """Read the table that `write_manifest` wrote: the records of the cases, indexed by case."""
    return read_sealed_csv(manifest).set_index("case", drop=False)


def sampling_seconds(records: Iterable[Mapping[str, Any]], presegmentations: "Presegmentations | None") -> float:
    """Return the wall time of sampling the cases of these records, in seconds, without that of their pre-segmentations."""
    rows = list(records)
    total = sum(Cost.from_record(row).total(row["pool"])["seconds"] for row in rows)
    return total - sum(presegmentations.cost(row["case"]).total(row["pool"])["seconds"] for row in rows if presegmentations)


def as_stored(samples: np.ndarray) -> np.ndarray:
    """Return probabilities as they are read back from a file: float32, in steps of 1/255."""
    return np.round(samples * 255).astype(np.float32) * np.float32(PROBABILITY_SLOPE)


def read_samples(folder: Path, case: str, num_labels: int = 0) -> np.ndarray:
    """Read all stored members of a case, float32 in [0, 1].

    Args:
        folder: folder of the predictions.
        case: name of the case.
        num_labels: number of classes without background; 0 if members are masks of lesions.

    Returns:
        (X, Y, Z, N), or (X, Y, Z, N, C) for C = num_labels + 1 classes, background first.
    """
    samples = read_array(folder / f"{case}_samples.nii.gz", mask=True, allow_4d=True)
    members = samples.reshape(*samples.shape[:3], -1)
    return members.reshape(*samples.shape[:3], -1, num_labels + 1) if num_labels else members


def starting_masks(samples: np.ndarray, members: Literal["mean", "each"], harden: bool) -> np.ndarray:
    """Return the masks from which the reverse chains of another method start.

    Args:
        samples: (X, Y, Z, K) the stored members that serve as pre-segmentation; with classes (X, Y, Z, K, C).
        members: "mean": all chains start from the mean; "each": chain k starts from member k.
        harden: whether the masks are thresholded at 0.5, or one-hot at the most probable class.

    Returns:
        (X, Y, Z, 1) for "mean", (X, Y, Z, K) for "each", float32. With classes, C is the last axis.
    """
    if samples.ndim == 5:
        return class_starting_masks(samples, members, harden)
    if members == "each":
        return threshold(samples).astype(np.float32) if harden else samples
    mean = ensemble_mask(samples).astype(np.float32) if harden else samples.mean(axis=-1)
    return mean[..., None]


@dataclass(frozen=True)
class Presegmentations:
    """The pre-segmentations from which a method's reverse chains start.

    Attributes:
        manifest: table of the predictions of another method; None for a pre-segmentation without any lesion.
        members: "mean": all chains start from that method's ensemble; "each": chain k starts from its member k.
        harden: whether the masks are thresholded at 0.5, or one-hot at the most probable class.
        num_labels: number of classes without background; 0 if masks hold lesions.
    """

    manifest: Path | None
    members: Literal["mean", "each"]
    harden: bool
    num_labels: int = 0

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any], manifest: str | Path | None, num_labels: int = 0) -> Self | None:
        """Return the pre-segmentations of a method; None if it starts from no mask.

        Args:
            settings: settings of the method.
            manifest: see `Presegmentations`.
            num_labels: see `Presegmentations`.
        """
        if settings.get("start") != "presegmentation":
            return None
        return cls(manifest and Path(manifest), settings["presegmentation_members"], settings["harden"], num_labels)

    def read(self, case: str, shape: tuple[int, ...], num_members: int) -> np.ndarray:
        """Read the pre-segmentation of a case.

        Args:
            case: name of the case.
            shape: (X, Y, Z) of its scan.
            num_members: the number of chains, N.

        Returns:
            (X, Y, Z, 1), or (X, Y, Z, N) if each chain has a mask of its own; float32. With classes, C is the last axis.
        """
        if self.manifest is None:
            return empty_mask(shape, self.num_labels)
        samples = read_samples(self.manifest.parent, case, self.num_labels)
        count = num_members if self.members == "each" else self._records.loc[case, "samples"]
        return starting_masks(samples[:, :, :, :count], self.members, self.harden)

    def version(self) -> str:
        """Return a hash that identifies the masks. The time that sampling them took is not part of it.

        A mean depends on the number of members. Single members do not.
        """
        if self.manifest is None:
            return "zero"
        columns = ["stamp"] if self.members == "each" else ["stamp", "samples"]
        return fingerprint(self._records[columns].to_dict())

    def cost(self, case: str) -> Cost:
        """Return the cost of the masks of a case: shared if all chains start from one mask, else per chain.

        It is zero for masks from files, whose cost is not known.
        """
        if self.manifest is None:
            return Cost()
        record = self._records.loc[case]
        cost = Cost.from_record(record)
        if not cost.is_known:
            return Cost()
        return cost if self.members == "each" else cost.as_shared(int(record["samples"]))

    @cached_property
    def _records(self) -> pd.DataFrame:
        return read_predictions(self.manifest)
