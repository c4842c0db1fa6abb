"""The slices that the quality page shows, and which way round they are. About 3 s."""

import matplotlib.pyplot as plt
import nibabel as nib
import numpy as np
import pytest

from pd_ddpm.data.scan import Scan
from pd_ddpm.exhibits.figures.scan_slices import choose_slices, registration_figure, slices_figure
from pd_ddpm.inference.ensemble import Segmentation

SHAPE = (24, 30, 12)


def volume(areas: list[int]) -> np.ndarray:
    """(10, 10, Z) with so many voxels in each slice."""
    made = np.zeros((10, 10, len(areas)), dtype=bool)
    for z, area in enumerate(areas):
        made[..., z] = (np.arange(100) < area).reshape(10, 10)
    return made


def test_slices_are_spread_over_those_with_lesion_and_hold_the_largest():
    mask = volume([0, 1, 1, 9, 1, 1, 1, 1, 0, 0])
    brain = volume([50] * 10)
    assert choose_slices(mask, brain, 3) == [1, 3, 7]  # in place of 4
    assert choose_slices(mask, brain, 20) == [1, 2, 3, 4, 5, 6, 7]
    assert len(choose_slices(mask, brain, 4)) == 4


def test_without_lesion_slices_are_spread_over_the_brain():
    assert choose_slices(volume([0] * 6), volume([0, 10, 60, 100, 60, 10]), 2) == [2, 4]
    assert choose_slices(volume([0] * 6), volume([0] * 6), 2) == [3]


@pytest.fixture
def scan() -> Scan:
    """Voxel axes to left, anterior, superior; a bright spot at the patient's left front, in slice 7 of 12."""
    random = np.random.default_rng(0)
    affine = np.diag([-2.0, 2.0, 4.0, 1.0])
    image = random.normal(0, 0.1, (*SHAPE, 2)).astype(np.float32)
    image[17:20, 22:25, 7] = 8
    brain = np.zeros(SHAPE, dtype=bool)
    brain[3:21, 4:26, 2:10] = True
    return Scan("a", image, brain, nib.Nifti1Image(np.zeros(SHAPE, np.float32), affine))


def pictures(figure: plt.Figure) -> list[np.ndarray]:
    """The pictures of all panels, in order."""
    return [np.asarray(axis.images[0].get_array()) for axis in figure.axes if axis.images]


def texts(figure: plt.Figure) -> list[str]:
    return [text.get_text() for axis in figure.axes for text in axis.texts]


def test_slices_are_in_radiological_convention_and_numbered_as_the_file_does(scan):
    members = np.zeros((*SHAPE, 2), dtype=np.float32)
    members[17:20, 22:25, 7, 0] = 1
    members[17:20, 22:25, 7, 1] = 0.5
    figure = slices_figure(scan, Segmentation.from_members(members))
    shown, overlaid, variance = pictures(figure)[:3]
    row, column = np.unravel_index(shown.argmax(), shown.shape)
    assert row < shown.shape[0] / 2  # anterior is up
    assert column > shown.shape[1] / 2  # the patient's left is on the right
    np.testing.assert_array_equal(shown, overlaid)
    assert variance.max() == pytest.approx(0.125)
    np.testing.assert_array_equal(variance > 0, shown >= 0.99)
    assert texts(figure) == ["R", "L", "slice 7"]
    plt.close(figure)


def test_one_member_has_no_map_and_no_lesion_is_no_error(scan):
    figure = slices_figure(scan, Segmentation.from_members(np.zeros((*SHAPE, 1), dtype=np.float32)), count=4)
    assert len(pictures(figure)) == 2 * 4
    plt.close(figure)
    figure = slices_figure(scan, Segmentation.from_members(np.zeros((*SHAPE, 3), dtype=np.float32)), count=4)
    assert len([picture for picture in pictures(figure) if picture.shape == pictures(figure)[0].shape]) >= 3 * 4
    plt.close(figure)


def test_all_channels_are_shown_side_by_side(scan):
    figure = registration_figure(scan, ["FLAIR", "T1"], count=2)
    assert [text.split(",")[0] for text in texts(figure)] == ["FLAIR", "T1", "FLAIR", "T1"]
    assert len(pictures(figure)) == 4
    plt.close(figure)
