"""Files that hold the same scan in different ways get the same mask from networks. About 5 s.

RANDOM_INPUTS=2000 tries 100 random pairs of files instead of two: `RANDOM_INPUTS=2000 python -m pytest -n 0` and this file.
"""

import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml
from conftest import with_random_weights
from hypothesis import example, given
from stored_scans import HEAD_SPACING, encodings, inputs, make_head, store

from pd_ddpm.config import resolve
from pd_ddpm.data.nifti.geometry import reorient
from pd_ddpm.data.preparation.normalise import read_normalised
from pd_ddpm.data.working_grid import GridSettings
from pd_ddpm.deployment.bundle import Stage
from pd_ddpm.deployment.predict_scan import LoadedStage, sample_members
from pd_ddpm.evaluation.metrics import dice
from pd_ddpm.inference.ensemble import Segmentation
from pd_ddpm.inference.factory import build_segmenter
from pd_ddpm.runtime.precision import FLOAT32

ROOT = Path(__file__).parents[2]
AFFINE = np.diag([*HEAD_SPACING, 1.0])
GRID = GridSettings(spacing_mm=None, region="brain_box", margin_mm=4.0, minimum_brain_cm2=20.0)
PLAIN = {
    "dtype": np.dtype(np.float32),
    "byte_order": "<",
    "factor": 1,
    "offset": 0,
    "image_class": nib.Nifti1Image,
    "ending": ".nii.gz",
    "orientation": np.array([[0, 1], [1, 1], [2, 1]]),
    "codes": (1, 1),
    "positive_qfac": 1,
}


@pytest.fixture(scope="module")
def stages() -> list[LoadedStage]:
    """An AttUNet and a denoiser that starts from its masks, with random weights that make them sensitive to their input."""
    config = yaml.safe_load((ROOT / "config" / "config.yaml").read_text(encoding="utf-8"))
    chain = {"samples": 2, "pool": 2, "reverse_steps": 20, "t_start": 300, "presegmentation": "attunet"}
    stages = []
    for network, method, shape, changes in (
        ("attunet", "attunet", {"channels": [4, 8]}, {"pool": 1}),
        ("denoiser", "pd-ddpm", {"channels": 8, "multipliers": [1, 2], "attention_at": [2], "residual_blocks": 1}, chain),
    ):
        settings = resolve.method(config, method) | changes
        model = with_random_weights(resolve.network(config, network) | shape).eval()
        stage = Stage(method, settings, network, 0, settings.get("presegmentation"))
        stages.append(LoadedStage(stage, build_segmenter(settings, model), GRID, FLOAT32, "", 0))
    return stages


def mask_of(head: np.ndarray, flair: dict, t1: dict, stages: list[LoadedStage]) -> np.ndarray:
    """Return the mask of a head in RAS order, from files with these encodings."""
    with tempfile.TemporaryDirectory() as folder:
        path = store(Path(folder), head, AFFINE, flair)
        # On a coarser grid, and with other contrasts.
        t1_path = store(Path(folder), (255 - head)[::2, ::2], AFFINE @ np.diag([2, 2, 1, 1]), t1)
        case = {"case": "a", "FLAIR": str(path), "FLAIR_transform": "", "T1": str(t1_path), "T1_transform": ""}
        scan = read_normalised(case, ["FLAIR", "T1"])
        members, _ = sample_members(
            stages,
            scan,
            "LPS",
            device=torch.device("cpu"),
            batch=20,
            partial_dir=Path(folder),
            fingerprint_inputs="",
        )
    mask = Segmentation.from_members(members).mask
    return np.asarray(reorient(mask.astype(np.uint8), scan.reference, "RAS").dataobj) > 0


@pytest.fixture(scope="module")
def expected(stages) -> np.ndarray:
    mask = mask_of(make_head(), PLAIN, PLAIN, stages)
    # A mask without or full of lesions would be equal for other inputs, too.
    assert 0.005 < mask.mean() < 0.5
    return mask


def turned(order: tuple[int, int, int], *signs: int) -> dict:
    return PLAIN | {"orientation": np.column_stack([order, signs])}


@example(flair=turned((2, 0, 1), -1, 1, -1), t1=turned((1, 2, 0), 1, -1, 1))
@example(flair=PLAIN | {"dtype": np.dtype(np.int16), "factor": 64, "offset": 300}, t1=PLAIN | {"dtype": np.dtype(np.uint8)})
@example(flair=PLAIN | {"codes": (1, 0), "ending": ".nii"}, t1=PLAIN | {"codes": (0, 1), "byte_order": ">"})
@inputs(0.05)
@given(flair=encodings(), t1=encodings())
def test_sample_members_of_any_encoding_returns_the_same_mask(stages, expected, flair, t1):
    assert dice(expected, mask_of(make_head(), flair, t1, stages)) >= 0.999


def test_sample_members_of_another_scan_returns_another_mask(stages, expected):
    """Without this, the test above would prove nothing."""
    other = np.roll(make_head(), 2, axis=0)
    assert dice(expected, mask_of(other, PLAIN, PLAIN, stages)) < 0.9
