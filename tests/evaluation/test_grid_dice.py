"""Dice of the ground truth through the working grid, against segmenters that know the truth (about 5 s)."""

from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import ndimage

from pd_ddpm.data.prepared import read_ground_truth, read_scan
from pd_ddpm.data.scan import Scan
from pd_ddpm.data.working_grid import GridSettings
from pd_ddpm.diffusion.noise import MethodNoise
from pd_ddpm.evaluation.grid_dice import case_grid_dice, grid_dice_table
from pd_ddpm.evaluation.metrics import ReferenceMask, score
from pd_ddpm.evaluation.scores import GRID_DICE
from pd_ddpm.inference.ensemble import Segmentation
from pd_ddpm.inference.prediction_store import as_stored
from pd_ddpm.inference.segment_case import segment_case

SHAPE, SPACING = (60, 48, 8), (1.0, 1.2, 3.0)
COARSE = {"spacing_mm": 2.5, "region": "brain_box", "margin_mm": 2.0, "minimum_brain_cm2": 1.0}


@dataclass
class Oracle:
    """A segmenter whose members are the first channel of the image: the truth's fraction of each pixel."""

    num_members: int = 1
    evaluations_shared: int = 0
    evaluations_per_member: int = 1
    divisor: int = 8
    coordinates: bool = False
    mask_channels: int = 1

    def __call__(self, image, presegmentation, noise):
        return image[:, :1]


def case_with_small_lesions() -> tuple[Scan, np.ndarray]:
    """Return a scan whose image is its lesion mask, and its labels. One slice has lesions but no brain."""
    random = np.random.default_rng(0)
    blobs = ndimage.gaussian_filter(random.normal(size=SHAPE), (2.5, 2.5, 0.7))
    labels = (blobs > np.quantile(blobs, 0.96)).astype(np.uint8)
    labels[ndimage.gaussian_filter(random.normal(size=SHAPE), 2) > 0.05] = 2
    brain = np.zeros(SHAPE, dtype=bool)
    brain[5:55, 5:43, 1:] = True
    image = (labels == 1).astype(np.float32)[..., None]
    return Scan("one", image, brain, nib.Nifti1Image(labels, np.diag([*SPACING, 1.0]))), labels


def oracle_dice(scan: Scan, labels: np.ndarray, members: str, num_members: int = 1) -> float:
    """Return the Dice of a segmenter that knows the truth, sampled, stored and scored as any method."""
    result = segment_case(
        Oracle(num_members),
        scan,
        GridSettings(**COARSE, members=members),
        noise=MethodNoise("oracle", 0),
        batch=4,
        device=torch.device("cpu"),
    )
    mask = Segmentation.from_members(as_stored(result.samples)).mask
    return score(ReferenceMask.from_labels(labels, scan.spacing_mm), mask)["dice"]


@pytest.mark.parametrize("num_members", [1, 3])
@pytest.mark.parametrize(("members", "column"), [("soft", 0), ("binary", 1), ("auto", 1)])
def test_grid_dice_equals_that_of_a_segmenter_that_knows_the_truth(members: str, column: int, num_members: int) -> None:
    scan, labels = case_with_small_lesions()
    expected = case_grid_dice(scan, labels, COARSE)
    assert oracle_dice(scan, labels, members, num_members) == expected[GRID_DICE[column]]
    assert 0.3 < expected["grid_dice_hard"] < expected["grid_dice_soft"] < 0.95


def test_grid_dice_of_whole_blocks_is_known() -> None:
    """Pixels of 2 x 2 voxels that the lesion fills return as they were, up to corners that bilinear interpolation cuts."""
    labels = np.zeros((40, 40, 2), dtype=np.uint8)
    labels[10:30, 10:30] = 1
    scan = Scan("block", labels[..., None], np.ones(labels.shape, bool), nib.Nifti1Image(labels, np.diag([1.0, 1.0, 3.0, 1.0])))
    grid = {"spacing_mm": 2.0, "region": "slice", "margin_mm": 0.0, "minimum_brain_cm2": 0.0}
    kept = case_grid_dice(scan, labels, grid)
    assert kept["grid_dice_hard"] == 1.0
    single = np.zeros_like(labels)
    single[11, 11] = 1  # a quarter of a pixel
    assert case_grid_dice(scan, single, grid) == {"grid_dice_soft": 0.0, "grid_dice_hard": 0.0}


@pytest.mark.parametrize("spacing_mm", [None, 0.5, 1.0])
def test_grid_dice_is_undefined_unless_the_grid_is_coarser(spacing_mm: float | None) -> None:
    scan, labels = case_with_small_lesions()
    assert np.isnan(list(case_grid_dice(scan, labels, COARSE | {"spacing_mm": spacing_mm}).values())).all()


def test_grid_dice_table_has_a_row_for_every_case(prepared: Path) -> None:
    grid = {"spacing_mm": 3.0, "region": "slice", "margin_mm": 0.0, "minimum_brain_cm2": 0.5}
    table = grid_dice_table(prepared / "prepared.csv", grid)
    assert table["case"].tolist() == pd.read_csv(prepared / "prepared.csv")["case"].tolist()
    for row in table.to_dict("records"):
        scan, labels = read_scan(prepared, row["case"]), read_ground_truth(prepared, row["case"])
        assert {name: row[name] for name in GRID_DICE} == case_grid_dice(scan, labels, grid)
