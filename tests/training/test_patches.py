"""Training patches: dependence on the generator, windows, flips, jitter and loss mask (about 1 s)."""

import hashlib

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy import stats

from pd_ddpm.data.working_grid import GridSettings
from pd_ddpm.diffusion.noise import stream
from pd_ddpm.models.coordinates import add_coordinates
from pd_ddpm.training.patches import CaseSlices, PatchSettings, TrainingSlices, as_batch, read_slices, sample_first

PLAIN = PatchSettings(crop=(8, 12), lesion_share=None, flip=(), intensity_jitter=0.0)


def numbered(case, size, slices=3, lesions=(1,)):
    """A case whose first image channel is the index of each pixel and whose second is ten times its label."""
    height, width = size
    place = torch.arange(slices * height * width, dtype=torch.float32).reshape(slices, 1, height, width)
    labels = torch.zeros(slices, 1, height, width, dtype=torch.uint8)
    for z in lesions:
        labels[z, 0, ::3, ::2] = 1
        labels[z, 0, 1::3, 1::2] = 2
    label_fractions = torch.cat([labels == 1, labels == 2], dim=1).float()
    return CaseSlices(
        case, torch.cat([1000 * len(case) + place, 10 * labels.float()], dim=1), label_fractions, range(len(label_fractions))
    )


def numbered_volume(case, size):
    """A case of one volume whose first channel is the index of each voxel and whose second is ten times its label."""
    place = torch.arange(np.prod(size), dtype=torch.float32).reshape(1, 1, *size)
    labels = (place * 7 % 11 % 3).long()
    fractions = torch.cat([labels == 1, labels == 2], dim=1).float()
    return CaseSlices(case, torch.cat([place, 10 * labels.float()], dim=1), fractions, [0])


CASES = [numbered("a", (16, 20)), numbered("bb", (11, 13), slices=2, lesions=(0, 1))]


def test_sample_batch_depends_on_its_generator_alone():
    settings = PatchSettings((8, 12), 0.5, (0, 1), 0.1)
    fresh, used = TrainingSlices(CASES), TrainingSlices(CASES)
    for step in range(5):
        used.sample_batch(stream("train", 0, step), 4, settings)
    first, second = (slices.sample_batch(stream("x", 1), 6, settings) for slices in (fresh, used))
    for ours, theirs in zip(first[:3], second[:3], strict=True):
        assert torch.equal(ours, theirs)
    assert not torch.equal(
        fresh.sample_batch(stream("x", 1), 6, settings).image, fresh.sample_batch(stream("x", 2), 6, settings).image
    )


@pytest.mark.parametrize(
    ("settings", "recorded"),
    [
        (PatchSettings((8, 12), 0.5, (), 0.0), "674e8f51bb8240cc"),
        (PatchSettings((8, 12), 0.5, (0, 1), 0.1), "2a4745684eed7fe6"),
        (PatchSettings((14, 30), None, (1,), 0.1, "centre_weighted"), "39a0ec481368b2b0"),
        (PatchSettings((14, 30), 0.3, (0,), 0.0, coordinates=True), "df1437d73ed80667"),
    ],
)
def test_sample_batch_equals_recorded_values(settings, recorded):
    """Networks of earlier versions were trained on these patches. Later ones must see the same."""
    content = hashlib.sha256()
    for step in range(3):
        rng = stream("train", 0, step)
        batch = TrainingSlices(CASES).sample_batch(rng, 4, settings)
        for part in (*batch[:3], torch.from_numpy(rng.random(2))):
            content.update(part.numpy().round(3).tobytes())
    assert content.hexdigest()[:16] == recorded


@pytest.mark.parametrize("flip", [(), (0,), (1,), (0, 1)])
def test_sample_batch_keeps_image_mask_and_loss_mask_aligned(flip):
    settings = PatchSettings((8, 12), 0.7, flip, 0.0)
    batch = TrainingSlices(CASES).sample_batch(stream("x", 0), 40, settings)
    assert batch.image.shape == (40, 2, 8, 12)
    assert batch.mask.shape == batch.loss_mask.shape == (40, 1, 8, 12)
    assert torch.equal(batch.mask, (batch.image[:, 1:] == 10).float())
    assert torch.equal(batch.loss_mask, (batch.image[:, 1:] != 20).float())


@pytest.mark.parametrize("crop", [(8, 12), (21, 13)])
def test_sample_batch_keeps_presegmentation_aligned_and_everything_else_as_it_is(crop):
    settings = PatchSettings(crop, 0.7, (0, 1), 0.1)
    cases = [case._replace(presegmentation=0.5 * case.label_fractions[:, :1]) for case in CASES]
    plain = TrainingSlices(CASES).sample_batch(stream("x", 0), 40, settings)
    batch = TrainingSlices(cases).sample_batch(stream("x", 0), 40, settings)
    assert plain.presegmentation is None
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(batch[:3], plain[:3], strict=True))
    assert torch.equal(batch.presegmentation, 0.5 * batch.mask)


@pytest.mark.parametrize("crop", [(8, 12), (16, 20), (3, 5)])
def test_sample_batch_takes_all_windows_of_the_slices(crop):
    case = numbered("a", (16, 20))
    settings = PLAIN if crop == (8, 12) else PatchSettings(crop, None, (), 0.0)
    batch = TrainingSlices([case]).sample_batch(stream("x", 0), 600, settings)
    corners = set()
    for image in batch.image:
        z, place = divmod(int(image[0, 0, 0]) - 1000, 16 * 20)
        row, column = divmod(place, 20)
        corners.add((row, column))
        assert torch.equal(image, case.image[z, :, row : row + crop[0], column : column + crop[1]])
    assert {row for row, _ in corners} == set(range(16 - crop[0] + 1))
    assert {column for _, column in corners} == set(range(20 - crop[1] + 1))


@pytest.mark.parametrize("crop", [(16, 20), (21, 13), (12, 30)])
def test_sample_batch_pads_small_slices_evenly(crop):
    """The image is padded with its edge, the mask with background."""
    case = numbered("a", (11, 13), slices=2, lesions=(0, 1))
    batch = TrainingSlices([case]).sample_batch(stream("x", 0), 4, PatchSettings(crop, None, (), 0.0))
    added = [(total - length) for total, length in zip(crop, (11, 13), strict=True)]
    before = [n // 2 for n in added]
    pad = [(n, extra - n) for n, extra in zip(before, added, strict=True)]
    for image, mask, loss_mask in zip(*batch[:3], strict=True):
        z = int(image[0, before[0], before[1]] - 1000) // (11 * 13)
        expected = np.pad(case.image[z].numpy(), [(0, 0), *pad], mode="edge")
        assert np.array_equal(image.numpy(), expected)
        assert np.array_equal(mask.numpy(), np.pad(case.label_fractions[z, :1].numpy() == 1, [(0, 0), *pad]))
        assert np.array_equal(
            loss_mask.numpy(), np.pad(case.label_fractions[z, 1:].numpy() == 0, [(0, 0), *pad], constant_values=True)
        )


@pytest.mark.parametrize(("size", "crop"), [((6, 5, 7), (4, 5, 2)), ((6, 5, 7), (6, 3, 7)), ((9, 4, 5), (8, 3, 4))])
def test_sample_batch_takes_all_windows_of_a_volume(size, crop):
    case = numbered_volume("a", size)
    batch = TrainingSlices([case]).sample_batch(stream("x", 0), 400, PatchSettings(crop, None, (), 0.0))
    assert batch.image.shape == (400, 2, *crop)
    assert torch.equal(batch.mask, (batch.image[:, 1:] == 10).float())
    assert torch.equal(batch.loss_mask, (batch.image[:, 1:] != 20).float())
    corners = set()
    for image in batch.image:
        corner = np.unravel_index(int(image[0, 0, 0, 0]), size)
        window = tuple(slice(first, first + length) for first, length in zip(corner, crop, strict=True))
        assert torch.equal(image, case.image[0][(slice(None), *window)])
        corners.add(corner)
    assert len(corners) == np.prod([length - part + 1 for length, part in zip(size, crop, strict=True)])


def test_sample_batch_pads_small_volumes_evenly():
    case = numbered_volume("a", (5, 4, 3))
    (image,), (mask,), (loss_mask,), _ = TrainingSlices([case]).sample_batch(
        stream("x", 0), 1, PatchSettings((8, 4, 5), None, (), 0.0)
    )
    around = [(0, 0), (1, 2), (0, 0), (1, 1)]
    assert np.array_equal(image, np.pad(case.image[0], around, mode="edge"))
    assert np.array_equal(mask, np.pad(case.label_fractions[0, :1], around))
    assert np.array_equal(loss_mask, np.pad(1 - case.label_fractions[0, 1:], around, constant_values=1))


@pytest.mark.parametrize("flip", [(2,), (0, 1, 2)])
def test_flip_mirrors_half_of_the_patches_of_a_volume_along_each_axis(flip):
    case = numbered_volume("a", (4, 3, 5))
    batch = TrainingSlices([case]).sample_batch(stream("x", 0), 400, PatchSettings((4, 3, 5), None, flip, 0.0))
    for axis in range(3):
        rises = batch.image[:, 0].diff(dim=axis + 1).flatten(1)
        assert ((rises > 0).all(dim=1) | (rises < 0).all(dim=1)).all()
        mirrored = (rises < 0).all(dim=1).sum().item()
        assert mirrored == (pytest.approx(200, abs=4.5 * 10) if axis in flip else 0)
    assert torch.equal(batch.mask, (batch.image[:, 1:] == 10).float())


def test_jitter_of_a_volume_is_one_gain_and_offset_per_channel():
    case = numbered_volume("a", (4, 3, 5))
    batch = TrainingSlices([case]).sample_batch(stream("x", 0), 3, PatchSettings((4, 3, 5), None, (), 0.1))
    for image in batch.image:
        for channel in (0, 1):
            values, jittered = case.image[0, channel].flatten().double(), image[channel].flatten().double()
            fit = np.polynomial.polynomial.polyfit(values, jittered, 1)
            assert fit[1] != 1
            np.testing.assert_allclose(jittered, np.polynomial.polynomial.polyval(values, fit), atol=1e-4)


def test_flip_mirrors_half_of_patches_of_patches_along_chosen_axes():
    case = numbered("a", (8, 12), slices=2)
    for flip, axis in (((0,), 1), ((1,), 2)):
        batch = TrainingSlices([case]).sample_batch(stream("x", 0), 400, PatchSettings((8, 12), None, flip, 0.0))
        mirrored = 0
        for image in batch.image:
            ways = [any(torch.equal(image, way) for way in (case.image, case.image.flip(axis + 1))[n]) for n in (0, 1)]
            assert sum(ways) == 1
            mirrored += ways[1]
        assert mirrored == pytest.approx(200, abs=4.5 * 10)


def test_jitter_applies_gain_and_offset_per_channel_and_keeps_labels():
    case = numbered("a", (8, 12), slices=1, lesions=(0,))
    batch = TrainingSlices([case]).sample_batch(stream("x", 0), 2000, PatchSettings((8, 12), None, (), 0.1))
    gains, offsets = [], []
    for channel in (0, 1):
        values = case.image[0, channel].flatten().double()
        sampled = batch.image[:, channel].flatten(1).double()
        slope, offset = np.polynomial.polynomial.polyfit(values, sampled.T, 1)[::-1]
        torch.testing.assert_close(
            sampled, torch.from_numpy(slope[:, None] * values.numpy() + offset[:, None]), rtol=1e-4, atol=1e-3
        )
        gains.append(slope)
        offsets.append(offset)
    assert torch.equal(batch.mask, case.label_fractions[:, :1].expand(2000, -1, -1, -1))
    for sampled, mean in ((gains, 1.0), (offsets[1:], 0.0)):
        assert np.mean(sampled) == pytest.approx(mean, abs=4.5 * 0.1 / np.sqrt(2000))
        assert np.std(sampled) == pytest.approx(0.1, rel=4.5 / np.sqrt(2 * 2000))
    assert abs(np.corrcoef(gains)[0, 1]) < 4.5 / np.sqrt(2000)


@pytest.mark.parametrize(("share", "expected"), [(None, 3 / 5), (0.0, 3 / 5), (0.75, 0.75 + 0.25 * 3 / 5), (1.0, 1.0)])
def test_sample_sources_respects_lesion_share(share, expected):
    """The other patches come from all slices, with or without lesion."""
    slices = TrainingSlices(CASES)
    settings = PatchSettings((8, 12), share, (), 0.0)
    names = slices.sample_sources(stream("x", 0), 4000, settings)
    found = np.mean([bool((CASES[c].label_fractions[z, 0] == 1).any()) for c, z in names])
    assert found == pytest.approx(expected, abs=4.5 * np.sqrt(0.25 / 4000))
    if share != 1:
        assert set(names) == {(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)}


# Position and coordinates


def first_pixels(size, length, position, count=40_000):
    rng = stream("x", 0)
    return np.array([sample_first(rng, size, length, position) for _ in range(count)])


@pytest.mark.parametrize(("size", "length", "quarter"), [(256, 128, 32), (30, 20, 2), (9, 8, 0)])
def test_centre_weighted_position_has_distribution_of_patch_ddm(size, length, quarter):
    """The sum of U{0..quarter} and U{0..spare - quarter}, whose density is a convolution of two boxes."""
    spare = size - length
    box, other = np.ones(quarter + 1) / (quarter + 1), np.ones(spare - quarter + 1) / (spare - quarter + 1)
    expected = np.convolve(box, other)
    counts = np.bincount(first_pixels(size, length, "centre_weighted"), minlength=spare + 1)
    assert len(counts) == len(expected) == spare + 1
    assert stats.chisquare(counts, 40_000 * expected).pvalue > 1e-4


def test_centre_weighted_patches_cover_voxels_as_often_as_in_patch_ddm():
    first = first_pixels(256, 128, "centre_weighted")
    coverage = {voxel: np.mean((first <= voxel) & (voxel < first + 128)) for voxel in (0, 64, 128)}
    assert coverage[0] == pytest.approx(1 / (33 * 97), abs=4.5 * np.sqrt(0.0003 / 40_000))
    assert coverage[64] == pytest.approx(0.51, abs=4.5 * 0.5 / np.sqrt(40_000))
    assert coverage[128] > 0.999
    assert first.mean() == pytest.approx(64, abs=4.5 * 30 / np.sqrt(40_000))


def test_uniform_position_takes_all_windows_equally_often():
    counts = np.bincount(first_pixels(30, 20, "uniform"), minlength=11)
    assert stats.chisquare(counts).pvalue > 1e-4


@pytest.mark.parametrize("position", ["uniform", "centre_weighted"])
def test_position_of_slices_that_are_not_larger_is_the_middle(position):
    assert [sample_first(stream("x", 0), size, 8, position) for size in (8, 7, 6, 5)] == [0, 0, -1, -1]


def test_sample_batch_follows_crop_position():
    case = numbered("a", (40, 12), slices=1, lesions=(0,))
    settings = PatchSettings((8, 12), None, (), 0.0, crop_position="centre_weighted")
    batch = TrainingSlices([case]).sample_batch(stream("x", 0), 2000, settings)
    rows = (batch.image[:, 0, 0, 0] - 1000).long() // 12
    expected = np.convolve(np.ones(9) / 9, np.ones(25) / 25)
    assert stats.chisquare(np.bincount(rows, minlength=33), 2000 * expected).pvalue > 1e-4


@pytest.mark.parametrize("flip", [(), (0,), (0, 1)])
def test_coordinates_of_a_patch_are_those_of_its_window_in_the_slice(flip):
    """A mirrored patch is a window of the mirrored slice, and holds the coordinates of that window."""
    case = numbered("a", (16, 20))
    settings = PatchSettings((8, 12), None, flip, 0.0, coordinates=True)
    batch = TrainingSlices([case]).sample_batch(stream("x", 0), 60, settings)
    assert batch.image.shape == (60, 4, 8, 12)
    assert batch.mask.shape == (60, 1, 8, 12)
    for image in batch.image:
        pixels = image[0].long() - 1000
        z, down, right = int(pixels[0, 0]) // 320, pixels[1, 0] > pixels[0, 0], pixels[0, 1] > pixels[0, 0]
        mirrored = [axis for axis, rises in ((1, down), (2, right)) if not rises]
        whole = add_coordinates(case.image[z].flip(mirrored)[None])[0]
        row, column = (whole[0] == image[0, 0, 0]).nonzero()[0].tolist()
        assert torch.equal(image, whole[:, row : row + 8, column : column + 12])


def test_coordinates_of_a_patch_are_those_of_its_window_in_the_volume():
    case = numbered_volume("a", (6, 5, 7))
    settings = PatchSettings((3, 4, 2), None, (0, 1, 2), 0.0, crop_position="centre_weighted", coordinates=True)
    batch = TrainingSlices([case]).sample_batch(stream("x", 0), 40, settings)
    assert batch.image.shape == (40, 5, 3, 4, 2)
    for image in batch.image:
        mirrored = [axis + 1 for axis in range(3) if image[0].diff(dim=axis).max() < 0]
        whole = add_coordinates(case.image[0].flip(mirrored)[None])[0]
        x, y, z = (whole[0] == image[0, 0, 0, 0]).nonzero()[0].tolist()
        assert torch.equal(image, whole[:, x : x + 3, y : y + 4, z : z + 2])


def test_coordinates_are_padded_by_their_last_value_and_not_jittered():
    case = numbered("a", (5, 8), slices=1, lesions=(0,))
    settings = PatchSettings((9, 8), None, (), 0.3, coordinates=True)
    (image,) = TrainingSlices([case]).sample_batch(stream("x", 0), 1, settings).image
    expected = np.pad(add_coordinates(case.image)[0, 2:].numpy(), [(0, 0), (2, 2), (0, 0)], mode="edge")
    assert np.array_equal(image[2:].numpy(), expected)


def test_coordinates_change_nothing_else_of_a_batch():
    plain, further = (PatchSettings((8, 12), 0.5, (0, 1), 0.1, coordinates=has) for has in (False, True))
    batches = [TrainingSlices(CASES).sample_batch(stream("x", 0), 8, settings) for settings in (plain, further)]
    assert torch.equal(batches[0].image, batches[1].image[:, :2])
    assert all(torch.equal(*parts) for parts in zip(batches[0][1:3], batches[1][1:3], strict=True))


def test_training_slices_reject_cases_without_lesion():
    with pytest.raises(ValueError, match=r"none of the training cases \(a, ccc\) has a pixel of label 1\. Check the masks"):
        TrainingSlices([numbered("a", (8, 12), lesions=()), numbered("ccc", (8, 12), lesions=())])


def test_batch_to_moves_all_parts():
    batch = as_batch(CASES[0].image, CASES[0].label_fractions)
    moved = batch.to(torch.device("meta"))
    assert [part.device.type for part in moved[:3]] == ["meta"] * 3
    assert moved.presegmentation is None
    assert batch._replace(presegmentation=batch.mask).to(torch.device("meta")).presegmentation.device.type == "meta"


def test_read_slices_numbers_slices_by_position_in_scan(prepared):
    """The two outer slices hold no brain, so positions in memory and in the scan differ."""
    read = read_slices(prepared, "two", GridSettings(None, "slice", 0.0, 0.5))
    assert list(read.slice_numbers) == [1, 2, 3, 4]
    scan = nib.load(prepared / "two_image.nii.gz").get_fdata()
    for row, number in enumerate(read.slice_numbers):
        np.testing.assert_allclose(read.image[row, 0].numpy(), scan[:, :, number, 0], rtol=1e-6)


def test_read_slices_reads_a_volume_on_its_grid(prepared):
    """The outer slices without brain are part of it."""
    read = read_slices(prepared, "two", GridSettings(None, "slice", 0.0, 0.5, spatial_dims=3))
    scan, labels = (nib.load(prepared / f"two_{part}.nii.gz").get_fdata() for part in ("image", "mask"))
    np.testing.assert_allclose(read.image[0].numpy(), scan.transpose(3, 0, 1, 2), rtol=1e-6)
    assert np.array_equal(read.label_fractions[0].numpy(), np.stack([labels == 1, labels == 2]))
    assert list(read.slice_numbers) == [0]


# Raters


def test_sample_batch_of_single_raters_is_what_it_was_before_raters_existed():
    """No random number is drawn to choose among one rater."""
    batch = TrainingSlices(CASES).sample_batch(stream("x", 0), 6, PatchSettings((8, 12), 0.5, (0, 1), 0.1))
    assert batch.mask.sum().item() == 84.0
    assert batch.image.double().sum().item() == pytest.approx(1172262.2142944597, rel=1e-6)


def test_sample_batch_takes_each_patch_from_a_random_rater():
    """Image, mask and loss mask stay aligned, whoever the rater is; half of the patches come from each."""
    case = numbered("a", (16, 20), lesions=(0, 1, 2))
    other = case.label_fractions.flip(1)  # lesion and other pathology exchanged
    slices = TrainingSlices([case._replace(further_fractions=(other,)), numbered("bb", (11, 13), slices=2, lesions=(0, 1))])
    settings = PatchSettings((8, 12), None, (0, 1), 0.0)
    batch = slices.sample_batch(stream("x", 0), 2000, settings)
    is_first_case = (batch.image[:, 0] < 2000).all(dim=(1, 2))
    labels = batch.image[:, 1:] / 10
    by_first, by_second = (
        ((batch.mask == (labels == lesion)) & (batch.loss_mask == (labels != 3 - lesion))).all(dim=(1, 2, 3))
        for lesion in (1, 2)
    )
    assert (by_first ^ by_second).all()
    assert by_first[~is_first_case].all()
    count = int(is_first_case.sum())
    assert by_first[is_first_case].sum().item() == pytest.approx(count / 2, abs=4.5 * np.sqrt(count / 4))
    again = slices.sample_batch(stream("x", 0), 2000, settings)
    assert all(torch.equal(*parts) for parts in zip(batch[:3], again[:3], strict=True))


def test_training_slices_count_a_slice_as_lesion_if_any_rater_marks_one():
    case = numbered("a", (8, 12), lesions=(1,))
    other = torch.zeros_like(case.label_fractions)
    other[2, 0, 3, 4] = 1
    assert TrainingSlices([case._replace(further_fractions=(other,))]).lesion_slices == [(0, 1), (0, 2)]


def test_read_slices_reads_further_raters_only_if_they_are_used(prepared):
    mask = nib.load(prepared / "two_mask.nii.gz")
    labels = np.roll(np.asarray(mask.dataobj), 1, axis=0)
    nib.save(nib.Nifti1Image(labels, mask.affine), prepared / "two_observer-2.nii.gz")
    grid = GridSettings(None, "slice", 0.0, 0.5)
    first, random = (read_slices(prepared, "two", grid, raters) for raters in ("first", "random"))
    assert first.further_fractions == ()
    assert torch.equal(random.label_fractions, first.label_fractions)
    (further,) = random.further_fractions
    for row, number in enumerate(random.slice_numbers):
        for channel, label in enumerate((1, 2)):
            assert np.array_equal(further[row, channel].numpy(), labels[:, :, number] == label)
    assert read_slices(prepared, "one", grid, "random").further_fractions == ()
