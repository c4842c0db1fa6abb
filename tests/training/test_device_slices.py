"""Patches that are cut on a device equal those cut from the cases (about 1 s)."""

import logging
from itertools import product

import pytest
import torch
from training_examples import case

from pd_ddpm.diffusion.mask_coding import with_background
from pd_ddpm.diffusion.noise import stream
from pd_ddpm.training.affine import AffineSettings
from pd_ddpm.training.device_slices import DeviceSlices, fitting_device_slices
from pd_ddpm.training.patches import CaseSlices, PatchSettings, TrainingSlices

CPU = torch.device("cpu")
AFFINE = AffineSettings(rotation_degrees=30, scale=0.2, shear_degrees=20, shift=0.3, probability=0.7, unit="mm")


def cases_with(raters, presegmentation):
    cases = [case("a"), case("b", slices=2, size=(20, 28)), case("c", size=(24, 28))]
    if raters:
        cases[1] = cases[1]._replace(further_fractions=(0.25 * cases[1].label_fractions, 0.5 * cases[1].label_fractions))
    if presegmentation:
        cases = [one._replace(presegmentation=0.125 * one.image[:, :1].abs()) for one in cases]
    return cases


def volume(name, size):
    generator = torch.Generator().manual_seed(size[0])
    fractions = torch.rand(1, 2, *size, generator=generator)
    return CaseSlices(name, torch.randn(1, 2, *size, generator=generator), fractions, [0])


def assert_equal_batches(slices, settings):
    windows = slices.sample_windows(stream("x", 0), 12, settings)
    expected, batch = slices.cut(windows, settings), DeviceSlices(slices, CPU).cut(windows, settings)
    for ours, theirs in zip(batch, expected, strict=True):
        assert (ours is None and theirs is None) or torch.equal(ours, theirs)


@pytest.mark.parametrize(("raters", "presegmentation"), [(False, False), (True, False), (True, True)])
def test_cut_equals_patches_of_the_cases(raters, presegmentation):
    """In slices, next to and beyond their borders, mirrored, with jitter and with coordinates."""
    slices = TrainingSlices(cases_with(raters, presegmentation))
    for crop, flip, jitter in product([(8, 12), (30, 40), (22, 16)], [(), (0, 1)], [0.0, 0.1]):
        assert_equal_batches(slices, PatchSettings(crop, 0.5, flip, jitter, coordinates=bool(flip)))


@pytest.mark.parametrize("crop", [(8, 12), (30, 40)])
def test_cut_equals_patches_of_transformed_slices(crop):
    cases = [one._replace(image=one.image.abs()) for one in cases_with(raters=True, presegmentation=True)]
    settings = PatchSettings(crop, 0.5, (0, 1), 0.1, coordinates=True, affine=AFFINE, log_gamma=0.3, unit_range=True)
    assert_equal_batches(TrainingSlices(cases), settings)


def test_cut_equals_patches_of_classes():
    """Padded pixels of masks and pre-segmentations are background."""
    cases = [
        one._replace(presegmentation=with_background(one.label_fractions), has_classes=True)
        for one in cases_with(raters=False, presegmentation=False)
    ]
    assert_equal_batches(TrainingSlices(cases), PatchSettings((30, 40), 0.5, (0,), 0.0))


@pytest.mark.parametrize("crop", [(4, 3, 5), (8, 9, 4)])
def test_cut_equals_patches_of_volumes(crop):
    slices = TrainingSlices([volume("a", (6, 5, 7)), volume("b", (9, 4, 5))])
    for affine in (None, AFFINE):
        assert_equal_batches(slices, PatchSettings(crop, None, (0, 2), 0.1, "centre_weighted", coordinates=True, affine=affine))


def test_slices_stay_in_main_memory_unless_four_times_their_size_is_free(caplog):
    slices = TrainingSlices(cases_with(raters=True, presegmentation=True))
    held = DeviceSlices(slices, CPU)
    assert slices.num_bytes == held.images.nbytes + held.masks.nbytes
    with caplog.at_level(logging.INFO):
        assert fitting_device_slices(slices, CPU, 4 * slices.num_bytes - 1) is None
        assert "stay in main memory" in caplog.text
        assert fitting_device_slices(slices, CPU, 4 * slices.num_bytes) is not None
