"""Check every file of a dataset before training and report all problems, each with its remedy."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from shutil import disk_usage
from typing import Any

import pandas as pd

from pd_ddpm.config import resolve
from pd_ddpm.data.cases.find import find_cases
from pd_ddpm.data.cases.table import ROLES, CohortError
from pd_ddpm.data.check.case import examine_case
from pd_ddpm.data.check.report import Finding, Report, Requirements
from pd_ddpm.data.preparation.case import cohort_problems
from pd_ddpm.data.splits import make_splits
from pd_ddpm.runtime.process_pool import in_processes


def check_dataset(
    config: resolve.Config, dataset: str, target: str | Path, splits: Sequence[int] | None = None, processes: int = 1
) -> Report:
    """Check a data set of the configuration from its folder or table of cases on; see `check_cases`."""
    requirements = Requirements.from_config(config, dataset)
    chosen = config["datasets"][dataset]
    source = chosen.get("table", chosen["folder"])
    if "simulate" in chosen and not (Path(source) / "simulated.json").is_file():
        text = "the workflow simulates these scans and has not done so yet; run snakemake, which checks them too."
        return Report(requirements.channels, [Finding.of_text("warning", "", source, text)])
    try:
        table, problems = find_cases(dataset, chosen), []
    except CohortError as error:
        table, problems = error.table, [Finding.of_text("error", "", source, text) for text in error.problems]
    except ValueError as error:
        table, problems = None, [Finding.of_text("error", "", source, str(error))]
    if table is None:
        return Report(requirements.channels, problems)
    report = check_cases(table, requirements, target, splits, processes)
    report.findings[:0] = problems
    return report


def check_cases(
    table: pd.DataFrame,
    requirements: Requirements,
    target: str | Path,
    splits: Sequence[int] | None = None,
    processes: int = 1,
) -> Report:
    """Read every image of a table of cases whole and return all findings.

    Each case by itself: every byte, the geometry and the values of its files, one grid for image and masks, labels,
    a rough brain mask, and whether the channels cover the brain. Beside each other: equal scans under two names, voxel
    axes, lesions at all, folds and roles (all splits, or those of `splits`). Last, whether `target`, where results go,
    can be written and has the room. Files with an empty path are passed over.
    """
    began = time.monotonic()
    cases = table.to_dict("records")
    outcomes = in_processes(partial(examine_case, requirements=requirements), cases, processes, "checking")
    rows = pd.DataFrame([row for _, row, _ in outcomes if row is not None])
    report = Report(requirements.channels, [one for findings, *_ in outcomes for one in findings], rows, len(cases))
    report.files = sum(files for *_, files in outcomes)
    report.findings += [*_beside_each_other(rows), *_splits(table, requirements.folds, splits)]
    report.findings += _target(Path(target), rows, len(requirements.channels))
    report.seconds = time.monotonic() - began
    return report


def _beside_each_other(rows: pd.DataFrame) -> list[Finding]:
    if rows.empty:
        return []
    findings = [Finding.of_text("error", "", "", text) for text in cohort_problems(rows)]
    known = set(map(tuple, rows.groupby("sha256")["case"].agg(list)))
    for column in (column for column in rows if column.startswith("sha256 of ")):
        for cases in rows.groupby(column)["case"].agg(tuple):
            if len(cases) > 1 and cases not in known:
                text = f"cases {', '.join(cases)} have the same {column.removeprefix('sha256 of ')}; give each its own file."
                severity = "warning" if column.endswith(" mask") else "error"
                findings.append(Finding.of_text(severity, "", "", text))
    if rows["lesion_ml"].notna().any() and not rows["lesion_ml"].fillna(0).any():
        text = "no mask has a voxel of lesion (label 1), so nothing can be learnt; recode the masks to 1 for lesion."
        findings.append(Finding.of_text("error", "", "", text))
    return findings


def _splits(table: pd.DataFrame, folds: Mapping[str, Any] | None, splits: Sequence[int] | None) -> list[Finding]:
    """Whether folds or roles can be dealt out; left alone where the table itself is contradictory, which has been said."""
    roles, given = table["role"], {int(table["role"].ne("").sum()), int(table["fold"].notna().sum())}
    if folds is None or not given <= {0, len(table)} or not set(roles) <= {*ROLES, ""}:
        return []
    wanted = splits if splits is not None else [0] if roles.ne("").any() else range(folds["count"])
    try:
        make_splits(table.drop_duplicates("case"), folds["count"], folds["seed"], folds["stratify_by_site"], wanted)
    except ValueError as error:
        return [Finding.of_text("error", "", "", str(error))]
    return []


def _target(target: Path, rows: pd.DataFrame, channels: int) -> list[Finding]:
    """Whether results can be written and the prepared cases fit: float32 for each channel, uint8 for mask and brain."""
    existing = next(folder for folder in (target.absolute(), *target.absolute().parents) if folder.exists())
    try:
        with tempfile.TemporaryFile(dir=existing) as probe:
            probe.write(bytes(1 << 16))
            probe.flush()
    except OSError as error:
        text = (
            f"results cannot be written there ({error.strerror}); make it a folder that is writable and has room, or another."
        )
        return [Finding.of_text("error", "", target, text)]
    needed = 0 if rows.empty else int(rows["voxels"].sum()) * (4 * channels + 2)
    free = disk_usage(existing).free
    if free >= 2 * needed:
        return []
    # They are compressed, to half or so; samples of the methods come on top.
    severity = "error" if free < needed / 2 else "warning"
    text = (
        f"{free / 1e9:.1f} GB are free, and the prepared cases hold {needed / 1e9:.1f} GB before compression; free some room."
    )
    return [Finding.of_text(severity, "", target, text)]
