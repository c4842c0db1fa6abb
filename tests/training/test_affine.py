"""Affine transformations of training patches, against SciPy and closed forms (about 1 s)."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import ndimage, stats
from scipy.spatial.transform import Rotation

from pd_ddpm.diffusion.noise import stream
from pd_ddpm.training.affine import AffineSettings, sample_affine
from pd_ddpm.training.patches import CaseSlices, PatchSettings, TrainingSlices

NONE = {"rotation_degrees": 0.0, "scale": 0.0, "shear_degrees": 0.0, "shift": 0.0, "probability": 1.0, "unit": "mm"}
ALL = AffineSettings(rotation_degrees=30, scale=0.2, shear_degrees=30, shift=0.3, probability=0.5, unit="mm")


def case(size, pixel_mm=(1.0, 1.0, 1.0)):
    """A case with positive noise as its two channels, and soft masks."""
    generator = torch.Generator().manual_seed(len(size))
    count = 3 if len(size) == 2 else 1
    image, fractions = (torch.rand(count, 2, *size, generator=generator) for _ in range(2))
    return CaseSlices("a", image, fractions, range(count), presegmentation=fractions[:, :1] ** 2, pixel_mm=pixel_mm)


def samples(count, sizes=(20, 30), pixel_mm=(1.0, 1.0, 1.0), **limits):
    settings = AffineSettings(**NONE | limits)
    return np.array([sample_affine(stream("x", n), settings, sizes, pixel_mm[: len(sizes)]) for n in range(count)])


@pytest.mark.parametrize(("size", "crop"), [((20, 30), (9, 12)), ((20, 30), (26, 30)), ((11, 9, 14), (8, 12, 5))])
def test_patches_equal_those_of_slices_that_scipy_transforms(size, crop):
    """The whole slice is transformed first; then the window is cut from it, and mirrored."""
    one, dims = case(size), len(size)
    slices, settings = TrainingSlices([one]), PatchSettings(crop, None, (0, 1), 0.0, affine=ALL)
    windows = slices.sample_windows(stream("x", 0), 12, settings)
    batch = slices.cut(windows, settings)
    for number, window in enumerate(windows):
        matrix, offset = window.affine[:, :dims], window.affine[:, dims] + window.affine[:, :dims] @ window.firsts
        axes = [axis for axis in range(dims) if axis in window.mirrored]

        def warped(channel, order, mode, matrix=matrix, offset=offset, axes=axes):
            patch = ndimage.affine_transform(channel.numpy(), matrix, offset, crop, order=order, mode=mode)
            return np.flip(patch, axes)

        for channel in range(2):
            expected = warped(one.image[window.slice, channel], 1, "nearest")
            np.testing.assert_allclose(batch.image[number, channel], expected, atol=2e-5)
        for values, masks in ((batch.mask, one.label_fractions), (batch.presegmentation, one.presegmentation)):
            expected = warped(masks[window.slice, 0], 0, "grid-constant")
            assert (values[number, 0].numpy() == expected).mean() > 0.995  # positions halfway between two pixels


def test_rotation_keeps_distances_in_mm_and_the_centre():
    pixel_mm, sizes = (0.5, 1.0, 2.5), (11, 9, 14)
    centre = (np.array(sizes) - 1) / 2
    for affine in samples(20, sizes, pixel_mm, rotation_degrees=30):
        in_mm = affine[:, :3] * np.array(pixel_mm)[:, None] / pixel_mm
        np.testing.assert_allclose(in_mm @ in_mm.T, np.eye(3), atol=1e-12)
        assert np.linalg.det(in_mm) == pytest.approx(1)
        np.testing.assert_allclose(affine @ [*centre, 1], centre)
        turns = Rotation.from_matrix(in_mm).as_euler("zyx", degrees=True)  # the last rotation first
        assert np.abs(turns).max() <= 30
    (in_pixels,) = samples(1, sizes, pixel_mm, rotation_degrees=30, unit="pixels")
    np.testing.assert_allclose(in_pixels[:, :3] @ in_pixels[:, :3].T, np.eye(3), atol=1e-12)


def test_numbers_are_uniform_and_used_with_their_probability():
    angles = np.rad2deg(np.arcsin(samples(400, rotation_degrees=40)[:, 1, 0]))
    assert stats.kstest(angles, stats.uniform(-40, 80).cdf).pvalue > 0.01
    scales = samples(400, scale=0.2, probability=0.25)[:, [0, 1], [0, 1]]
    assert abs((scales != 1).mean() - 0.25) < 0.05
    used = scales[scales != 1]
    assert stats.kstest(used, stats.uniform(0.8, 0.4).cdf).pvalue > 0.01
    assert abs(np.corrcoef((scales != 1).T)[0, 1]) < 0.15  # each axis by itself
    shifts = samples(400, shift=[0.1, 0.5])[:, :, 2]
    for values, limit in zip(shifts.T, (0.1 * 20, 0.5 * 30), strict=True):
        assert stats.kstest(values, stats.uniform(-limit, 2 * limit).cdf).pvalue > 0.01


def test_shear_leans_axes_by_at_most_its_angle():
    linear = samples(300, shear_degrees=30)[:, :, :2]
    np.testing.assert_allclose(np.linalg.det(linear), 1)
    assert 28 < np.rad2deg(np.arctan(np.abs(linear[:, 0, 1]))).max() <= 30
    assert np.array([np.allclose(a, b) for a, b in pairwise(linear)]).sum() == 0


def test_gamma_raises_half_of_the_patches_to_a_power():
    one = case((20, 30))
    slices, settings = TrainingSlices([one]), PatchSettings((20, 30), None, (), 0.0, log_gamma=0.3)
    windows = slices.sample_windows(stream("x", 0), 300, settings)
    batch = slices.cut(windows, settings)
    sources = torch.stack([one.image[window.slice] for window in windows])
    powers = (batch.image.log() / sources.log()).flatten(1).median(dim=1).values.log().numpy()
    used = powers[np.abs(powers) > 1e-5]
    assert abs(len(used) / 300 - 0.5) < 0.1
    assert stats.kstest(used, stats.uniform(-0.3, 0.6).cdf).pvalue > 0.01
    assert torch.equal(batch.mask, torch.stack([one.label_fractions[window.slice, :1] for window in windows]))


def test_patches_are_scaled_to_the_unit_range():
    """Each channel by itself, after its jitter. A constant one is 0."""
    one = case((20, 30))
    one.image[0, 1] = 0.3
    settings = PatchSettings((8, 9), None, (), 0.2, coordinates=True, unit_range=True)
    windows = TrainingSlices([one]).sample_windows(stream("x", 0), 20, settings)
    batch = TrainingSlices([one]).cut(windows, settings)
    for window, image in zip(windows, batch.image, strict=True):
        row, column = window.firsts
        patch = one.image[window.slice, :, row : row + 8, column : column + 9].numpy()
        expected = [(channel - channel.min()) / max(np.ptp(channel), 1e-9) for channel in patch]
        np.testing.assert_allclose(image[:2], expected, atol=1e-5)
    assert batch.image[:, 2:].min() < -0.5  # coordinates are not transformed


def test_transformations_are_drawn_after_all_else():
    """Trainings with and without them see the same windows."""
    slices = TrainingSlices([case((20, 30))])
    plain, warped = (
        slices.sample_windows(stream("x", 0), 1, PatchSettings((8, 8), None, (0,), 0.1, affine=affine))
        for affine in (None, ALL)
    )
    assert plain[0][:5] == warped[0][:5]
    np.testing.assert_array_equal(plain[0].jitter, warped[0].jitter)
