"""Check every file of a dataset before training, and report all problems with their remedies."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from shutil import disk_usage
from typing import Any

import pandas as pd

from pd_ddpm.config import resolve, study_names
from pd_ddpm.data.cases.find import find_cases
from pd_ddpm.data.cases.table import ROLES, CohortError
from pd_ddpm.data.cases.wmh import image_versions
from pd_ddpm.data.check.case import examine_case
from pd_ddpm.data.check.mask_files import mask_findings
from pd_ddpm.data.check.report import Finding, Report, Requirements
from pd_ddpm.data.check.table import table_problems
from pd_ddpm.data.label_maps import CLASSES_COLUMN, parse_classes
from pd_ddpm.data.preparation.case import cohort_problems
from pd_ddpm.data.splits import SplitError, make_splits
from pd_ddpm.runtime.problem import Problem
from pd_ddpm.runtime.process_pool import in_processes


def check_dataset(
    config: resolve.Config, dataset: str, output_dir: str | Path, splits: Sequence[int] | None = None, processes: int = 1
) -> Report:
    """Check a dataset of the configuration, beginning with its folder or table of cases, and the masks of other programs.

    Args:
        config: the active configuration.
        dataset: name of the dataset.
        output_dir: where results will be written.
        splits: see `check_cases`.
        processes: number of cases at the same time.
    """
    requirements = Requirements.from_config(config, dataset)
    settings = config["datasets"][dataset]
    source = settings.get("table", settings["folder"])
    if "simulate" in settings and not (Path(source) / "simulated.json").is_file():
        problem = Problem(source, "the workflow has not simulated these scans yet", "Run `snakemake`, which also checks them")
        return Report(requirements.channels, [Finding.from_problem("warning", problem)])
    try:
        table, problems = find_cases(study_names.dataset_key(config, dataset), settings), []
    except CohortError as error:
        table, problems = error.table, [Finding.from_problem("error", problem, file=source) for problem in error.problems]
    if table is None:
        return Report(requirements.channels, problems)
    report = check_cases(table, requirements, output_dir, splits, processes)
    report.findings[:0] = [*problems, *mask_findings(config, dataset, table)]
    return report


def check_scans(table: pd.DataFrame, channels: Sequence[str], output_dir: str | Path, processes: int = 1) -> Report:
    """Check scans without masks, which are to be segmented.

    Args:
        table: the case table; its column `mask` is empty.
        channels: names of the channels; the first defines the grid.
        output_dir: where results will be written.
        processes: number of scans at the same time.
    """
    requirements = Requirements(tuple(channels), orientation=None, grid_spacing_mm=None, crop=(1, 1), folds=None)
    return check_cases(table, requirements, output_dir, processes=processes)


def check_cases(
    table: pd.DataFrame,
    requirements: Requirements,
    output_dir: str | Path,
    splits: Sequence[int] | None = None,
    processes: int = 1,
) -> Report:
    """Read every image of a case table completely and return all findings.

    * Of each case: every byte, geometry and values of its files, one grid for image and masks, labels, a rough brain mask,
      whether the channels cover the brain and lie on each other, and whether lesions are bright.
    * Of all cases together: equal scans under two names, voxel axes, whether there are lesions at all, names that look like
      scans of one patient, sites, folds and roles.
    * Of the output folder: whether it is writable and has enough space.

    Args:
        table: the case table. Files with an empty path are skipped.
        requirements: what the configuration requires of the scans.
        output_dir: where results will be written.
        splits: numbers of the splits to check; None checks all of them.
        processes: number of cases at the same time.
    """
    started = time.monotonic()
    cases = table.to_dict("records")
    examinations = in_processes(partial(examine_case, requirements=requirements), cases, processes, "checking")
    findings = [finding for examination in examinations for finding in examination.findings]
    rows = pd.DataFrame([examination.row for examination in examinations if examination.row is not None])
    report = Report(requirements.channels, findings, rows, len(cases))
    report.files = sum(examination.files for examination in examinations)
    report.image_versions = image_versions(table, requirements.channels)
    report.findings += [*_cross_case_findings(rows), *_version_findings(report.image_versions)]
    report.findings += _class_findings(table, rows)
    report.findings += [Finding.from_problem("warning", problem) for problem in table_problems(table, requirements.source)]
    report.findings += _split_findings(table, requirements.folds, splits)
    report.findings += _output_dir_findings(Path(output_dir), rows, len(requirements.channels))
    report.seconds = time.monotonic() - started
    return report


def _cross_case_findings(rows: pd.DataFrame) -> list[Finding]:
    """Return findings that only a comparison of the cases reveals."""
    if rows.empty:
        return []
    findings = [Finding.from_problem("error", problem) for problem in cohort_problems(rows)]
    equal_scans = set(map(tuple, rows.groupby("sha256")["case"].agg(list)))
    for column in (column for column in rows if column.startswith("sha256 of ")):
        for cases in rows.groupby(column)["case"].agg(tuple):
            if len(cases) > 1 and cases not in equal_scans:
                text = f"cases {', '.join(cases)} have the same {column.removeprefix('sha256 of ')}"
                severity = "warning" if column.endswith(" mask") else "error"
                findings.append(Finding.from_problem(severity, Problem("", text, "Give each its own file")))
    if "lesion_ml" in rows and rows["lesion_ml"].notna().any() and not rows["lesion_ml"].fillna(0).any():
        text = "no mask has a voxel of lesion (label 1), so there is nothing to learn"
        findings.append(Finding.from_problem("error", Problem("", text, "Recode the masks to 1 for lesion")))
    return findings


def _class_findings(table: pd.DataFrame, rows: pd.DataFrame) -> list[Finding]:
    """Return an error for each class that no mask has, since nothing can be learnt about it."""
    findings = []
    for label, name in parse_classes(next(iter(table.get(CLASSES_COLUMN, [])), "")).items():
        if not rows.empty and not rows[f"{name} in ml"].fillna(0).any():
            text = f"no mask has a voxel of label {label} ({name}), so there is nothing to learn"
            findings.append(Finding.from_problem("error", Problem("", text, "Remove it from `classes`, or correct the masks")))
    return findings


def _version_findings(versions: Mapping[str, Mapping[str, int]]) -> list[Finding]:
    """Return a warning for each channel that cases have in different versions, which were corrected differently."""
    findings = []
    for channel, counts in versions.items():
        if len(counts) > 1:
            text = f"{channel} is {' and '.join(f'{name} in {count} case(s)' for name, count in counts.items())}"
            remedy = "Add the missing files, so that the intensities of all cases were corrected alike"
            findings.append(Finding.from_problem("warning", Problem("", text, remedy)))
    return findings


def _split_findings(table: pd.DataFrame, folds: Mapping[str, Any] | None, splits: Sequence[int] | None) -> list[Finding]:
    """Return why folds or roles make no valid splits. Contradictions within the table have findings of their own."""
    roles = table["role"]
    num_filled = {int(roles.ne("").sum()), int(table["fold"].notna().sum())}
    if folds is None or not num_filled <= {0, len(table)} or not set(roles) <= {*ROLES, ""}:
        return []
    wanted = splits if splits is not None else [0] if roles.ne("").any() else range(folds["count"])
    try:
        make_splits(table.drop_duplicates("case"), folds["count"], folds["seed"], folds["stratify_by_site"], wanted)
    except SplitError as error:
        return [Finding.from_problem("error", problem, file="") for problem in error.problems]
    return []


def _output_dir_findings(output_dir: Path, rows: pd.DataFrame, channels: int) -> list[Finding]:
    """Return whether results cannot be written, or the prepared cases do not fit on the disk.

    A prepared voxel takes 4 bytes (float32) per channel, and one byte each for mask and brain mask.
    """
    existing = next(folder for folder in (output_dir.absolute(), *output_dir.absolute().parents) if folder.exists())
    try:
        with tempfile.TemporaryFile(dir=existing) as probe:
            probe.write(bytes(1 << 16))
            probe.flush()
    except OSError as error:
        problem = f"results cannot be written there ({error.strerror})"
        remedy = "Make the folder writable and free some space, or choose another one"
        return [Finding.from_problem("error", Problem(output_dir, problem, remedy))]
    needed = 0 if rows.empty else int(rows["voxels"].sum()) * (4 * channels + 2)
    free = disk_usage(existing).free
    if free >= 2 * needed:
        return []
    # Compression halves the prepared cases, more or less. The samples of the methods need space in addition.
    severity = "error" if free < needed / 2 else "warning"
    problem = f"{free / 1e9:.1f} GB are free, and the prepared cases take {needed / 1e9:.1f} GB before compression"
    return [Finding.from_problem(severity, Problem(output_dir, problem, "Free some space"))]
