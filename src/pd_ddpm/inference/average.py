"""Average the stored ensembles of several methods, case by case. Does not import PyTorch."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd

from pd_ddpm.config.run import Run
from pd_ddpm.data.prepared import read_scan
from pd_ddpm.inference.cost import Cost
from pd_ddpm.inference.method_metadata import metadata_without_network
from pd_ddpm.inference.prediction_store import PredictionFolder, read_predictions, read_samples, write_manifest
from pd_ddpm.runtime.files import fingerprint
from pd_ddpm.runtime.progress import progress
from pd_ddpm.runtime.run_record import run_record
from pd_ddpm.runtime.sealed import read_sealed_json


@dataclass(frozen=True)
class AveragedPredictions:
    """The stored predictions of a method that takes part in a mean.

    Attributes:
        manifest: table of the predictions.
    """

    manifest: Path

    @cached_property
    def records(self) -> pd.DataFrame:
        """The records of the cases, indexed by case."""
        return read_predictions(self.manifest)

    @cached_property
    def method(self) -> dict[str, Any]:
        """The metadata of the method."""
        return read_sealed_json(self.manifest.with_name("method.json"))

    def read(self, case: str) -> np.ndarray:
        """Read the members of the method's ensemble, (X, Y, Z, K) float32 in [0, 1]; of C classes (X, Y, Z, K, C)."""
        return read_samples(self.manifest.parent, case, len(self.labels))[:, :, :, : self.records.loc[case, "samples"]]

    @property
    def labels(self) -> tuple[int, ...]:
        """Labels of the dataset's classes; empty if masks hold lesions."""
        return tuple(self.method.get("labels", ()))

    def cost(self, case: str, num_members: int) -> Cost:
        """Return the cost of the ensemble of a case; shared unless it has one member for each member of the mean.

        Args:
            case: name of the case.
            num_members: members of the mean.
        """
        record = self.records.loc[case]
        cost, members = Cost.from_record(record), int(record["samples"])
        return cost if members == num_members else cost.as_shared(members)


@dataclass(frozen=True)
class AverageJob:
    """A job of the rule `average`: average the predictions of several methods for one run.

    Attributes:
        run: dataset, name of the mean, split and seed.
        settings: the settings of the mean.
        parts: the predictions that are averaged.
        cases: table of the preprocessed cases; the images are in its folder.
        predictions: table of the mean's predictions, to be written into their folder.
        method_metadata: metadata file of the mean, to be written.
        code: hash of the code.
        config: the active configuration.
    """

    run: Run
    settings: dict[str, Any]
    parts: tuple[AveragedPredictions, ...]
    cases: Path
    predictions: Path
    method_metadata: Path
    code: str
    config: dict[str, Any]

    @classmethod
    def from_snakemake(cls, snakemake: Any) -> Self:
        """Read the job from the object of this name in a Snakemake script."""
        wildcards, outputs = snakemake.wildcards, snakemake.output
        return cls(
            run=Run.from_wildcards(wildcards, "method"),
            settings=snakemake.params["settings"],
            parts=tuple(AveragedPredictions(Path(path)) for path in snakemake.input["averaged"]),
            cases=Path(snakemake.input["cases"]),
            predictions=Path(outputs["predictions"]),
            method_metadata=Path(outputs["method_metadata"]),
            code=snakemake.params["code"],
            config=snakemake.config,
        )


def average_predictions(job: AverageJob) -> None:
    """Write the mean of the predictions of all cases. Cases that are already complete on disk are kept.

    Raises:
        ValueError: the methods have not segmented the same cases.
    """
    cases = _common_cases(job.parts)
    sources = [part.records[["stamp", "samples"]].to_dict() for part in job.parts]
    labels = job.parts[0].labels
    store = PredictionFolder(job.predictions.parent, fingerprint([job.settings, job.code, sources]), labels)
    title = f"{job.run.name}, split {job.run.split}, seed {job.run.seed}"
    records = [store.read_record(case) or _average_case(job, store, case) for case in progress(cases, title)]
    method = metadata_without_network(job.run, job.settings, labels)
    method |= run_record(
        job.config,
        job.code,
        seed=job.run.seed,
        # The networks ran where the parts were sampled; the mean itself needs no precision.
        device=_joined(part.method["provenance"]["device"] for part in job.parts),
        precision=_joined(part.method["provenance"]["precision"] for part in job.parts),
        made_from=[part.manifest for part in job.parts],
    )
    write_manifest(
        job.predictions, job.method_metadata, cases, [{"stamp": store.fingerprint, "cases": records, "method": method}]
    )


def mean_of_ensembles(ensembles: Sequence[np.ndarray]) -> np.ndarray:
    """Return the mean of several ensembles with equal weights, as an ensemble.

    Member k is the mean of the members k. An ensemble with fewer members than the largest takes part in each of them with its
    own mean. The mean over the members is thus the mean of the ensembles' probability maps.

    Args:
        ensembles: (X, Y, Z, K) members of each ensemble, in [0, 1]; of C classes (X, Y, Z, K, C). K may differ.

    Returns:
        (X, Y, Z, K) or (X, Y, Z, K, C) float64 with the largest K.
    """
    axis = 3 if ensembles[0].ndim == 5 else -1
    largest = max(members.shape[axis] for members in ensembles)
    aligned = [
        members if members.shape[axis] == largest else members.mean(axis=axis, keepdims=True, dtype=np.float64)
        for members in ensembles
    ]
    return sum(members.astype(np.float64) for members in aligned) / len(aligned)


def _average_case(job: AverageJob, store: PredictionFolder, case: str) -> dict[str, Any]:
    """Write the mean of the predictions of a case, and return its record."""
    members = mean_of_ensembles([part.read(case) for part in job.parts])
    num_members = members.shape[3]
    # The cost of a method that starts from another one already contains that of its start.
    starts = {part.method["presegmentation"] for part in job.parts}
    paid = [part.cost(case, num_members) for part in job.parts if part.method["method"] not in starts]
    return store.write(case, members, num_members, read_scan(job.cases.parent, case).reference, sum(paid, Cost()))


def _joined(values: Iterable[str]) -> str:
    return ", ".join(sorted(set(values)))


def _common_cases(parts: Sequence[AveragedPredictions]) -> list[str]:
    """Return the cases of all parts, in the order of the first."""
    cases = list(parts[0].records.index)
    for part in parts[1:]:
        if differing := sorted(set(cases) ^ set(part.records.index)):
            raise ValueError(
                f"{part.manifest}: it has not the same cases as {parts[0].manifest} ({', '.join(differing[:5])}). "
                "Sample both methods again with the same splits."
            )
    return cases
