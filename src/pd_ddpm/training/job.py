"""The training job of the workflow: what it reads, how its parts are put together, and what it writes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pandas as pd
import torch
from torch import nn

from pd_ddpm.data.cases.mask_files import read_mask_files
from pd_ddpm.data.even_folds import cases_of_inner_fold
from pd_ddpm.data.foreign_masks import read_foreign_classes, read_foreign_mask
from pd_ddpm.data.prepared import cases_by_role, read_scan
from pd_ddpm.data.working_grid import GridSettings
from pd_ddpm.models.factory import build_model, load_model
from pd_ddpm.models.weights import architecture_settings, assign_weights, load_weights, save_early, save_metadata, save_weights
from pd_ddpm.runtime.backend import Backend
from pd_ddpm.runtime.collapse import describe_signs
from pd_ddpm.runtime.compute import Compute
from pd_ddpm.runtime.files import file_sha256, remove_partial_files
from pd_ddpm.runtime.precision import device_name
from pd_ddpm.runtime.problem import Problem, ProblemError
from pd_ddpm.runtime.progress import log
from pd_ddpm.runtime.run_record import run_record
from pd_ddpm.runtime.sealed import seal, seal_path
from pd_ddpm.runtime.sealed_tables import write_sealed_csv
from pd_ddpm.training.factory import build_objective, build_training_settings
from pd_ddpm.training.out_of_fold import add_presegmentations
from pd_ddpm.training.patches import CaseSlices, TrainingSlices, read_slices, with_presegmentation
from pd_ddpm.training.result import TrainingResult
from pd_ddpm.training.resume import ChangedTraining, TrainingStates
from pd_ddpm.training.trainer import Trainer
from pd_ddpm.training.validator import Validator


@dataclass(frozen=True)
class TrainJob:
    """One training: a network with its split and seed, the files that it reads and writes, and how it runs.

    Attributes:
        cases: prepared.csv, which lies in the folder of the prepared cases.
        splits: splits.csv.
        weights: output, the selected weights.
        early: output, the weights of the early checkpoints.
        metadata: output, the metadata file of both.
        history: output, the table of validations.
        state: folder of the saved states.
        name: name of the network in the configuration.
        split: index of the split.
        seed: seed of the weights and of all random numbers.
        settings: the network's settings, complete.
        grid: settings of the working grid.
        code: code version of the script.
        compute: device, precision, threads, batch, and whether the network is compiled.
        save_every_seconds: time between two saved states.
        changed_training: what to do with an unfinished training with other settings, data or code.
        config: the active configuration, for the run record.
        first_weights: weights of another network that this one starts from.
        first_metadata: their metadata file.
        presegmenter_weights: weights of the network whose masks some chains start from in validation.
        presegmenter_metadata: their metadata file.
        validation_masks: list of the files with the masks of another program from which some chains start in validation, and
            the versions of these files; empty if there are none.
        inner_weights: weights of the networks whose masks of the training cases x_t is made from, one for each inner fold.
        inner_metadata: their metadata files.
    """

    cases: Path
    splits: Path
    weights: Path
    early: Path
    metadata: Path
    history: Path
    state: Path
    name: str
    split: int
    seed: int
    settings: dict[str, Any]
    grid: dict[str, Any]
    code: str
    compute: Compute
    save_every_seconds: float
    changed_training: ChangedTraining
    config: dict[str, Any]
    first_weights: Path | None = None
    first_metadata: Path | None = None
    presegmenter_weights: Path | None = None
    presegmenter_metadata: Path | None = None
    validation_masks: tuple[Path, ...] = ()
    inner_weights: tuple[Path, ...] = ()
    inner_metadata: tuple[Path, ...] = ()

    @classmethod
    def from_snakemake(cls, snakemake: Any) -> Self:
        """Read the job from the object that Snakemake gives to the script of rule `train`."""
        files = {name: _as_paths(value) for name, value in {**snakemake.input, **snakemake.output}.items()}
        params, config = {**snakemake.params}, snakemake.config
        settings = params["settings"]
        return cls(
            **files,
            **params | {"state": Path(params["state"])},
            compute=Compute(config["device"], settings["precision"], snakemake.threads, settings["batch"], config["compile"]),
            save_every_seconds=config["save_every_seconds"],
            changed_training=config["changed_training"],
            config=config,
        )

    @property
    def title(self) -> str:
        """The job's name in messages."""
        return f"{self.name}, split {self.split}, seed {self.seed}"


@dataclass(frozen=True)
class TrainingData:
    """The cases of a training.

    Attributes:
        roles: names of the split's cases by role. Training cases that the network leaves out have none.
        slices: the training cases.
        validation: the validation cases.
    """

    roles: dict[str, list[str]]
    slices: TrainingSlices
    validation: list[CaseSlices]

    @property
    def image_channels(self) -> int:
        """Number of MRI channels."""
        return self.slices.cases[0].image.shape[1]


def read_data(job: TrainJob) -> TrainingData:
    """Read the training and validation cases of the job's split.

    Raises:
        ProblemError: random raters are requested, but no training case has more than one; or there are too few patients for the
            inner folds.
        ValueError: a case has no slice with enough brain, or no training case has a lesion.
    """
    roles, raters = cases_by_role(job.splits, job.split), job.settings["raters"]
    grid = GridSettings(**job.grid, spatial_dims=job.settings["spatial_dims"])
    if (inner_fold := job.settings["inner_fold"]) is not None:
        left_out = cases_of_inner_fold(job.splits, job.split, inner_fold)
        roles["train"] = [case for case in roles["train"] if case not in left_out]
    labels = job.settings.get("labels", ())
    training = [read_slices(job.cases.parent, case, grid, raters, labels) for case in roles["train"]]
    if raters == "random":
        _check_raters(job, training)
    validation = [_read_validation_case(job, case, grid) for case in roles.get("validation", [])]
    return TrainingData(roles, TrainingSlices(training), validation)


def _read_validation_case(job: TrainJob, case: str, grid: GridSettings) -> CaseSlices:
    """Read a validation case, with the mask of another program if some chains start from it."""
    slices = read_slices(job.cases.parent, case, grid, labels=job.settings.get("labels", ()))
    files, lesion_label = _validation_masks(job)
    if case not in files:
        return slices
    scan, tolerance = read_scan(job.cases.parent, case), job.config["preparation"]["grid_tolerance_voxels"]
    if labels := job.settings.get("labels"):
        mask = read_foreign_classes(files[case], scan.reference, f"case {case}", labels, tolerance)
    else:
        mask = read_foreign_mask(files[case], scan.reference, f"case {case}", lesion_label, tolerance)
    return with_presegmentation(slices, job.cases.parent, grid, mask)


def _validation_masks(job: TrainJob) -> tuple[dict[str, Path], int | None]:
    """Return the file of each validation case whose mask another program has made, and the label of lesions in them."""
    return read_mask_files(job.validation_masks[0]) if job.validation_masks else ({}, None)


def _check_raters(job: TrainJob, training: Sequence[CaseSlices]) -> None:
    """Raise if no training case has a second rater; log how many have none."""
    single = sum(not case.further_fractions for case in training)
    if single == len(training):
        problem = (
            f"`raters: random` needs masks of a second rater, but no training case of split {job.split} has one "
            f"({job.cases.parent}/*_observer-2.nii.gz)"
        )
        remedy = "Set `raters: first`, or give the cases masks of further observers and prepare them again"
        raise ProblemError(Problem(f"networks.{job.name}", problem, remedy))
    if single:
        log.warning("%s: %d of %d training cases have one rater only", job.title, single, len(training))


def open_states(job: TrainJob, data: TrainingData, backend: Backend) -> TrainingStates:
    """Return the saved states of the training with these settings, data and code, on this kind of device.

    Args:
        job: the job.
        data: its cases, from `read_data`.
        backend: its device and precision.
    """
    optional = {"first_weights": job.first_weights, "presegmenter_weights": job.presegmenter_weights}
    files = {"cases": file_sha256(job.cases)} | {name: path and file_sha256(path) for name, path in optional.items()}
    files |= {"inner_weights": list(map(file_sha256, job.inner_weights))}
    masks, lesion_label = _validation_masks(job)
    files |= {"validation_masks": {case: file_sha256(path) for case, path in masks.items()}, "lesion_label": lesion_label}
    inputs = job.settings | {"grid": job.grid, "seed": job.seed, "code": job.code, "data": files | data.roles}
    inputs |= {"number_format": str(backend.precision), "device": backend.device.type}
    return TrainingStates(job.state, inputs)


def train(job: TrainJob, data: TrainingData, backend: Backend, states: TrainingStates) -> TrainingResult:
    """Train the job's network, resuming from the saved state if there is one.

    Args:
        job: the job.
        data: its cases, from `read_data`.
        backend: its device and precision.
        states: its saved states, from `open_states`.

    Raises:
        CheckpointError: if the first weights do not fit the network, or a pre-segmenter's files are damaged.
        ProblemError: if networks of inner folds have seen cases that they should not.
        TrainingError, OtherTrainingError and others: as `Trainer.fit` does.
    """
    torch.manual_seed(job.seed)
    network = _build_network(job, data.image_channels)
    objective, settings = build_objective(job.settings), build_training_settings(job.settings)
    validator = None
    if data.validation:
        presegmenter = _load_presegmenter(job)
        validator = Validator(objective, data.validation, settings.validation_slices, job.seed, backend, presegmenter)
    slices = data.slices
    if job.inner_weights:
        networks = list(zip(job.inner_weights, job.inner_metadata, strict=True))
        slices = TrainingSlices(add_presegmentations(slices.cases, networks, data.roles, backend.device))
    trainer = Trainer(network, objective, slices, settings, job.seed, backend, validator)
    return trainer.fit(states, job.title, save_every_seconds=job.save_every_seconds, changed=job.changed_training)


def write_result(job: TrainJob, data: TrainingData, backend: Backend, result: TrainingResult) -> None:
    """Write the history, the weights, and last the metadata with their hashes. Log signs of a collapsed generator.

    Args:
        job: the job, which names the files.
        data: its cases.
        backend: the device and precision that were used.
        result: what to write.
    """
    for sign in describe_signs(result.generator):
        log.warning("%s: %s", job.title, sign)
    remove_partial_files(job.history.parent)
    write_sealed_csv(pd.DataFrame(result.history), job.history)
    built_from = job.settings | {"image_channels": data.image_channels}
    save_weights(job.weights, result.checkpoint, built_from)
    save_early(job.early, [checkpoint.weights for checkpoint in result.early], built_from)
    metadata = {"network": job.name, "settings": job.settings, "grid": job.grid, "image_channels": data.image_channels}
    metadata |= {"split": job.split, "seed": job.seed, "training_cases": data.roles["train"], **result.to_metadata()}
    metadata |= {"threads": job.compute.threads, "device_type": backend.device.type}
    metadata |= run_record(
        job.config,
        job.code,
        seed=job.seed,
        device=device_name(backend.device),
        precision=backend.precision,
        seconds=result.history[-1]["seconds"],
        made_from=[job.first_metadata, job.presegmenter_metadata, *job.inner_metadata],
    )
    seal_path(job.metadata).unlink(missing_ok=True)
    save_metadata(job.metadata, [job.weights, job.early], metadata)
    seal(job.metadata)


def _as_paths(value: str | Sequence[str]) -> Path | tuple[Path, ...]:
    """Return the path, or the paths, of an entry of Snakemake's files."""
    return Path(value) if isinstance(value, str) else tuple(map(Path, value))


def _load_presegmenter(job: TrainJob) -> nn.Module | None:
    """Return the trained network whose masks some chains start from in validation, if the job has one."""
    if job.presegmenter_weights is None:
        return None
    return load_model(job.presegmenter_weights, job.presegmenter_metadata)[0]


def _build_network(job: TrainJob, image_channels: int) -> nn.Module:
    """Build the job's network, with random weights or with the first weights."""
    network = build_model(job.settings, image_channels)
    if job.first_weights:
        tensors, metadata = load_weights(job.first_weights, job.first_metadata)
        built_from = job.settings | {"image_channels": image_channels}
        assign_weights(network, tensors, job.first_weights, built_from, architecture_settings(metadata))
    return network
