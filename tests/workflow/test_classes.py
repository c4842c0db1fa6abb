"""A dataset with several classes, from label maps to tables (about a minute)."""

from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
from workflow_runs import snakemake

CLASSES = {1: "CSF", 2: "grey matter", 4: "white matter"}
CONFIG = """
dataset: tissues
datasets:
  tissues:
    layout: table
    table: tissues.csv
    folder: scans
    channels: [T1]
    classes: {1: CSF, 2: grey matter, 4: white matter}
grid: {spacing_mm: 4.0, region: brain_box, margin_mm: 2}
folds: {count: 3}
splits: [0]
training: {batch: 4, crop: [32, 32], validate_every: 20, validation_slices: 4, precision: float32, learning_rate: 5.0e-3}
networks:
  unet: {channels: [4, 4, 8, 8, 16], steps: 60}
  denoiser:
    {channels: 8, multipliers: [1, 2], attention_at: [], residual_blocks: 1, steps: 60, predicts: mask, likelihood_skip: true,
     mask_coding: signed, mask_loss: cross_entropy_dice, validation_presegmenter: unet}
methods:
  pd-ddpm: {presegmentation: unet}
  mean: {label: Mean, segmenter: mean, mean_of: [unet, ddpm], denoiser: null}
sampling: {samples: 2, reverse_steps: 5, variance: small, precision: float32}
exhibits:
  table1: [unet, ddpm, pd-ddpm, mean]
  table2: {presegmentations: [{method: zero, printed: Zero}, {method: unet, printed: "0.799"}]}
  fig2_uncertainty: {cases: 1}
  fig3_tprime: {t_start: [200, 400]}
  fig4_ensemble: {pool: 3}
  pareto: {t_start: [400], reverse_steps: {ddim: [5]}, members: [1, 2]}
  probe: {slices: 4, timesteps: [300]}
  claims: {tdpm: null, es_ddpm: null}
"""


def write_cohort(folder: Path) -> None:
    """Write three scans of nested ellipsoids, whose shells are the classes, their label maps, table and configuration."""
    random = np.random.default_rng(0)
    affine = np.diag([2.0, 2.0, 3.0, 1.0])
    rows = []
    for number in range(3):
        case = folder / "scans" / f"p{number}"
        case.mkdir(parents=True)
        x, y, z = np.indices((70, 84, 20))
        distance = np.sqrt(((x - 35 - number) / 28) ** 2 + ((y - 42) / 36) ** 2 + ((z - 10) / 9) ** 2)
        labels = np.select([distance < 0.3, distance < 0.8, distance < 1], [1, 4, 2], 0).astype(np.uint8)
        intensity = np.select([labels == 1, labels == 4, labels == 2], [60, 200, 130], 0)
        scan = (intensity + random.normal(0, 5, labels.shape)).clip(0).astype(np.float32)
        nibabel.save(nibabel.Nifti1Image(scan, affine), case / "T1.nii.gz")
        nibabel.save(nibabel.Nifti1Image(labels, affine), case / "mask.nii.gz")
        rows.append({"case": f"p{number}", "site": "s", "T1": f"p{number}/T1.nii.gz", "mask": f"p{number}/mask.nii.gz"})
    pd.DataFrame(rows).to_csv(folder / "tissues.csv", index=False)
    (folder / "tissues.yaml").write_text(CONFIG, encoding="utf-8")


@pytest.mark.workflow
def test_workflow_with_classes_makes_all_exhibits(fresh: Path) -> None:
    write_cohort(fresh)
    run = snakemake(fresh, "--configfile", "tissues.yaml", "--cores", "2")
    assert run.returncode == 0, run.stdout + run.stderr
