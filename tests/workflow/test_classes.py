"""A dataset with several classes, from label maps to tables, a bundle and other formats (one to two minutes)."""

import json
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
from workflow_runs import snakemake

LABELS = {"CSF": 1, "grey matter": 2, "white matter": 4}
CONFIG = """
dataset: classes
datasets:
  classes:
    layout: table
    table: tissues.csv
    folder: scans
    channels: [T1]
    classes: {1: CSF, 2: grey matter, 4: white matter}
grid: {spacing_mm: null, region: brain_box, margin_mm: 4}
folds: {count: 3}
splits: [0]
training: {batch: 4, crop: [32, 32], validate_every: 30, validation_slices: 3, precision: float32, learning_rate: 5.0e-3}
networks:
  unet: {channels: [4, 4, 8, 8, 16], steps: 90}
  denoiser:
    {channels: 8, multipliers: [1, 2], attention_at: [], residual_blocks: 1, steps: 30, predicts: mask, likelihood_skip: true,
     mask_coding: signed, mask_loss: cross_entropy_dice, validation_presegmenter: unet}
methods:
  pd-ddpm: {presegmentation: unet}
sampling: {samples: 2, reverse_steps: 20, variance: small, precision: float32}
exhibits:
  table1: [unet, pd-ddpm]
  table2: null
  fig2_uncertainty: {cases: 1}
  fig3_tprime: null
  fig4_ensemble: null
  pareto: null
  probe: {slices: 4, timesteps: [300]}
  claims: null
"""


def write_cohort(folder: Path) -> None:
    """Write three scans of nested ellipsoids, whose shells are the classes, their label maps, table and configuration."""
    random = np.random.default_rng(0)
    affine = np.diag([4.0, 4.0, 6.0, 1.0])
    rows = []
    for number in range(3):
        case = folder / "scans" / f"p{number}"
        case.mkdir(parents=True)
        x, y, z = np.indices((40, 46, 14))
        distance = np.sqrt(((x - 19.5 - number) / 16) ** 2 + ((y - 23) / 20) ** 2 + ((z - 7) / 6) ** 2)
        labels = np.select([distance < 0.3, distance < 0.8, distance < 1], [1, 4, 2], 0).astype(np.uint8)
        intensity = np.select([labels == 1, labels == 4, labels == 2], [60, 200, 130], 0)
        scan = (intensity + random.normal(0, 5, labels.shape)).clip(0).astype(np.float32)
        nibabel.save(nibabel.Nifti1Image(scan, affine), case / "T1.nii.gz")
        nibabel.save(nibabel.Nifti1Image(labels, affine), case / "mask.nii.gz")
        rows.append({"case": f"p{number}", "site": "s", "T1": f"p{number}/T1.nii.gz", "mask": f"p{number}/mask.nii.gz"})
    pd.DataFrame(rows).to_csv(folder / "tissues.csv", index=False)
    (folder / "tissues.yaml").write_text(CONFIG, encoding="utf-8")


def pd_ddpm(folder: Path, *arguments: str) -> None:
    """Run the command line `pd-ddpm` in a folder."""
    run = subprocess.run(
        [sys.executable, "-m", "pd_ddpm.commands.main", *arguments], cwd=folder, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stdout + run.stderr


def voxels(path: Path) -> np.ndarray:
    return np.asarray(nibabel.load(path).dataobj)


@pytest.mark.workflow
def test_workflow_with_classes_makes_tables_predictions_and_formats(fresh: Path) -> None:
    write_cohort(fresh)
    run = snakemake(fresh, "--configfile", "tissues.yaml", "--cores", "2")
    assert run.returncode == 0, run.stdout + run.stderr

    # Label maps: the U-Net has learnt the classes; scores are those of the files.
    predictions = fresh / "results/classes/predictions/unet/split-0_seed-0"
    (case,) = pd.read_csv(predictions / "predictions.csv")["case"]
    predicted, truth = (
        voxels(predictions / f"{case}_mask.nii.gz"),
        voxels(fresh / "results/classes/cases" / f"{case}_mask.nii.gz"),
    )
    scores = pd.read_csv(fresh / "results/classes/scores/unet/split-0_seed-0.csv").set_index("class")
    for name, label in LABELS.items():
        both, total = ((predicted == label) & (truth == label)).sum(), (predicted == label).sum() + (truth == label).sum()
        assert scores.loc[name, "dice"] == pytest.approx(2 * both / total)
    table1 = pd.read_csv(fresh / "results/table1.csv").set_index("method")
    assert table1.loc["U-Net", "dice"] == pytest.approx(scores.loc[list(LABELS), "dice"].mean(), abs=1e-5)
    assert table1.loc["U-Net", "dice"] > 0.6
    groups = pd.read_csv(fresh / "results/table1_groups.csv")
    assert list(groups.loc[groups["grouping"] == "class", "group"].unique()) == list(LABELS)
    page = (fresh / "results/index.html").read_text(encoding="utf-8")
    assert all(f'"label": "{name}"' in page for name in LABELS)

    # A bundle segments the scan as the workflow has.
    pd_ddpm(fresh, "export", "results/classes", "--method", "pd-ddpm", "--split", "0", "--seed", "0", "--output", "bundle")
    pd_ddpm(fresh, "predict", "--image", f"T1=scans/{case}/T1.nii.gz", "--name", case, "--model", "bundle", "--output", "scan")
    chains = fresh / "results/classes/predictions/pd-ddpm/split-0_seed-0"
    assert np.array_equal(voxels(fresh / "scan/mask.nii.gz"), voxels(chains / f"{case}_mask.nii.gz"))
    probability = voxels(fresh / "scan/probability.nii.gz")
    assert probability.shape == (*truth.shape, 4)
    volumes = pd.read_csv(fresh / "scan/classes.csv").set_index("class")["voxels"]
    assert volumes.to_dict() == {name: (voxels(fresh / "scan/mask.nii.gz") == label).sum() for name, label in LABELS.items()}

    # BIDS and nnU-Net, and nnU-Net's dataset description names the same classes.
    for source in ("results/classes/predictions/unet", "scan"):
        target = f"bids-{Path(source).name}"
        pd_ddpm(fresh, "convert", source, "--to", "bids", "--output", target)
        files = sorted(path.name for path in (fresh / target).rglob("*.nii.gz"))
        assert sum("_dseg" in name for name in files) == 1
        assert sum("_label-greyMatter_" in name for name in files) == 1
    pd_ddpm(fresh, "convert", "results/classes/predictions/unet", "--to", "nnunet", "--output", "nnunet")
    description = json.loads((fresh / "nnunet/dataset.json").read_text(encoding="utf-8"))
    assert description["labels"] == {"background": 0, **LABELS}
    assert np.array_equal(voxels(fresh / "nnunet" / f"{case}.nii.gz"), predicted)
