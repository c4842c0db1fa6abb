"""Masks of another program in the workflow: a row in each exhibit, a start of chains, and re-runs of changed files."""

import shutil
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
from workflow_runs import error, jobs, snakemake

from pd_ddpm.inference.cost import Cost
from pd_ddpm.inference.prediction_store import PredictionFolder, read_predictions, write_manifest
from pd_ddpm.runtime.sealed import read_sealed_json

pytestmark = pytest.mark.workflow

CONFIG = """
methods:
  nnunet: {label: nnU-Net, segmenter: files, folder: "nnunet/fold_{split}", pattern: "{case}.nii.gz"}
exhibits:
  table1: [unet, attunet, nnunet, bayesian-unet, probabilistic-unet, ddpm, tdpm, es-ddpm, pd-ddpm]
"""
FILES = ("--configfile", "small.yaml", "files.yaml")
PREDICTIONS = Path("results/phantom/predictions")
RUN = "split-0_seed-0"


def target(method: str, kind: str = "predictions") -> str:
    return f"results/phantom/scores/{method}/{RUN}.csv" if kind == "scores" else f"{PREDICTIONS}/{method}/{RUN}/predictions.csv"


def let_unet_find_lesions(folder: Path) -> list[str]:
    """Replace U-Net's masks, which are empty after so short a training, by smoothed ground truth; return the test cases."""
    run = folder / PREDICTIONS / "unet" / RUN
    records, metadata = read_predictions(run / "predictions.csv"), read_sealed_json(run / "method.json")
    store, random = PredictionFolder(run, "made up"), np.random.default_rng(0)
    rows = []
    for case in records["case"]:
        image = nibabel.load(folder / f"results/phantom/cases/{case}_mask.nii.gz")
        mask = (image.get_fdata() == 1) & (random.random(image.shape) < 0.8)
        rows.append(store.write(case, mask[..., None] * 1.0, 1, image, Cost(0, 1, 0.1, 0.1)))
    shard = {"stamp": "made up", "cases": rows, "method": metadata}
    write_manifest(run / "predictions.csv", run / "method.json", list(records["case"]), [shard])
    return list(records["case"])


def test_masks_of_unet_as_files_score_and_start_chains_as_unet_does(finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "files"
    shutil.copytree(finished, folder, symlinks=True)
    (folder / "files.yaml").write_text(CONFIG, encoding="utf-8")
    cases = let_unet_find_lesions(folder)
    # What nnU-Net's prediction leaves behind: masks of all cases, of which only the test cases are read.
    masks = folder / "nnunet" / "fold_0"
    masks.mkdir(parents=True)
    for name in ("dataset.json", "plans.json", "predict_from_raw_data_args.json"):
        (masks / name).write_text("{}", encoding="utf-8")
    for case in cases:
        shutil.copy(folder / PREDICTIONS / "unet" / RUN / f"{case}_mask.nii.gz", masks / f"{case}.nii.gz")

    starts = [f"pd-ddpm@presegmentation={name}" for name in ("unet", "nnunet")]
    targets = [*map(target, starts), target("unet", "scores"), target("nnunet", "scores"), "results/table1.csv"]
    planned = jobs(snakemake(folder, "-n", *targets, "results/pareto.csv", *FILES))
    assert {rule: planned[rule] for rule in ("list_masks", "import_masks", "sample", "table1")} == {
        "list_masks": 1,
        "import_masks": 1,
        "sample": 2,
        "table1": 1,
    }
    assert "train" not in planned
    run = snakemake(folder, *targets, "results/pareto.csv", "results/phantom/exhibits/cost.csv", *FILES)
    assert run.returncode == 0, run.stdout + run.stderr

    theirs, ours = (pd.read_csv(folder / target(name, "scores")) for name in ("nnunet", "unet"))
    unlike = ["method", "network_evaluations", "seconds"]
    pd.testing.assert_frame_equal(theirs.drop(columns=unlike), ours.drop(columns=unlike), rtol=0, atol=1e-9)
    assert (ours["dice"] > 0.3).all()
    assert theirs[["network_evaluations", "seconds"]].isna().all(axis=None)
    for case in cases:
        from_unet, from_files = ((folder / target(name)).with_name(f"{case}_samples.nii.gz").read_bytes() for name in starts)
        assert from_unet == from_files
    table = pd.read_csv(folder / "results/table1.csv").set_index("method")
    assert table.loc["nnU-Net", "dice"] == table.loc["U-Net", "dice"]
    assert np.isnan(table.loc["nnU-Net", "network_evaluations"])
    text = (folder / "results/table1.md").read_text(encoding="utf-8")
    assert "not known" in text
    assert "may have been trained on test cases" not in text
    points = pd.read_csv(folder / "results/pareto.csv").set_index("label")
    assert not points.loc["nnU-Net", ["on_front_seconds", "on_front_evaluations"]].any()
    costs = pd.read_csv(folder / "results/phantom/exhibits/cost.csv")
    assert costs.query("name == 'nnunet'")["hours"].isna().all()

    # A changed mask re-runs its import and what depends on it, and no other sampling; the sentence on seen cases only tables.
    assert jobs(snakemake(folder, "-n", *targets, *FILES)) == {}
    image = nibabel.load(masks / f"{cases[0]}.nii.gz")
    nibabel.save(nibabel.Nifti1Image(np.zeros(image.shape, np.uint8), image.affine), masks / f"{cases[0]}.nii.gz")
    planned = jobs(snakemake(folder, "-n", *targets, *FILES))
    assert planned == {"import_masks": 1, "sample": 1, "score": 1, "table1": 1, "publish_table1": 1}


def test_missing_masks_are_named_before_anything_is_sampled(finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "missing"
    shutil.copytree(finished, folder, symlinks=True)
    (folder / "files.yaml").write_text(CONFIG, encoding="utf-8")
    (folder / "nnunet" / "fold_0").mkdir(parents=True)
    message = error(snakemake(folder, target("nnunet"), *FILES))
    splits = pd.read_csv(folder / "results/phantom/splits.csv").query("split == 0 and role == 'test'")
    assert f"{len(splits)} of {len(splits)} cases have no file: {', '.join(splits['case'])}" in message
