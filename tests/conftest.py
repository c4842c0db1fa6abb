"""Fixtures of all tests: a small folder of prepared cases, jobs, scripts of the workflow, and a finished workflow.

PyTorch runs with one thread. Results are then equal bit for bit, and parallel tests do not slow each other down.
"""

import runpy
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from filelock import FileLock
from torch import nn
from workflow_runs import ROOT, copy_of_the_repository, snakemake

from pd_ddpm.config import resolve
from pd_ddpm.config.run import Run
from pd_ddpm.inference.job import SampleJob
from pd_ddpm.models.factory import build_model
from pd_ddpm.models.weights import save_metadata, save_weights
from pd_ddpm.runtime.compute import Compute
from pd_ddpm.training.job import TrainJob

GRID = {"spacing_mm": 2.0, "region": "brain_box", "margin_mm": 4.0, "minimum_brain_cm2": 0.5}
ROLES = {"one": "train", "two": "train", "three": "validation", "four": "test", "five": "test"}


def pytest_addoption(parser: pytest.Parser) -> None:
    text = (
        "a clone in which `snakemake --configfile tests/small.yaml` has run; tests then use its results instead of running it"
    )
    parser.addoption("--small-run", metavar="FOLDER", help=text)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run files with cluster tests first, then files that run Snakemake. They mostly wait, so other tests can run meanwhile."""
    mark_ranks = {"slurm": 0, "workflow": 1}
    file_ranks = {item.path: 2 for item in items}
    for item in items:
        for mark in item.iter_markers():
            file_ranks[item.path] = min(file_ranks[item.path], mark_ranks.get(mark.name, 2))
    items.sort(key=lambda item: file_ranks[item.path])


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def matmul_flags() -> Iterator[None]:
    """Restore whether PyTorch may compute in TF32, after a test that chooses precisions."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


@pytest.fixture
def script() -> Callable[[str], Callable[..., None]]:
    """A function that returns `main` of the workflow script with the given name."""
    return lambda name: runpy.run_path(str(ROOT / "workflow" / "scripts" / f"{name}.py"))["main"]


@pytest.fixture
def configured() -> Callable[..., dict[str, Any]]:
    """A function that returns the settings of a network or method in config/config.yaml, with changes."""
    config = yaml.safe_load((ROOT / "config" / "config.yaml").read_text(encoding="utf-8"))
    return lambda kind, name, **changes: getattr(resolve, kind)(config, name) | {"precision": "float32"} | changes


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    """A folder of five cases with two channels, a brain mask, labels 1 and 2, and a split.

    Lesions are bright in the first channel. Sizes are odd, voxels anisotropic, and the first and last slices have no brain.
    """
    folder = tmp_path / "cases"
    folder.mkdir()
    random = np.random.default_rng(0)
    shape, affine = (27, 21, 6), np.diag([1.3, 1.7, 4.0, 1.0])
    x, y, z = np.meshgrid(*[np.arange(n) for n in shape], indexing="ij")
    brain = ((x - 13) ** 2 / 144 + (y - 10) ** 2 / 81 < 1) & (z > 0) & (z < 5)
    for case in ROLES:
        labels = np.zeros(shape, dtype=np.uint8)
        for label, (row, column) in zip((1, 1, 2), random.integers((6, 5), (20, 16), (3, 2)), strict=True):
            labels[((x - row) ** 2 + (y - column) ** 2 < 9) & (z > 1) & (z < 5)] = label
        image = random.normal(0, 0.3, (*shape, 2)) * brain[..., None]
        image[..., 0] += 2.0 * (labels == 1)
        image[..., 1] -= 2.0 * (labels == 2)
        for name, array in (("image", image.astype(np.float32)), ("brain", brain.astype(np.uint8)), ("mask", labels)):
            nib.save(nib.Nifti1Image(array, affine), folder / f"{case}_{name}.nii.gz")
    (folder / "prepared.csv").write_text("\n".join(["case", *ROLES]) + "\n", encoding="utf-8")
    roles = pd.DataFrame({"split": 0, "role": ROLES.values(), "case": ROLES.keys(), "site": "s", "patient": ROLES.keys()})
    roles.to_csv(folder / "splits.csv", index=False)
    return folder


@pytest.fixture
def train_job(prepared: Path) -> Callable[[Path, dict[str, Any]], TrainJob]:
    """A function that returns the training job of a network's settings, with all outputs in one folder.

    The job saves a state after every step.
    """

    def job(folder: Path, settings: dict[str, Any]) -> TrainJob:
        folder.mkdir(exist_ok=True)
        return TrainJob(
            cases=prepared / "prepared.csv",
            splits=prepared / "splits.csv",
            weights=folder / "model.safetensors",
            early=folder / "early.safetensors",
            metadata=folder / "model.json",
            history=folder / "training.csv",
            state=folder / "work",
            name="denoiser",
            split=0,
            seed=3,
            settings=settings,
            grid=GRID,
            code="",
            compute=Compute("cpu", settings["precision"], threads=1, batch=settings["batch"]),
            save_every_seconds=1e-6,
            changed_training="stop",
            config={},
        )

    return job


def with_random_weights(settings: dict[str, Any]) -> nn.Module:
    """A network of these settings for two channels, none of whose layers is zero."""
    torch.manual_seed(0)
    network = build_model(settings, 2)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.2)
    return network


@pytest.fixture
def random_network(tmp_path: Path) -> Callable[[dict[str, Any]], dict[str, Path]]:
    """A function that writes a network of these settings with random weights; returns its files as fields of a job."""

    def write(settings: dict[str, Any], name: str = "a") -> dict[str, Path]:
        folder = Run("dataset", name, 0, 0).folder(tmp_path, "networks")
        folder.mkdir(parents=True)
        network = with_random_weights(settings)
        weights, metadata = folder / "model.safetensors", folder / "model.json"
        save_weights(weights, network.state_dict(), settings | {"image_channels": 2})
        save_metadata(metadata, [weights], {"settings": settings, "image_channels": 2, "grid": GRID})
        return {"weights": weights, "network_metadata": metadata}

    return write


@pytest.fixture
def sample_job(prepared: Path) -> Callable[..., SampleJob]:
    """A function that returns the job that samples a method's test cases, or a shard of them, into one folder."""

    def job(folder: Path, name: str, settings: dict[str, Any], *, batch: int | str, **fields: Any) -> SampleJob:
        folder.mkdir(exist_ok=True, parents=True)
        defaults = {
            "run": Run("dataset", name, 0, 0),
            "compute": Compute("cpu", settings["precision"], threads=1, batch=batch),
            "settings": {"grid_members": "soft"} | settings,
            "cases": prepared / "prepared.csv",
            "splits": prepared / "splits.csv",
            "folder": folder,
            "code": "",
            "config": {},
        }
        if shard := fields.get("shard"):
            defaults["shard_record"] = folder / "shards" / f"{shard.index}-of-{shard.count}.json"
        else:
            defaults["method_metadata"] = folder / "method.json"
        return SampleJob(**defaults | fields)

    return job


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, worker_id: str, pytestconfig: pytest.Config) -> Path:
    """A copy of the repository in which the small workflow has run, shared by all test processes. Tests must not change it."""
    base = tmp_path_factory.getbasetemp()
    shared = (base if worker_id == "master" else base.parent) / "finished"
    with FileLock(f"{shared}.lock"):
        if not shared.exists():
            folder = copy_of_the_repository(tmp_path_factory.mktemp("small"))
            if small_run := pytestconfig.getoption("--small-run"):
                for part in ("data", "results", "work", ".snakemake"):
                    shutil.copytree(Path(small_run) / part, folder / part, symlinks=True)
            else:
                run = snakemake(folder, "--configfile", "small.yaml")
                assert run.returncode == 0, run.stdout + run.stderr
            shared.symlink_to(folder)
    return shared.resolve()


@pytest.fixture
def fresh(tmp_path: Path) -> Path:
    """A copy of the repository in which nothing has run."""
    return copy_of_the_repository(tmp_path)
