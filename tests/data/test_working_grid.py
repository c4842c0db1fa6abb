"""The grid of the networks in two and three dimensions, there and back (below 2 s). Positions in mm, voxel centres."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch.nn import functional

from pd_ddpm.data.working_grid import GridSettings, WorkingGrid, even_padding, pad_to_multiple, slices_with_brain

SPACING = (0.96, 1.25, 3.0)
SHAPE = (90, 70, 5)


def ellipsoid(shape, spacing, centre_mm, radii_mm):
    places = np.stack(np.meshgrid(*[(np.arange(n) + 0.5) * mm for n, mm in zip(shape, spacing, strict=True)], indexing="ij"))
    distance = (places - np.reshape(centre_mm, (3, 1, 1, 1))) / np.reshape(radii_mm, (3, 1, 1, 1))
    return (distance**2).sum(axis=0) < 1


BRAIN = ellipsoid(SHAPE, SPACING, (45, 42, 7.5), (30, 33, 30))


def whole_slice(spacing_mm, shape=SHAPE, spacing=SPACING, spatial_dims=2):
    return WorkingGrid.from_brain(np.ones(shape, bool), spacing, spacing_mm, "slice", 0.0, spatial_dims)


def inside(grid):
    """The box of a grid as slices of its volume."""
    return tuple(slice(first, end) for first, end in zip(grid.box[::2], grid.box[1::2], strict=True))


def test_without_resampling_the_volume_is_its_own_image_in_three_dimensions():
    volume = np.random.default_rng(0).standard_normal((*SHAPE, 2)).astype(np.float32)
    grid = whole_slice(None, spatial_dims=3)
    image = grid.slices(volume)
    assert image.shape == (1, 2, *SHAPE)
    assert np.array_equal(image[0].numpy(), volume.transpose(3, 0, 1, 2))
    assert np.array_equal(grid.volume(image), volume)


def test_without_resampling_slices_are_the_volumes_own_values_in_order():
    volume = np.random.default_rng(0).standard_normal((*SHAPE, 2)).astype(np.float32)
    slices = whole_slice(None).slices(volume)
    assert slices.shape == (5, 2, 90, 70)
    assert slices[3, 1, 20, 60].item() == volume[20, 60, 3, 1]
    assert np.array_equal(slices.numpy(), volume.transpose(2, 3, 0, 1))
    assert np.array_equal(whole_slice(None).volume(slices), volume)


def test_one_channel_needs_no_axis():
    volume = np.random.default_rng(0).random(SHAPE)
    slices = whole_slice(2.0).slices(volume)
    assert slices.dtype == torch.float32
    assert torch.equal(slices, whole_slice(2.0).slices(volume[..., None]))


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("spacing_mm", [0.5, 1.0, 2.0, 3.0])
def test_size_follows_the_spacing(spacing_mm, spatial_dims):
    grid = whole_slice(spacing_mm, spatial_dims=spatial_dims)
    assert grid.size == (round(90 * 0.96 / spacing_mm), round(70 * 1.25 / spacing_mm), round(5 * 3 / spacing_mm))[:spatial_dims]


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("margin_mm", [0.0, 8.0])
def test_box_holds_the_brain_and_the_margin_on_every_side(margin_mm, spatial_dims):
    brain = np.zeros((90, 70, 20), bool)
    brain[20:60, 15:50, 6:12] = True
    grid = WorkingGrid.from_brain(brain, SPACING, None, "brain_box", margin_mm, spatial_dims)
    occupied = ((20, 59), (15, 49), (6, 11))[:spatial_dims]
    assert grid.size == tuple(end - first for first, end in zip(grid.box[::2], grid.box[1::2], strict=True))
    for first, end, (lowest, highest), mm in zip(grid.box[::2], grid.box[1::2], occupied, SPACING, strict=False):
        below, above = (lowest - first) * mm, (end - 1 - highest) * mm
        assert margin_mm <= below < margin_mm + mm
        assert margin_mm <= above < margin_mm + mm
    assert len(grid.size) == spatial_dims


def test_box_ends_at_the_scans_edge_and_an_empty_brain_has_the_whole_slice():
    assert WorkingGrid.from_brain(BRAIN, SPACING, None, "brain_box", 500.0).box == (0, 90, 0, 70)
    assert WorkingGrid.from_brain(np.zeros(SHAPE, bool), SPACING, None, "brain_box", 8.0).box == (0, 90, 0, 70)


@pytest.mark.parametrize("spacing_mm", [0.7, 1.0, 2.0, 3.5])
@pytest.mark.parametrize("region", ["slice", "brain_box"])
@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_constants_stay_and_nothing_is_written_outside_the_box(spacing_mm, region, spatial_dims):
    brain = BRAIN & (np.arange(5) > 0)
    grid = WorkingGrid.from_brain(brain, SPACING, spacing_mm, region, 3.0, spatial_dims)
    slices = grid.slices(np.full(SHAPE, 0.75))
    torch.testing.assert_close(slices, torch.full_like(slices, 0.75), rtol=0, atol=1e-6)
    volume = grid.volume(slices)
    assert volume.shape == (*SHAPE, 1)
    assert volume.dtype == np.float32
    np.testing.assert_allclose(volume[inside(grid)], 0.75, atol=1e-6)
    volume[inside(grid)] = 0
    assert not volume.any()


@pytest.mark.parametrize("spacing_mm", [0.7, 1.0, 2.0, 3.5])
def test_a_ramp_keeps_its_value_at_each_place_in_mm(spacing_mm):
    """Pixel n of a resampled axis lies at (n + 1/2) size / count mm from the same edge: there is no shift."""
    x_mm, y_mm = ((np.arange(n) + 0.5) * mm for n, mm in zip(SHAPE[:2], SPACING[:2], strict=True))
    ramp = (0.3 * x_mm[:, None] - 0.7 * y_mm[None, :])[..., None].repeat(SHAPE[2], axis=2)
    grid = whole_slice(spacing_mm)
    places = [(np.arange(n) + 0.5) * length * mm / n for n, length, mm in zip(grid.size, SHAPE, SPACING, strict=False)]
    expected = 0.3 * places[0][:, None] - 0.7 * places[1][None, :]
    slices = grid.slices(ramp)
    inner = (slice(3, -3), slice(3, -3))  # the border has no neighbours to interpolate with
    pixel = 0.3 * 0.96 * 90 / grid.size[0] + 0.7 * 1.25 * 70 / grid.size[1]  # what the ramp rises by from pixel to pixel
    for one in slices[:, 0].numpy():
        # Anti-aliasing weighs whole voxels, which leaves a ripple of a few hundredths of a pixel, and no shift.
        np.testing.assert_allclose(one[inner], expected[inner], atol=0.06 * pixel)
        assert abs((one - expected)[inner].mean()) < 0.003 * pixel
    back = grid.volume(slices)[..., 0]
    far = (slice(9, -9), slice(9, -9))
    assert np.abs(back[far] - ramp[far]).max() < 0.08 * pixel
    assert abs((back - ramp)[far].mean()) < 0.003 * pixel


@pytest.mark.parametrize("spacing_mm", [0.7, 1.0, 2.0, 3.0])
@pytest.mark.parametrize("region", ["slice", "brain_box"])
def test_a_blob_stays_where_it_is_in_three_dimensions(spacing_mm, region):
    shape, centre, spacing = (50, 40, 30), np.array([24.3, 18.8, 14.4]), np.array((0.96, 1.25, 1.5))
    places = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"))
    squared_mm = (((places - centre.reshape(3, 1, 1, 1)) * spacing.reshape(3, 1, 1, 1)) ** 2).sum(axis=0)
    blob = np.exp(-squared_mm / (2 * 4.0**2)).astype(np.float32)
    brain = squared_mm < 18**2
    grid = WorkingGrid.from_brain(brain, tuple(spacing), spacing_mm, region, 2.0, 3)
    image = grid.slices(blob)
    back = grid.volume(image)[..., 0]
    assert np.abs(np.array(ndimage.center_of_mass(back)) - ndimage.center_of_mass(blob)).max() < 0.03
    assert back.sum() == pytest.approx(blob.sum(), rel=0.01)
    pixel = np.array([length * mm / n for length, mm, n in zip(grid._native_size, spacing, grid.size, strict=True)])
    found = (np.array(ndimage.center_of_mass(image[0, 0].numpy())) + 0.5) * pixel + np.array(grid.box[::2]) * spacing
    np.testing.assert_allclose(found, (np.array(ndimage.center_of_mass(blob)) + 0.5) * spacing, atol=0.04)


@pytest.mark.parametrize("spacing_mm", [0.7, 1.3, 4.0])
def test_resampling_of_a_volume_is_that_of_its_axes_in_turn(spacing_mm):
    """Each axis on its own, with the anti-aliasing of images of one row."""
    volume = np.random.default_rng(0).standard_normal((14, 11, 9)).astype(np.float32)
    grid = whole_slice(spacing_mm, volume.shape, (0.96, 1.25, 1.5), spatial_dims=3)
    expected = torch.from_numpy(volume)
    for axis, length in enumerate(grid.size):
        rows = expected.movedim(axis, -1)
        row = functional.interpolate(rows.flatten(0, 1)[:, None, None], (1, length), mode="bilinear", antialias=True)
        expected = row[:, 0, 0].unflatten(0, rows.shape[:2]).movedim(-1, axis)
    torch.testing.assert_close(grid.slices(volume)[0, 0], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("spacing_mm", [0.7, 1.0, 2.0, 3.0])
@pytest.mark.parametrize("region", ["slice", "brain_box"])
def test_a_blob_stays_where_it_is(spacing_mm, region):
    places = np.stack(np.meshgrid(*[np.arange(n) for n in SHAPE], indexing="ij"))
    centre, spacing = np.array([52.3, 30.8, 2.0]), np.array(SPACING)
    squared_mm = (((places - centre.reshape(3, 1, 1, 1)) * spacing.reshape(3, 1, 1, 1)) ** 2).sum(axis=0)
    blob = np.exp(-squared_mm / (2 * 5.0**2)).astype(np.float32)
    grid = WorkingGrid.from_brain(BRAIN, SPACING, spacing_mm, region, 8.0)
    slices = grid.slices(blob)
    back = grid.volume(slices)[..., 0]
    assert np.abs(np.array(ndimage.center_of_mass(back)) - ndimage.center_of_mass(blob)).max() < 0.02
    assert back.sum() == pytest.approx(blob.sum(), rel=0.01)
    # On the working grid itself: the centre of mass in mm from the corner of the box.
    _, _, row, column = ndimage.center_of_mass(slices.numpy())
    pixel = [(grid.box[2 * axis + 1] - grid.box[2 * axis]) * SPACING[axis] / grid.size[axis] for axis in (0, 1)]
    found = np.array([(row + 0.5) * pixel[0], (column + 0.5) * pixel[1]])
    corner = np.array([grid.box[0] * SPACING[0], grid.box[2] * SPACING[1]])
    np.testing.assert_allclose(found + corner, (np.array(ndimage.center_of_mass(blob))[:2] + 0.5) * spacing[:2], atol=0.03)


def test_a_lesion_survives_the_way_there_and_back():
    """Spheres of 6 mm on a 1 mm grid, cut at 0.5: what resampling alone costs in Dice."""
    lesion = ellipsoid(SHAPE, SPACING, (40, 45, 7.5), (6, 6, 6))
    for spacing_mm, least in ((0.7, 0.95), (1.0, 0.94), (2.0, 0.9)):
        grid = whole_slice(spacing_mm)
        back = grid.volume(grid.slices(lesion))[..., 0] >= 0.5
        assert 2 * (back & lesion).sum() / (back.sum() + lesion.sum()) > least


@pytest.mark.parametrize("spacing_mm", [None, 0.7, 2.0])
def test_probabilities_stay_probabilities(spacing_mm):
    grid = whole_slice(spacing_mm)
    slices = torch.from_numpy(np.random.default_rng(0).random((5, 3, *grid.size), dtype=np.float32))
    volume = grid.volume(slices)
    assert volume.shape == (*SHAPE, 3)
    assert volume.min() >= 0
    assert volume.max() <= 1


@pytest.mark.parametrize("spacing_mm", [3.7, 4.0, 6.0])
def test_nearest_finds_the_binary_mask_of_the_grid_again_in_three_dimensions(spacing_mm):
    """Above (1 - 1 / (2 r))^3 = 1 / 2, the value of a single pixel of r voxels at the voxel next to its centre."""
    grid = whole_slice(spacing_mm, (50, 40, 30), (0.96, 1.25, 1.5), spatial_dims=3)
    mask = (np.random.default_rng(0).random((1, 2, *grid.size)) < 0.2).astype(np.float32)
    returned = grid.volume(torch.from_numpy(mask)) >= 0.5
    np.testing.assert_array_equal(grid.nearest(returned).numpy(), mask)


@pytest.mark.parametrize("spacing_mm", [2.0, 2.6, 3.0, 4.0])
def test_nearest_finds_the_binary_mask_of_the_grid_again(spacing_mm):
    """With single pixels, which `slices` would lose."""
    grid = WorkingGrid.from_brain(BRAIN, SPACING, spacing_mm, "brain_box", 3.0)
    mask = (np.random.default_rng(0).random((SHAPE[2], 2, *grid.size)) < 0.2).astype(np.float32)
    returned = grid.volume(torch.from_numpy(mask)) >= 0.5
    np.testing.assert_array_equal(grid.nearest(returned).numpy(), mask)
    assert (grid.slices(returned).numpy() >= 0.5).sum() < 0.8 * mask.sum()


@pytest.mark.parametrize(("spacing_mm", "is_coarser"), [(None, False), (0.5, False), (1.0, False), (1.05, True), (2.0, True)])
def test_grid_is_coarser_if_its_pixels_are_larger(spacing_mm, is_coarser):
    assert (
        WorkingGrid.from_brain(np.ones((90, 70, 2), bool), (1.0, 1.0, 3.0), spacing_mm, "slice", 0.0).is_coarser == is_coarser
    )


@pytest.mark.parametrize(
    ("members", "coarse", "native"), [("auto", True, False), ("binary", True, True), ("soft", False, False)]
)
def test_members_are_binary_on_coarser_grids_or_as_configured(members, coarse, native):
    for spacing_mm, is_binary in ((2.0, coarse), (None, native)):
        settings = GridSettings(spacing_mm, "slice", 0.0, 1.0, members)
        assert settings.has_binary_members(settings.working_grid(BRAIN, SPACING)[0]) == is_binary


def test_label_fractions_are_binary_without_resampling_and_partial_volumes_with_it():
    labels = np.random.default_rng(0).integers(0, 3, SHAPE).astype(np.uint8)
    native = whole_slice(None).label_fractions(labels).numpy()
    assert np.array_equal(native[:, 0], labels.transpose(2, 0, 1) == 1)
    assert np.array_equal(native[:, 1], labels.transpose(2, 0, 1) == 2)
    # Blocks of 6 x 6 voxels are 2 x 2 pixels: inside a large block the share is whole, and volume is kept.
    blocks = np.random.default_rng(1).integers(0, 3, (15, 10, 2))
    labels = blocks.repeat(6, axis=0).repeat(6, axis=1)
    grid = WorkingGrid.from_brain(np.ones(labels.shape, bool), (0.5, 0.5, 3.0), 1.5, "slice", 0.0)
    reduced = grid.label_fractions(labels).numpy()
    assert reduced.shape == (2, 2, 30, 20)
    assert ((reduced > 0.01) & (reduced < 0.99)).any()
    for channel, label in enumerate((1, 2)):
        assert reduced[:, channel].mean() == pytest.approx((labels == label).mean(), rel=0.03)
        majority = (blocks == label).repeat(2, axis=0).repeat(2, axis=1).transpose(2, 0, 1)
        assert ((reduced[:, channel] >= 0.5) == majority).mean() > 0.9


def test_binary_labels_are_the_class_of_half_a_pixel() -> None:
    """Blocks of 2 x 2 voxels become a pixel. Of the blocks' voxels none, all, half or a quarter are lesion."""
    labels = np.zeros((2, 8, 2))
    labels[:, 2:4], labels[0, 4:6], labels[0, 6] = 1, 1, 1
    brain = np.ones(labels.shape, bool)
    forms = ("fractions", "binary")
    grids = [GridSettings(2.0, "slice", 0.0, 0.0, labels=form).working_grid(brain, (1.0, 1.0, 1.0))[0] for form in forms]
    fractions, binary = (grid.label_fractions(labels)[0, 0].numpy() for grid in grids)
    assert set(np.unique(binary)) == {0, 1}
    np.testing.assert_array_equal(binary, fractions >= 0.5)
    assert ((fractions > 0) & (fractions < 1)).any()
    assert binary.tolist()[0][1] == 1
    assert binary.tolist()[0][3] == 0


@pytest.mark.parametrize(
    ("size", "divisor", "padded"),
    [((90, 70), 32, (96, 96)), ((64, 96), 32, (64, 96)), ((3, 5), 8, (8, 8)), ((3, 8, 5), 4, (4, 8, 8))],
)
def test_padding_repeats_the_far_edges(size, divisor, padded):
    slices = torch.from_numpy(np.random.default_rng(0).random((2, 1, *size), dtype=np.float32))
    wider = pad_to_multiple(slices, divisor)
    assert wider.shape[2:] == padded
    missing = [(0, after - before) for before, after in zip(size, padded, strict=True)]
    expected = np.pad(slices.numpy(), ((0, 0), (0, 0), *missing), mode="edge")
    assert np.array_equal(wider.numpy(), expected)


@pytest.mark.parametrize(("spatial_dims", "padded"), [(2, (64, 65)), (3, (64, 65, 8))])
@pytest.mark.parametrize("spacing_mm", [None, 2.0])
def test_padding_to_a_fixed_size_is_even_and_ignored(spatial_dims, padded, spacing_mm):
    """Images repeat their edges, masks are empty, losses ignore the padding, and the way back removes it."""
    random, shape = np.random.default_rng(0), (60, 52, 5)
    image, labels = random.random((*shape, 2)).astype(np.float32), random.integers(0, 3, shape)
    brain = np.ones(shape, bool)
    plain = GridSettings(spacing_mm, "slice", 0.0, 1.0, spatial_dims=spatial_dims)
    grid, _ = plain.working_grid(brain, (1.5, 1.5, 3.0))
    settings = replace(plain, padded_size=padded)
    wide, _ = settings.working_grid(brain, (1.5, 1.5, 3.0))
    missing = [(total // 2, -(-total // 2)) for total in np.subtract(padded, grid.size).tolist()]
    assert wide.size == padded
    assert wide.is_coarser == grid.is_coarser

    def expected(images, **mode):
        return np.pad(images.numpy(), ((0, 0), (0, 0), *missing), **mode)

    np.testing.assert_array_equal(wide.slices(image).numpy(), expected(grid.slices(image), mode="edge"))
    np.testing.assert_array_equal(wide.masks(image).numpy(), expected(grid.slices(image)))
    np.testing.assert_array_equal(wide.nearest(image).numpy(), expected(grid.nearest(image)))
    lesion, other = np.split(wide.label_fractions(labels).numpy(), 2, axis=1)
    np.testing.assert_array_equal(lesion, expected(grid.label_fractions(labels)[:, :1]))
    np.testing.assert_array_equal(other, expected(grid.label_fractions(labels)[:, 1:], constant_values=1))
    np.testing.assert_array_equal(wide.volume(wide.slices(image)), grid.volume(grid.slices(image)))


def test_padding_of_brats_volumes_is_that_of_the_reference():
    """240 x 240 x 155 voxels in 256^3: 8 and 8, 8 and 8, 50 and 51. Reference: the released code of Bieder et al. 2023."""
    assert even_padding((240, 240, 155), (256, 256, 256)) == (8, 8, 8, 8, 50, 51)
    with pytest.raises(ValueError, match=r"256 x 256 x 128, but an image has 240 x 240 x 155 pixels\. Set at least"):
        even_padding((240, 240, 155), (256, 256, 128))


def test_starts_are_binary_if_members_are_and_averaged_if_made_on_another_grid():
    """A checkerboard of single voxels covers half of every pixel of twice the spacing; of one quarter nothing remains."""
    volume = np.zeros((8, 8, 2, 2), np.float32)
    volume[::2, ::2, :, :] = 1
    volume[1::2, 1::2, :, 0] = 1
    brain = np.ones((8, 8, 2), bool)
    for members, same, expected in (
        ("soft", False, None),
        ("auto", True, None),
        ("auto", False, [1.0, 0.0]),
    ):
        settings = GridSettings(2.0, "slice", 0.0, 0.0, members, start_from_same_grid=same)
        grid, _ = settings.working_grid(brain, (1.0, 1.0, 3.0))
        starts = settings.starts(volume, grid)
        if expected is None:
            np.testing.assert_array_equal(starts, grid.nearest(volume) if same else grid.slices(volume))
        else:
            inner = starts[:, :, 1:-1, 1:-1]
            np.testing.assert_array_equal(inner, np.broadcast_to(np.reshape(expected, (1, 2, 1, 1)), inner.shape))


@pytest.mark.parametrize(("minimum_cm2", "expected"), [(1.0, True), (1.3, False)])
def test_a_volume_is_used_if_one_of_its_slices_holds_enough_brain(minimum_cm2, expected):
    brain = np.zeros((40, 40, 4), bool)
    brain[:10, :10, 1] = True  # 1.2 cm^2
    grid, has_brain = GridSettings(None, "slice", 0.0, minimum_cm2, spatial_dims=3).working_grid(brain, SPACING)
    assert has_brain.tolist() == [expected]
    assert grid.size == (40, 40, 4)


def test_slices_with_brain_hold_the_least_area_in_cm2():
    brain = np.zeros((40, 40, 4), bool)
    brain[:10, :10, 1] = True  # 100 voxels of 1.2 mm^2: 1.2 cm^2
    brain[:9, :9, 2] = True  # 0.972 cm^2
    assert slices_with_brain(brain, (0.96, 1.25, 3.0), 1.0).tolist() == [False, True, False, False]
    assert slices_with_brain(brain, (0.96, 1.25, 3.0), 1.2).tolist() == [False, True, False, False]
    assert slices_with_brain(brain, (0.96, 1.25, 3.0), 0.5).tolist() == [False, True, True, False]


def test_settings_give_the_grid_and_the_slices_of_a_case():
    grid, with_brain = GridSettings(2.0, "brain_box", 8.0, 1.0).working_grid(BRAIN, SPACING)
    assert grid == WorkingGrid.from_brain(BRAIN, SPACING, 2.0, "brain_box", 8.0)
    assert np.array_equal(with_brain, slices_with_brain(BRAIN, SPACING, 1.0))
