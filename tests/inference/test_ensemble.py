"""Mask and uncertainty of an ensemble (below 1 s)."""

import statistics

import nibabel
import numpy as np
import pytest

from pd_ddpm.data.nifti.read import read_array
from pd_ddpm.inference.cost import Cost
from pd_ddpm.inference.ensemble import ensemble_mask, member_variance
from pd_ddpm.inference.prediction_store import PredictionFolder


@pytest.mark.parametrize("members", [1, 2, 5])
def test_segmentation_equals_statistics_of_each_voxel(members):
    samples = np.random.default_rng(0).random((4, 3, 2, members)).astype(np.float32)
    mask, variance = ensemble_mask(samples), member_variance(samples)
    assert mask.dtype == bool
    assert variance.dtype == np.float32
    for place in np.ndindex(4, 3, 2):
        values = samples[place].tolist()
        assert mask[place] == (statistics.fmean(values) >= 0.5)
        expected = statistics.variance(values) if members > 1 else 0
        assert variance[place] == pytest.approx(expected, rel=1e-5)


def test_ensemble_mask_averages_probabilities_instead_of_masks():
    """Two confident members outweigh three uncertain ones."""
    samples = np.array([1.0, 1.0, 0.4, 0.4, 0.4]).reshape(1, 1, 1, 5)
    assert ensemble_mask(samples).all()


def test_member_variance_is_zero_if_members_agree_and_largest_if_they_split():
    assert not member_variance(np.full((2, 2, 2, 5), 0.7, dtype=np.float32)).any()
    split = member_variance(np.array([0.0, 0.0, 1.0, 1.0]).reshape(1, 1, 1, 4))
    assert split.item() == pytest.approx(1 / 3)


def test_member_variance_does_not_depend_on_ensemble_size():
    samples = np.random.default_rng(0).random((50, 50, 8, 20))
    assert member_variance(samples[..., :2]).mean() == pytest.approx(1 / 12, rel=0.05)
    assert member_variance(samples).mean() == pytest.approx(1 / 12, rel=0.02)


@pytest.mark.parametrize("members", [2, 4])
def test_tie_is_lesion_before_and_after_storing(members, tmp_path):
    """A stored 1 is read with a small rounding error, which must not change the mask."""
    samples = np.zeros((2, 2, 2, members), dtype=np.float32)
    samples[..., : members // 2] = 1
    template = nibabel.Nifti1Image(np.zeros((2, 2, 2), np.float32), np.eye(4))
    template.header.set_xyzt_units("mm")
    PredictionFolder(tmp_path, "stamp").write("case", samples, members, template, Cost())
    assert ensemble_mask(samples).all()
    assert read_array(tmp_path / "case_mask.nii.gz", mask=True).all()
