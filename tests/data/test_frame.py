"""Grids of prepared cases and intensities of whole scans, against SimpleITK's filters in ImgX-DiffSeg's order (about 3 s)."""

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
from PIL import Image
from scipy import ndimage

from pd_ddpm.config import methods
from pd_ddpm.config.errors import ConfigError
from pd_ddpm.config.load import read
from pd_ddpm.config.validate import validate
from pd_ddpm.data.nifti.read import read_array
from pd_ddpm.data.preparation.case import prepare_cohort
from pd_ddpm.data.preparation.frame import Frame
from pd_ddpm.data.preparation.normalise import _normalise
from pd_ddpm.data.scan import Scan

AFFINE = np.array([[-0.9, 0, 0, 20.0], [0, -1.2, 0, 30.0], [0, 0, 4.0, -50.0], [0, 0, 0, 1]])
SHAPE = (50, 40, 12)


def write(path: Path, array: np.ndarray) -> str:
    image = nib.Nifti1Image(array, AFFINE)
    image.set_qform(AFFINE, 1)
    nib.save(image, path)
    return str(path)


@pytest.fixture
def abdomen(tmp_path: Path) -> dict[str, Any]:
    """A CT-like scan with an organ far from the middle, and its label map."""
    random = np.random.default_rng(1)
    volume = (-600 + 900 * ndimage.gaussian_filter(random.normal(size=SHAPE), 2) * 5).clip(-1024, 1500).astype(np.int16)
    labels = np.zeros(SHAPE, np.uint8)
    labels[4:14, 22:37, 7:11] = 1
    volume[labels > 0] += 500
    return {
        "case": "amos_0001",
        "site": "unknown",
        "CT": write(tmp_path / "ct.nii.gz", volume),
        "CT_transform": "",
        "mask": write(tmp_path / "label.nii.gz", labels),
        "patient": "",
    }


def prepared(case: dict[str, Any], folder: Path, **settings: Any) -> tuple[np.ndarray, np.ndarray, nib.Nifti1Image]:
    """Prepare a case; return its image, its labels, and the image file."""
    prepare_cohort(pd.DataFrame([case]), ["CT"], folder, region="scan", **settings)
    names = [folder / f"{case['case']}_{part}.nii.gz" for part in ("image", "mask")]
    return np.squeeze(read_array(names[0], allow_4d=True)), read_array(names[1], mask=True), nib.load(names[0])


def with_itk(
    case: dict[str, Any], spacing: list[float], size: list[int], box: list[tuple[int, int]] | None
) -> list[np.ndarray]:
    """Return image and labels as SimpleITK resamples, clips, scales, pads and crops them."""
    results = []
    for column, interpolator in (("CT", sitk.sitkLinear), ("mask", sitk.sitkNearestNeighbor)):
        image = sitk.ReadImage(case[column], sitk.sitkFloat32)
        shape = [round(n * s / t) for n, s, t in zip(image.GetSize(), image.GetSpacing(), spacing, strict=True)]
        shift = [0.5 * (t / s - 1) for s, t in zip(image.GetSpacing(), spacing, strict=True)]
        corner = image.TransformContinuousIndexToPhysicalPoint(shift)
        image = sitk.Resample(image, shape, sitk.Transform(), interpolator, corner, spacing, image.GetDirection(), 0.0)
        if column == "CT":
            image = sitk.RescaleIntensity(sitk.Normalize(sitk.Clamp(image, lowerBound=-991, upperBound=362)), 0, 1)
        missing = [max(s - n, 0) for n, s in zip(image.GetSize(), size, strict=True)]
        image = sitk.ConstantPad(image, [m // 2 for m in missing], [m - m // 2 for m in missing], 0)
        excess = [max(n - s, 0) for n, s in zip(image.GetSize(), size, strict=True)]
        lower = [e // 2 for e in excess]
        if box is not None:
            lower = [min(max(int(np.ceil((a + b) / 2 - s / 2)), 0), e) for (a, b), s, e in zip(box, size, excess, strict=True)]
        image = sitk.Crop(image, lower, [e - low for e, low in zip(excess, lower, strict=True)])
        results.append(sitk.GetArrayFromImage(image).T)
    return results


@pytest.mark.parametrize("crop_around", ["centre", "label"])
def test_prepared_case_equals_itk_filters(abdomen: dict[str, Any], tmp_path: Path, crop_around: str) -> None:
    spacing, size = [1.5, 1.5, 5.0], [24, 20, 14]
    image, labels, file = prepared(
        abdomen,
        tmp_path / "out",
        spacing_mm=spacing,
        size=size,
        crop_around=crop_around,
        clip={"values": [-991, 362]},
        normalisation="unit_range",
    )
    _, whole = with_itk(abdomen, spacing, [60, 60, 14], None)
    # Without cropping, its size is 30 x 32 x 10: padded along Z, and here also by 15 and 14 voxels in the plane.
    starts = [15, 14, 0]
    box = [(int(i.min()) - start, int(i.max()) - start) for i, start in zip(np.nonzero(whole), starts, strict=True)]
    expected_image, expected_labels = with_itk(abdomen, spacing, size, box if crop_around == "label" else None)
    assert image.shape == tuple(size)
    np.testing.assert_allclose(image, expected_image, atol=1e-5)
    np.testing.assert_array_equal(labels, expected_labels)
    np.testing.assert_allclose(file.header.get_zooms()[:3], spacing, rtol=1e-6)
    if crop_around == "label":
        assert (labels > 0).sum() == (whole > 0).sum()
    # The organ lies where it was in patient space, to half a voxel.
    middle = np.array([8.5, 29.0, 8.5, 1.0])
    if crop_around == "label":
        found = file.affine @ [*(float(index.mean()) for index in np.nonzero(labels)), 1]
        assert np.abs(found - AFFINE @ middle).max() < 2.5


def test_margins_are_cut_from_the_scan(abdomen: dict[str, Any], tmp_path: Path) -> None:
    margins = [[3, 4], [10, 1], [0, 2]]
    raw, raw_labels, raw_file = prepared(abdomen, tmp_path / "raw", normalisation="none")
    image, labels, file = prepared(abdomen, tmp_path / "cut", normalisation="none", margins_voxels=margins)
    np.testing.assert_array_equal(image, raw[3:-4, 10:-1, :-2])
    np.testing.assert_array_equal(labels, raw_labels[3:-4, 10:-1, :-2])
    np.testing.assert_allclose(file.affine @ [0, 0, 0, 1], raw_file.affine @ [3, 10, 0, 1], atol=1e-4)
    # Axes are those of `orientation`, if it is set: RAS mirrors X and Y of this scan.
    turned, _, _ = prepared(
        abdomen, tmp_path / "ras", normalisation="none", orientation="RAS", margins_voxels=[[3, 4], [10, 1], [0, 2]]
    )
    np.testing.assert_array_equal(turned, raw[::-1, ::-1][3:-4, 10:-1, :-2])


def test_percentiles_clip_all_voxels_of_a_channel(abdomen: dict[str, Any], tmp_path: Path) -> None:
    raw, _, _ = prepared(abdomen, tmp_path / "raw", normalisation="none")
    image, _, _ = prepared(abdomen, tmp_path / "out", clip={"percentiles": [0.95, 99.5]}, normalisation="unit_range")
    low, high = np.percentile(raw, [0.95, 99.5])
    np.testing.assert_allclose(image, (raw.clip(low, high) - low) / (high - low), atol=1e-6)


def test_constant_channel_becomes_zero_and_not_nan() -> None:
    constant = np.full(SHAPE, 7, np.float32)
    assert (_normalise(constant, np.ones(SHAPE, bool), "unit_range") == 0).all()


def test_fit_without_label_uses_none_and_keeps_scans_of_that_size() -> None:
    random = np.random.default_rng(2)
    image = random.normal(size=(6, 7, 3, 2)).astype(np.float32)
    scan = Scan("a", image, np.ones((6, 7, 3), bool), nib.Nifti1Image(image[..., 0], AFFINE))
    labels = np.zeros((6, 7, 3), np.uint8)
    labels[5, 6, 2] = 1
    centre, _ = Frame(size=[4, 9, 3]).fit(scan, [labels])
    np.testing.assert_array_equal(centre.image[:, 1:8], image[1:5])
    assert not centre.image[:, [0, 8]].any()
    unlabelled, _ = Frame(size=[4, 9, 3], crop_around="label").fit(scan)
    np.testing.assert_array_equal(unlabelled.image, centre.image)
    assert Frame(size=[6, 7, 3]).fit(scan)[0].image.tobytes() == image.tobytes()
    # An empty label map has no box either.
    empty, _ = Frame(size=[4, 9, 3], crop_around="label").fit(scan, [np.zeros_like(labels)])
    np.testing.assert_array_equal(empty.image, centre.image)


def test_png_images_are_prepared_as_slices(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    pixels = random.integers(0, 256, (48, 64)).astype(np.uint8)
    mask = np.zeros((48, 64), np.uint8)
    mask[10:20, 30:40] = 255
    for name, array in (("us", pixels), ("mask", mask)):
        Image.fromarray(array).save(tmp_path / f"{name}.png")
    case = {
        "case": "BB_anon_1_1",
        "site": "unknown",
        "CT": str(tmp_path / "us.png"),
        "CT_transform": "",
        "mask": str(tmp_path / "mask.png"),
    }
    image, labels, file = prepared(case, tmp_path / "out", clip={"values": [0, 255]}, normalisation="unit_range")
    low, high = pixels.min(), pixels.max()
    np.testing.assert_allclose(image, (pixels.T.astype(float) - low) / (high - low), atol=1e-6)
    np.testing.assert_array_equal(np.squeeze(labels), mask.T > 0)
    assert file.shape[:3] == (64, 48, 1)


def test_a_dataset_overrides_keys_of_the_preparation() -> None:
    own = {
        "layout": "amos",
        "folder": "data/amos",
        "channels": ["CT"],
        "preparation": {"region": "scan", "spacing_mm": [1.5, 1.5, 5]},
    }
    config = validate(read(None, {"datasets": {"amos": own}}))
    settings = methods.preparation(config, "amos")
    assert (settings["region"], settings["spacing_mm"]) == ("scan", [1.5, 1.5, 5])
    assert settings["interpolator"] == config["preparation"]["interpolator"]
    assert methods.preparation(config, config["dataset"]) == config["preparation"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"clip": {"values": [3, 1]}}, "3 is not below 1"),
        ({"clip": {}}, "a range has either values or percentiles"),
        ({"crop_around": "label"}, "nothing is cropped, since `size` is null"),
        ({"region": "scan", "bias_correction": "n4"}, "N4 needs a brain"),
        ({"spacing_mm": [1, 1]}, "spacing_mm"),
    ],
)
def test_contradictory_keys_of_the_preparation_are_named(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as raised:
        validate(read(None, {"preparation": change}))
    assert words in str(raised.value)
