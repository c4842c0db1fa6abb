"""Failures that stop a workflow: missing data, invalid scans, a missing GPU, a full disk."""

from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
from workflow_runs import error, small_cohort, snakemake

pytestmark = pytest.mark.workflow


def test_missing_wmh_data_names_their_source(fresh: Path) -> None:
    message = error(snakemake(fresh, "results/wmh/cases.csv", "--config", "scale=paper"))
    assert "datasets.wmh.folder" in message
    assert "10.34894/AECRSD" in message
    assert not (fresh / "results/wmh/cases.csv").exists()


def rewrite(path: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    image = nibabel.load(path)
    nibabel.save(nibabel.Nifti1Image(change(np.asarray(image.dataobj).copy()), image.affine), path)


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def test_missing_scan_stops_the_run_and_is_named(fresh: Path) -> None:
    small_cohort(fresh)
    (fresh / "scans/p3/T1.nii.gz").unlink()
    message = error(snakemake(fresh, "results/own/cases/prepared.csv", "--configfile", "own.yaml"))
    assert "p3/T1.nii.gz" in message
    assert "Traceback" not in message


def test_invalid_scans_stop_the_run_and_are_all_named(fresh: Path) -> None:
    small_cohort(fresh)
    scans = fresh / "scans"
    flip_a_bit(scans / "p0/FLAIR.nii.gz")
    rewrite(scans / "p1/FLAIR.nii.gz", lambda scan: np.where(scan > 150, np.nan, scan))
    rewrite(scans / "p2/mask.nii.gz", lambda mask: mask[:-2])
    rewrite(scans / "p3/mask.nii.gz", lambda mask: mask * 3)
    message = error(snakemake(fresh, "results/own/cases/prepared.csv", "--configfile", "own.yaml"))
    findings = {
        "p0/FLAIR.nii.gz": ["gzip stream"],
        "p1/FLAIR.nii.gz": ["NaN"],
        "p2/mask.nii.gz": ["shape", "(68, 84, 24)", "(70, 84, 24)"],
        "p3/mask.nii.gz": ["voxels hold 3,"],
    }
    for file, words in findings.items():
        finding = message.partition(f"{file}\n")[2].partition("->")[0]
        for word in words:
            assert word in finding, f"{file}: {finding}"
    assert "Traceback" not in message


SMALL_TRAINING = """\
splits: [0]
seeds: [0]
device: cpu
grid: {spacing_mm: 4.0}
folds: {count: 5}
training: {batch: 2, crop: [16, 16], validate_every: 5, validation_slices: 4, precision: float32}
networks: {unet: {channels: [4, 4, 4, 4, 4], steps: 10}}
save_every_seconds: 0.1
resources: {train: {gpu: 0, mem_mb: 2000, runtime: 30, threads: 1}}
"""

# Code that the interpreter of each job runs at its start. The disk is full once, when the metadata of the network is renamed.
FULL_ONCE = """\
import os
original = os.replace
def replace(source, target, **more):
    if str(target).endswith("model.json") and os.path.exists("full"):
        os.unlink("full")
        raise OSError(28, "No space left on device")
    return original(source, target, **more)
os.replace = replace
"""


def test_failed_training_keeps_its_state_and_its_retry_resumes(fresh: Path) -> None:
    small_cohort(fresh)
    (fresh / "training.yaml").write_text(SMALL_TRAINING + "retries: 1\n", encoding="utf-8")
    (fresh / "src" / "sitecustomize.py").write_text(FULL_ONCE, encoding="utf-8")
    (fresh / "full").touch()
    run = "networks/unet/split-0_seed-0"
    target = f"results/own/{run}/model.safetensors"
    done = snakemake(fresh, target, "--configfile", "own.yaml", "training.yaml", "--config", "scale=paper")
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    assert "model.json: there is no room for it" in output
    assert "Removing output files of failed job train" in output  # including the weights, which were complete
    assert target in output.split("Removing output files of failed job train")[1].split("\n\n")[0]
    log = (fresh / "results/logs/train/own" / f"{run.removeprefix('networks/')}.log").read_text(encoding="utf-8")
    assert f"resuming after step 10 of 10 from work/own/{run}" in log
    assert not (fresh / "full").exists()
    assert (fresh / target).exists()
    assert len(list((fresh / "work/own" / run).glob("*/finished.json"))) == 1


def test_missing_gpu_stops_before_data_are_prepared(fresh: Path) -> None:
    small_cohort(fresh)
    arguments = ("--configfile", "own.yaml", "--config", "device=cuda:7")
    message = error(snakemake(fresh, "results/own/networks/unet/split-0_seed-0/model.json", *arguments))
    assert "`device`: 'cuda:7' is not available" in message
    assert not (fresh / "results/own/cases.csv").exists()
    table = snakemake(fresh, "results/own/cases.csv", *arguments)  # needs no network
    assert table.returncode == 0, table.stdout + table.stderr
