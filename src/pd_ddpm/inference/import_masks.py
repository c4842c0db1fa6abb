"""Store masks that another program has made as the predictions of a method. Does not import PyTorch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from pd_ddpm.config.run import Run
from pd_ddpm.data.cases.mask_files import read_mask_files
from pd_ddpm.data.foreign_masks import empty_mask_problem, read_foreign_classes, read_foreign_mask
from pd_ddpm.data.prepared import read_scan
from pd_ddpm.inference.cost import Cost
from pd_ddpm.inference.method_metadata import metadata_without_network
from pd_ddpm.inference.prediction_store import PredictionFolder, write_manifest
from pd_ddpm.runtime.files import file_sha256, fingerprint
from pd_ddpm.runtime.problem import ProblemError
from pd_ddpm.runtime.progress import log, progress
from pd_ddpm.runtime.run_record import run_record


@dataclass(frozen=True)
class ImportJob:
    """A job of the rule `import_masks`.

    Attributes:
        run: dataset, method, split and seed.
        settings: the method's settings, for its metadata.
        grid_tolerance_voxels: how far a mask may lie from the grid of its scan, see `check_same_grid`.
        files: table of the cases' files; see `read_mask_files`.
        cases: table of the preprocessed cases; the images are in its folder.
        predictions: table of the predictions, to be written into their folder.
        method_metadata: metadata file of the method, to be written.
        code: hash of the code.
        config: the active configuration.
        labels: labels of the dataset's classes; empty if masks hold lesions.
    """

    run: Run
    settings: dict[str, Any]
    grid_tolerance_voxels: float
    files: Path
    cases: Path
    predictions: Path
    method_metadata: Path
    code: str
    config: dict[str, Any]
    labels: tuple[int, ...] = ()

    @classmethod
    def from_snakemake(cls, snakemake: Any) -> Self:
        """Read the job from the object of this name in a Snakemake script."""
        wildcards, params = snakemake.wildcards, snakemake.params
        return cls(
            run=Run.from_wildcards(wildcards, "method"),
            settings=params["settings"],
            grid_tolerance_voxels=params["grid_tolerance_voxels"],
            labels=tuple(params["labels"]),
            files=Path(snakemake.input["table"]),
            cases=Path(snakemake.input["cases"]),
            predictions=Path(snakemake.output["predictions"]),
            method_metadata=Path(snakemake.output["method_metadata"]),
            code=params["code"],
            config=snakemake.config,
        )


def import_masks(job: ImportJob) -> None:
    """Store the masks of all cases. Cases that are already complete on disk are kept.

    Raises:
        ProblemError: files cannot be used. It names all of them.
    """
    files, lesion_label = read_mask_files(job.files)
    hashes = {case: file_sha256(path) for case, path in files.items()}
    identity = [lesion_label, job.grid_tolerance_voxels, job.code, file_sha256(job.cases), hashes]
    store = PredictionFolder(job.predictions.parent, fingerprint(identity), job.labels)
    title = f"{job.run.name}, split {job.run.split}, seed {job.run.seed}"
    records, problems = [], []
    for case, path in progress(files.items(), title, len(files)):
        try:
            records.append(store.read_record(case) or _import_case(job, store, case, path, lesion_label))
        except ProblemError as error:
            problems += [problem.within(f"case {case}") for problem in error.problems]
    if problems:
        raise ProblemError(*problems, heading=title)
    method = metadata_without_network(job.run, job.settings, job.labels)
    method |= {"lesion_label": lesion_label, "files_sha256": hashes}
    method |= run_record(job.config, job.code, seed=job.run.seed)
    shard = {"stamp": store.fingerprint, "cases": records, "method": method}
    write_manifest(job.predictions, job.method_metadata, list(files), [shard])


def _import_case(job: ImportJob, store: PredictionFolder, case: str, path: Path, lesion_label: int | None) -> dict[str, Any]:
    """Store the mask of a case, and return its record.

    Args:
        job: the job.
        store: the folder of the predictions.
        case: name of the case.
        path: its file.
        lesion_label: see `read_foreign_mask`.
    """
    scan = read_scan(job.cases.parent, case)
    if job.labels:
        masks = read_foreign_classes(path, scan.reference, f"case {case}", job.labels, job.grid_tolerance_voxels)
        return store.write(case, masks[:, :, :, None], 1, scan.reference, Cost.unknown())
    mask = read_foreign_mask(path, scan.reference, f"case {case}", lesion_label, job.grid_tolerance_voxels)
    if doubt := empty_mask_problem(path, mask):
        log.warning("case %s, %s", case, doubt)
    return store.write(case, mask[..., None], 1, scan.reference, Cost.unknown())
