"""Correction of the bias field: a known field is removed, and without correction nothing changes (about 10 s).

`test_phantom.py` has the same test on the phantom.
"""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from pd_ddpm.data.preparation.bias_field import correct_bias, shrink_factors
from pd_ddpm.data.preparation.case import prepare_case
from pd_ddpm.data.preparation.normalise import read_normalised
from pd_ddpm.data.preparation.resample import resample_to
from pd_ddpm.data.prepared import read_scan

CHANNELS = ["FLAIR", "T1"]
SHAPE, SPACING = (50, 60, 24), (3.2, 3.2, 6.0)


@pytest.fixture(scope="module")
def head() -> dict[str, np.ndarray]:
    """An ellipsoid of two tissues in small blocks as FLAIR, with the opposite contrast as T1, and a field for both."""
    random = np.random.default_rng(0)
    x, y, z = (np.linspace(-1, 1, n).reshape([-1 if a == axis else 1 for a in range(3)]) for axis, n in enumerate(SHAPE))
    radius = np.sqrt((x / 0.85) ** 2 + (y / 0.9) ** 2 + (z / 0.85) ** 2)
    tissue = np.where(np.sin(14 * x) * np.sin(14 * y) * np.cos(14 * z) > 0, 200, 260) * (radius < 1)
    field = np.exp(0.25 * x - 0.2 * y**2 + 0.15 * y * z + 0.2 * x * y)
    flair, t1 = (image + (radius < 1) * random.normal(0, 3, SHAPE) for image in (tissue, (radius < 1) * (460 - tissue)))
    return {"FLAIR": flair, "T1": t1, "field": field}


def write_case(folder: Path, **images: np.ndarray) -> dict[str, str]:
    """Write a case and return its row of the case table."""
    row = {"case": "a", "site": "north", "FLAIR_transform": "", "T1_transform": ""}
    for name, image in images.items():
        row[name] = str(folder / f"{name}.nii.gz")
        nib.save(nib.Nifti1Image(image, np.diag([*SPACING, 1.0])), row[name])
    return row


def test_read_normalised_with_n4_removes_a_known_smooth_bias_of_all_channels(head, tmp_path):
    row = write_case(tmp_path, **{name: (head[name] * head["field"]).astype(np.float32) for name in CHANNELS})
    shaded = read_normalised(row, CHANNELS, "none")
    corrected = read_normalised(row, CHANNELS, "none", bias_correction="n4")
    np.testing.assert_array_equal(corrected.brain, shaded.brain)
    inside = shaded.brain & (head["FLAIR"] > 0)
    for channel, name in enumerate(CHANNELS):
        before, after = (np.log(scan.image[inside, channel] / head[name][inside]) for scan in (shaded, corrected))
        assert before.std() > 0.1
        assert after.std() < 0.2 * before.std()
        # The geometric mean of the field over the brain is 1.
        assert after.mean() == pytest.approx(before.mean(), abs=1e-3)


def test_correct_bias_of_a_uniform_scan_with_noise_changes_nothing():
    random = np.random.default_rng(0)
    volume = (300 + random.normal(0, 3, SHAPE)).astype(np.float32)
    brain = np.zeros(SHAPE, dtype=bool)
    brain[5:45, 5:55, 3:21] = True
    volume[0, 0, 0], volume[20, 20, 12] = 0, -5  # background, and the ripple of a filter
    corrected = correct_bias(volume, brain, SPACING)
    assert corrected.dtype == np.float32
    np.testing.assert_allclose(corrected / np.where(volume == 0, 1, volume), volume != 0, atol=0.02)


@pytest.mark.parametrize("shape", [(47, 61, 23), (50, 60, 24), (31, 33, 12)])
def test_correct_bias_is_finite_at_the_edges_of_any_grid(shape):
    """ITK's own evaluation on the whole grid returns up to 1e31 in the outermost voxels of some grids."""
    random = np.random.default_rng(1)
    volume = (300 + random.normal(0, 3, shape)).astype(np.float32)
    corrected = correct_bias(volume, np.ones(shape, dtype=bool), (1.0, 1.0, 3.0))
    np.testing.assert_allclose(corrected / volume, 1, atol=0.05)


@pytest.mark.parametrize(
    ("spacing_mm", "factors"),
    [
        ((0.96, 0.96, 3.0), [5, 5, 2]),
        ((1.2, 0.98, 3.0), [4, 5, 2]),
        ((0.56, 1.04, 3.0), [9, 5, 2]),
        ((6.0, 6.0, 6.0), [1, 1, 1]),
    ],
)
def test_shrink_factors_give_voxels_of_about_5_mm(spacing_mm, factors):
    assert shrink_factors(spacing_mm) == factors


def test_correct_bias_does_not_depend_on_the_number_of_threads(head):
    volume = (head["FLAIR"] * head["field"]).astype(np.float32)
    before = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    results = []
    try:
        for count in (1, 4):
            sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(count)
            results.append(correct_bias(volume, head["FLAIR"] > 0, SPACING))
            assert sitk.ProcessObject.GetGlobalDefaultNumberOfThreads() == count
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(before)
    np.testing.assert_array_equal(*results)


def z_score(volume: np.ndarray, brain: np.ndarray) -> np.ndarray:
    inside = volume[brain].astype(np.float64)
    return ((volume - inside.mean()) / inside.std()).astype(np.float32)


def test_read_normalised_without_bias_correction_is_the_z_score_of_the_resampled_channels(head, tmp_path):
    """Bit for bit."""
    row = write_case(tmp_path, FLAIR=head["FLAIR"].astype(np.float32), T1=head["T1"][:, :-4].astype(np.float32))
    for settings in ({}, {"bias_correction": "none"}):
        scan = read_normalised(row, CHANNELS, **settings)
        for channel, name in enumerate(CHANNELS):
            expected = z_score(resample_to(row["FLAIR"], row[name]), scan.brain)
            np.testing.assert_array_equal(scan.image[..., channel], expected)


def test_prepare_case_corrects_before_it_normalises(head, tmp_path):
    mask = (head["FLAIR"] > 262).astype(np.uint8)
    row = write_case(tmp_path, FLAIR=(head["FLAIR"] * head["field"]).astype(np.float32), mask=mask)
    prepare_case(row, ["FLAIR"], tmp_path / "out")
    prepare_case(row, ["FLAIR"], tmp_path / "out", bias_correction="n4")
    prepared = read_scan(tmp_path / "out", "a")
    volume = correct_bias(resample_to(row["FLAIR"], row["FLAIR"]), prepared.brain, prepared.spacing_mm)
    np.testing.assert_array_equal(prepared.image[..., 0], z_score(volume, prepared.brain))


def test_read_normalised_refuses_an_unknown_bias_correction(tmp_path):
    with pytest.raises(ValueError, match=r"`bias_correction`: 'n5' is unknown\. Use none or n4"):
        read_normalised({"FLAIR": str(tmp_path / "missing")}, ["FLAIR"], bias_correction="n5")
