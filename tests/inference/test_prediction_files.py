"""Stored predictions and pre-segmentations (below 1 s)."""

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from pd_ddpm.inference.cost import Cost
from pd_ddpm.inference.prediction_store import PredictionFolder, Presegmentations, read_predictions, read_samples

SHAPE = (3, 2, 2)
MEMBERS = np.array([0.0, 0.2, 1.0, 0.6])  # of every voxel: mean of the first two 0.1, of the first three 0.4


@pytest.fixture
def manifest(tmp_path):
    """A table of predictions with four members of one case; the first three are the ensemble."""
    template = nib.Nifti1Image(np.zeros(SHAPE, np.float32), np.eye(4))
    template.header.set_xyzt_units("mm")
    pool = np.broadcast_to(MEMBERS, (*SHAPE, 4)).astype(np.float32)
    record = PredictionFolder(tmp_path, "stamp").write("a", pool, 3, template, Cost(1, 2, 0.5, 0.25))
    pd.DataFrame([record]).to_csv(tmp_path / "predictions.csv", index=False)
    return tmp_path / "predictions.csv"


def test_prediction_folder_stores_the_pool_and_the_mask_of_the_ensemble(manifest):
    np.testing.assert_allclose(read_samples(manifest.parent, "a")[0, 0, 0], MEMBERS, atol=1 / 255)
    assert not nib.load(manifest.parent / "a_mask.nii.gz").get_fdata().any()
    variance = nib.load(manifest.parent / "a_uncertainty.nii.gz").get_fdata()
    np.testing.assert_allclose(variance, np.var(MEMBERS[:3], ddof=1), atol=1e-3)
    record = read_predictions(manifest).loc["a"]
    assert (record["samples"], record["pool"]) == (3, 4)


@pytest.mark.parametrize(("harden", "expected"), [(True, 0.0), (False, 0.4)])
def test_presegmentation_mean_is_that_of_the_ensemble(manifest, harden, expected):
    masks = Presegmentations(manifest, "mean", harden).read("a", SHAPE, num_members=2)
    assert masks.shape == (*SHAPE, 1)
    np.testing.assert_allclose(masks, expected, atol=1 / 255)


def test_presegmentation_each_is_one_mask_per_member(manifest):
    soft = Presegmentations(manifest, "each", harden=False).read("a", SHAPE, num_members=4)
    np.testing.assert_allclose(soft[1, 1, 1], MEMBERS, atol=1 / 255)
    hard = Presegmentations(manifest, "each", harden=True).read("a", SHAPE, num_members=3)
    assert hard[1, 1, 1].tolist() == [0, 0, 1]


def test_presegmentation_without_manifest_is_empty():
    empty = Presegmentations(None, "mean", harden=True)
    assert empty.read("a", SHAPE, num_members=5).shape == (*SHAPE, 1)
    assert not empty.read("a", SHAPE, num_members=5).any()
    assert empty.cost("a") == Cost()


def test_presegmentation_cost_is_shared_for_mean_and_per_member_for_each(manifest):
    assert Presegmentations(manifest, "mean", True).cost("a") == Cost(evaluations_shared=7, seconds_shared=1.25)
    assert Presegmentations(manifest, "each", True).cost("a") == Cost(1, 2, 0.5, 0.25)


def test_presegmentation_version_depends_on_fingerprints_and_not_on_times(manifest):
    before = Presegmentations(manifest, "mean", True).version()
    table = pd.read_csv(manifest)
    table.assign(seconds_per_member=9.0).to_csv(manifest, index=False)
    assert Presegmentations(manifest, "mean", True).version() == before
    table.assign(stamp="other").to_csv(manifest, index=False)
    assert Presegmentations(manifest, "mean", True).version() != before
