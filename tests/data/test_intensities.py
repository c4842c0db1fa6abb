"""Background and outliers of a scan's intensities. About 5 s."""

import numpy as np
import pytest

from pd_ddpm.data.nifti.geometry import ImageError
from pd_ddpm.data.preparation.intensities import constant_background, regularise, wrapped_fraction

SHAPE = (48, 56, 24)


def ellipsoid(size: float) -> np.ndarray:
    x, y, z = (np.linspace(-1, 1, count).reshape(np.roll([-1, 1, 1], axis)) for axis, count in enumerate(SHAPE))
    return x**2 + y**2 + z**2 < size**2


def stripped_scan(dtype: type = np.float32, background: float = 0) -> tuple[np.ndarray, np.ndarray]:
    """A brain of 300 with a dark core and noise of 30, on a constant background, and its mask."""
    brain = ellipsoid(0.8)
    tissue = np.where(ellipsoid(0.2), 80, 300) + np.random.default_rng(0).normal(0, 15, SHAPE)
    return np.where(brain, np.maximum(tissue, 5), background).astype(dtype), brain


def scan_in_air(dtype: type = np.float32) -> np.ndarray:
    """A head without constant background: the noise of a magnitude image is everywhere."""
    noise = np.random.default_rng(1).normal(0, 10, (2, *SHAPE))
    return np.hypot(np.where(ellipsoid(0.8), 300, 0) + noise[0], noise[1]).astype(dtype)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, np.float64])
def test_regularise_changes_no_voxel_of_a_usual_scan(dtype):
    for scan in (stripped_scan(np.float32)[0] / 2, scan_in_air() / 2):
        scan = scan.astype(dtype)
        regular = regularise(scan)
        assert regular.values.dtype == np.float32
        np.testing.assert_array_equal(regular.values, scan.astype(np.float32))
        assert regular.air == 0


@pytest.mark.parametrize("background", [0, -1000, 0.5, 1e4, 300, -3.4e38])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_constant_background_is_found_whatever_its_value(background, dtype):
    scan, brain = stripped_scan(dtype, background)
    np.testing.assert_array_equal(constant_background(scan), ~brain)


def test_constant_background_is_found_after_interpolation_has_blurred_it():
    scan, brain = stripped_scan(np.float64)
    blurred = scan + np.random.default_rng(0).normal(0, 1e-3, SHAPE)
    np.testing.assert_array_equal(constant_background(blurred), ~brain)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
def test_constant_background_is_not_found_in_noise(dtype):
    assert not constant_background((scan_in_air() / 2).astype(dtype)).any()


@pytest.mark.parametrize("background", [-1000, 150, 1e4, -3.4e38])
def test_regularise_moves_a_background_to_the_darkest_voxels(background):
    scan, brain = stripped_scan(background=background)
    regular = regularise(scan)
    np.testing.assert_array_equal(regular.background, ~brain)
    np.testing.assert_array_equal(regular.values[brain], scan[brain])
    assert regular.air == pytest.approx(np.percentile(scan[brain], 0.1))
    assert (regular.values[~brain] == np.float32(regular.air)).all()


def test_regularise_keeps_a_background_that_is_dark():
    scan, _ = stripped_scan()
    for scale, offset in ((1 / 60, -4), (1, -30), (2, 0)):
        moved = (scale * scan + offset).astype(np.float32)
        np.testing.assert_array_equal(regularise(moved).values, moved)


@pytest.mark.parametrize("height", [1e4, 1e6, -1e6, 1e30, -1e38, 1e300])
def test_regularise_limits_outliers_of_any_height(height):
    for scan in (stripped_scan(np.float64)[0], scan_in_air(np.float64)):
        expected = regularise(scan)
        spiked = scan.copy()
        spiked[24, 28, 12] = spiked[30, 20, 10] = height
        regular = regularise(spiked)
        changed = regular.values != expected.values
        assert changed.sum() == 2
        low, high = np.percentile(scan[~expected.background], (0.1, 99.9))
        limit = high + 3 * (high - low) if height > 0 else low - 3 * (high - low)
        np.testing.assert_allclose(regular.values[changed], limit, rtol=0.02)


def test_regularise_refuses_constants_and_values_beyond_single_precision():
    scan, _ = stripped_scan(np.float64)
    with pytest.raises(ImageError, match=r"every voxel is 7\. Export the image again"):
        regularise(np.full(SHAPE, 7, dtype=np.int16))
    for beyond in (scan * 1e40, scan * 1e-40, scan_in_air(np.float64) + 1e9):
        with pytest.raises(ImageError, match=r"do not fit single precision\. Scale and shift them"):
            regularise(beyond)


@pytest.mark.parametrize(("bits", "factor"), [(16, 105), (16, 110), (16, 115), (8, 0.44)])
def test_wrapped_fraction_counts_voxels_that_overflowed(bits, factor):
    half = 2 ** (bits - 1)
    for scan in (stripped_scan()[0], scan_in_air()):
        wrapped = (scan * factor).astype(int)
        overflowed = wrapped >= half
        wrapped = (wrapped + half) % (2 * half) - half
        head = ~constant_background(scan)
        assert wrapped_fraction(wrapped) == pytest.approx(overflowed.sum() / head.sum(), rel=0.1)


def test_wrapped_fraction_of_scans_with_true_negative_values_is_zero():
    scan, brain = stripped_scan()
    z_scored = np.where(brain, (scan - scan[brain].mean()) / scan[brain].std(), 0)
    rippled = scan - 20 * (ellipsoid(0.85) & ~brain)
    air = scan_in_air()
    for harmless in (z_scored, rippled, (air - air.mean()) / air.std(), air, -air):
        assert wrapped_fraction(harmless.astype(np.float32)) == 0
