"""Run the workflow as a user does, in a copy of the repository."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pandas as pd

ROOT = Path(__file__).parents[1]
PARTS = ["Snakefile", "rules", "workflow", "config", "profiles", "slurm", "envs", "src"]


def copy_of_the_repository(folder: Path) -> Path:
    """Copy the workflow and the package into a folder and return the folder."""
    for part in PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        else:
            shutil.copy(ROOT / part, folder / part)
    shutil.copy(ROOT / "tests" / "small.yaml", folder / "small.yaml")
    return folder


def command(folder: Path, *arguments: str, environment: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """Return the arguments of `subprocess.run` for Snakemake in a copy of the repository, with the package of the copy."""
    variables = {"PYTHONPATH": str(folder / "src"), "HOME": str(folder), "XDG_CONFIG_HOME": str(folder / ".config")}
    return {"args": [sys.executable, "-m", "snakemake", *arguments], "cwd": folder, "env": environment | variables}


FULL = "--logger-pd-ddpm-full"  # lists each job in a dry run


def snakemake(folder: Path, *arguments: str, **more: Any) -> subprocess.CompletedProcess[str]:
    """Run Snakemake in a copy of the repository, see `command`."""
    return subprocess.run(**command(folder, *arguments, **more), capture_output=True, text=True)


def small_cohort(folder: Path) -> None:
    """Write a dataset of five tiny cases, p0 to p4, its table and its configuration."""
    random = np.random.default_rng(0)
    affine = np.diag([2.0, 2.0, 3.0, 1.0])
    rows = []
    for number in range(5):
        case = folder / "scans" / f"p{number}"
        case.mkdir(parents=True)
        distance = np.linalg.norm(
            (np.indices((70, 84, 24)) - np.array([35, 42, 12]).reshape(3, 1, 1, 1)) / [[[[28]]], [[[36]]], [[[11]]]], axis=0
        )
        for channel in ("FLAIR", "T1"):
            scan = (200 * (distance < 1) + random.normal(0, 5, distance.shape)).clip(0).astype(np.float32)
            nibabel.save(nibabel.Nifti1Image(scan, affine), case / f"{channel}.nii.gz")
        nibabel.save(nibabel.Nifti1Image((distance < 0.2).astype(np.uint8), affine), case / "mask.nii.gz")
        rows.append(
            {
                "case": f"p{number}",
                "site": "s",
                "FLAIR": f"p{number}/FLAIR.nii.gz",
                "T1": f"p{number}/T1.nii.gz",
                "mask": f"p{number}/mask.nii.gz",
            }
        )
    pd.DataFrame(rows).to_csv(folder / "own.csv", index=False)
    (folder / "own.yaml").write_text(
        "dataset: own\ndatasets: {own: {layout: table, table: own.csv, folder: scans, channels: [FLAIR, T1]}}\n"
        "folds: {count: 5}\n",
        encoding="utf-8",
    )


def jobs(dry_run: subprocess.CompletedProcess[str]) -> dict[str, int]:
    """Return rule -> number of jobs in the output of a dry run; empty if there is nothing to do."""
    assert dry_run.returncode == 0, dry_run.stdout + dry_run.stderr
    lines = (dry_run.stdout + dry_run.stderr).splitlines()
    headings = [number for number, line in enumerate(lines) if line.split()[:2] == ["job", "count"]]
    if not headings:
        assert any("Nothing to be done" in line for line in lines)
        return {}
    first = headings[0] + 2
    table = [line.split() for line in lines[first : lines.index("", first)]]
    return {row[0]: int(row[1]) for row in table if row[0] != "total"}


def error(run: subprocess.CompletedProcess[str]) -> str:
    """Return the output of a run that has failed."""
    assert run.returncode != 0, run.stdout + run.stderr
    return run.stdout + run.stderr


def edit(path: Path, old: str, new: str) -> None:
    """Replace the first occurrence of a text in a file."""
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
