"""Choice and orientation of the slices on the review page (about 3 s)."""

import matplotlib.pyplot as plt
import nibabel as nib
import numpy as np
import pytest

from pd_ddpm.data.scan import Scan
from pd_ddpm.exhibits.figures.scan_slices import choose_slices, registration_figure, slices_figure
from pd_ddpm.inference.ensemble import Segmentation

SHAPE = (24, 30, 12)


def volume(areas: list[int]) -> np.ndarray:
    """Return (10, 10, Z) bool with this number of voxels in each slice."""
    mask = np.zeros((10, 10, len(areas)), dtype=bool)
    for z, area in enumerate(areas):
        mask[..., z] = (np.arange(100) < area).reshape(10, 10)
    return mask


def test_choose_slices_spreads_over_lesion_slices_with_the_largest():
    mask = volume([0, 1, 1, 9, 1, 1, 1, 1, 0, 0])
    brain = volume([50] * 10)
    assert choose_slices(mask, brain, 3) == [1, 3, 7]  # in place of 4
    assert choose_slices(mask, brain, 20) == [1, 2, 3, 4, 5, 6, 7]
    assert len(choose_slices(mask, brain, 4)) == 4


def test_choose_slices_without_lesion_spreads_over_the_brain():
    assert choose_slices(volume([0] * 6), volume([0, 10, 60, 100, 60, 10]), 2) == [2, 4]
    assert choose_slices(volume([0] * 6), volume([0] * 6), 2) == [3]


@pytest.fixture
def scan() -> Scan:
    """Return a scan with axes to left, anterior and superior, and a bright spot at the left front in slice 7 of 12."""
    random = np.random.default_rng(0)
    affine = np.diag([-2.0, 2.0, 4.0, 1.0])
    image = random.normal(0, 0.1, (*SHAPE, 2)).astype(np.float32)
    image[17:20, 22:25, 7] = 8
    brain = np.zeros(SHAPE, dtype=bool)
    brain[3:21, 4:26, 2:10] = True
    return Scan("a", image, brain, nib.Nifti1Image(np.zeros(SHAPE, np.float32), affine))


def pictures(figure: plt.Figure) -> list[np.ndarray]:
    """Return the pictures of all panels, in order."""
    return [np.asarray(axis.images[0].get_array()) for axis in figure.axes if axis.images]


def texts(figure: plt.Figure) -> list[str]:
    return [text.get_text() for axis in figure.axes for text in axis.texts]


def test_slices_figure_is_radiological_and_numbered_as_the_file(scan):
    members = np.zeros((*SHAPE, 2), dtype=np.float32)
    members[17:20, 22:25, 7, 0] = 1
    members[17:20, 22:25, 7, 1] = 0.5
    figure = slices_figure(scan, Segmentation.from_members(members))
    plain, overlaid, variance = pictures(figure)[:3]
    row, column = np.unravel_index(plain.argmax(), plain.shape)
    assert row < plain.shape[0] / 2  # anterior is up
    assert column > plain.shape[1] / 2  # the patient's left is on the right
    np.testing.assert_array_equal(plain, overlaid)
    assert variance.max() == pytest.approx(0.125)
    np.testing.assert_array_equal(variance > 0, plain >= 0.99)
    assert texts(figure) == ["R", "L", "slice 7"]
    plt.close(figure)


def test_slices_figure_of_one_member_has_no_map(scan):
    figure = slices_figure(scan, Segmentation.from_members(np.zeros((*SHAPE, 1), dtype=np.float32)), count=4)
    assert len(pictures(figure)) == 2 * 4
    plt.close(figure)
    figure = slices_figure(scan, Segmentation.from_members(np.zeros((*SHAPE, 3), dtype=np.float32)), count=4)
    assert len([picture for picture in pictures(figure) if picture.shape == pictures(figure)[0].shape]) >= 3 * 4
    plt.close(figure)


def test_registration_figure_shows_all_channels(scan):
    figure = registration_figure(scan, ["FLAIR", "T1"], count=2)
    assert [text.split(",")[0] for text in texts(figure)] == ["FLAIR", "T1", "FLAIR", "T1"]
    assert len(pictures(figure)) == 4
    plt.close(figure)
