"""Preparation: resampling against an independent implementation, the brain mask, the files of a case. About 20 s."""

import gzip
import hashlib
import itertools
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
from scipy import ndimage

from pd_ddpm.data.nifti.geometry import ImageError, reorient_back
from pd_ddpm.data.preparation import case as preparation_case
from pd_ddpm.data.preparation.brain_mask import brain_mask
from pd_ddpm.data.preparation.case import prepare_case, prepare_cohort
from pd_ddpm.data.preparation.frame import Frame
from pd_ddpm.data.preparation.normalise import read_normalised
from pd_ddpm.data.preparation.resample import resample_to
from pd_ddpm.data.preparation.transforms import read_elastix_transform, read_transform
from pd_ddpm.runtime.files import fingerprint

SPACING = (2.0, 2.0, 4.0)
RAS = np.diag([*SPACING, 1.0])
CHANNELS = ("FLAIR", "T1")
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


# Geometry and transforms


def rotation(x: float, y: float, z: float, order: str) -> np.ndarray:
    """The product of rotations about the axes, in the order of the letters, written out."""
    cx, sx, cy, sy, cz, sz = np.cos(x), np.sin(x), np.cos(y), np.sin(y), np.cos(z), np.sin(z)
    about = {
        "x": np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]]),
        "y": np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]]),
        "z": np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]]),
    }
    return about[order[0]] @ about[order[1]] @ about[order[2]]


def grid(spacing: tuple, shape: tuple, angles=(0, 0, 0), flips=(1, 1, 1), permutation=(0, 1, 2)) -> np.ndarray:
    """Affine of a grid that is centred on the origin."""
    axes = rotation(*angles, "zxy")[:, list(permutation)] @ np.diag(np.multiply(spacing, flips))
    affine = np.eye(4)
    affine[:3, :3] = axes
    affine[:3, 3] = -axes @ ((np.array(shape) - 1) / 2)
    return affine


def smooth_array(shape: tuple, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=shape)
    return (100 + 200 * ndimage.gaussian_filter(noise, 1.5)).astype(np.float32)


def image_of(array: np.ndarray, affine: np.ndarray) -> nib.Nifti1Image:
    image = nib.Nifti1Image(array, affine)
    image.set_qform(affine, 1)
    image.set_sform(affine, 1)
    return image


def save(path, array: np.ndarray, affine: np.ndarray) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image_of(array, affine), path)
    return str(path)


def by_scipy(reference_shape, reference_affine, moving, moving_affine, lps=None, order=1):
    """Return the expected result, and which voxels have a complete neighbourhood in the moving image."""
    world = np.eye(4) if lps is None else LPS_TO_RAS @ lps @ LPS_TO_RAS
    indices = np.indices(reference_shape).reshape(3, -1)
    homogeneous = np.vstack([indices, np.ones(indices.shape[1])])
    at = (np.linalg.inv(moving_affine) @ world @ reference_affine @ homogeneous)[:3]
    values = ndimage.map_coordinates(moving.astype(np.float64), at, order=order, mode="mirror")
    upper = np.array(moving.shape)[:, None] - 1
    margin = 0.01 if order == 1 else 3
    inside = ((at > margin) & (at < upper - margin)).all(axis=0)
    outside = ((at < -0.6) | (at > upper + 0.6)).any(axis=0)
    return values.reshape(reference_shape), inside.reshape(reference_shape), outside.reshape(reference_shape)


GRIDS = {
    "same axes, anisotropic": ((1.0, 1.0, 3.0), (0, 0, 0), (1, 1, 1), (0, 1, 2)),
    "oblique": ((1.1, 0.9, 3.0), (0.2, -0.1, 0.3), (1, 1, 1), (0, 1, 2)),
    "flipped (LPS)": ((1.0, 1.2, 2.5), (0, 0, 0), (-1, -1, 1), (0, 1, 2)),
    "sagittal (PIR) and oblique": ((0.9, 1.0, 1.1), (0.1, 0.05, -0.2), (-1, -1, 1), (1, 2, 0)),
}


@pytest.mark.parametrize("reference_name", GRIDS)
@pytest.mark.parametrize("moving_name", ["oblique", "sagittal (PIR) and oblique"])
@pytest.mark.parametrize("order", [1, 3])
def test_resample_to_equals_scipy(tmp_path, reference_name, moving_name, order):
    shape, moving_shape = (20, 22, 9), (30, 28, 26)
    spacing, angles, flips, permutation = GRIDS[reference_name]
    reference_affine = grid(spacing, shape, angles, flips, permutation)
    spacing, angles, flips, permutation = GRIDS[moving_name]
    moving_affine = grid(spacing, moving_shape, angles, flips, permutation)
    moving_affine[:3, 3] += [4, -3, 2]
    moving = smooth_array(moving_shape)
    reference = save(tmp_path / "flair.nii.gz", smooth_array(shape, 1), reference_affine)
    path = save(tmp_path / "t1.nii.gz", moving, moving_affine)
    resampled = resample_to(reference, path, None, "linear" if order == 1 else "bspline")
    expected, inside, outside = by_scipy(shape, reference_affine, moving, moving_affine, order=order)
    assert resampled.dtype == np.float32
    assert inside.sum() > 300
    # The affines went through float32 headers.
    np.testing.assert_allclose(resampled[inside], expected[inside], atol=0.02)
    assert not resampled[outside].any()


ELASTIX = """\
(Transform "{kind}")
(NumberOfParameters {count})
(TransformParameters {parameters})
(InitialTransformParametersFileName "NoInitialTransform")
(UseBinaryFormatForTransformationParameters "false")
(HowToCombineTransforms "Compose")

// Image specific
(FixedImageDimension 3)
(MovingImageDimension 3)
(FixedInternalImagePixelType "float")
(Spacing 0.9583333135 0.9583333135 3.0000000000)
(UseDirectionCosines "true")

// {kind} specific
(CenterOfRotationPoint 3.5 -2.25 7.0)
(ComputeZYX "{zyx}")
"""
CENTRE = np.array([3.5, -2.25, 7.0])


def elastix_file(path, kind: str, parameters, zyx: str = "false", **changes: str):
    text = ELASTIX.format(kind=kind, count=len(parameters), parameters=" ".join(map(str, parameters)), zyx=zyx)
    for old, new in changes.items():
        text = "".join(
            line if not line.startswith(f"({old} ") else new and f"({old} {new})\n" for line in text.splitlines(keepends=True)
        )
    path.write_text(text)
    return path


def about_centre(matrix: np.ndarray, translation) -> np.ndarray:
    result = np.eye(4)
    result[:3, :3] = matrix
    result[:3, 3] = CENTRE + np.asarray(translation) - matrix @ CENTRE
    return result


EULER = (0.11, -0.07, 0.2, 3.0, -4.0, 2.5)
SHEAR = np.array([[1.02, 0.05, -0.03], [-0.04, 0.97, 0.02], [0.01, 0.06, 1.05]])


@pytest.mark.parametrize(
    ("kind", "parameters", "zyx", "expected"),
    [
        ("EulerTransform", EULER, "false", about_centre(rotation(*EULER[:3], "zxy"), EULER[3:])),
        ("EulerTransform", EULER, "true", about_centre(rotation(*EULER[:3], "zyx"), EULER[3:])),
        ("AffineTransform", (*SHEAR.ravel(), 1.0, 2.0, -3.0), "false", about_centre(SHEAR, (1, 2, -3))),
        ("TranslationTransform", (1.5, -2.5, 3.5), "false", about_centre(np.eye(3), (1.5, -2.5, 3.5))),
    ],
)
def test_elastix_transform_is_its_matrix_and_resamples_like_scipy(tmp_path, kind, parameters, zyx, expected):
    path = elastix_file(tmp_path / "reg.txt", kind, parameters, zyx)
    transform = read_elastix_transform(path)
    for point in np.random.default_rng(0).uniform(-100, 100, (5, 3)):
        np.testing.assert_allclose(transform.TransformPoint(point.tolist()), (expected @ [*point, 1])[:3], atol=1e-9)

    shape, moving_shape = (18, 20, 8), (26, 24, 28)
    reference_affine = grid((1, 1, 3), shape, (0.1, 0, 0), (-1, -1, 1))
    moving_affine = grid((1, 1.1, 0.9), moving_shape, (0, 0.1, 0), (-1, -1, 1), (1, 2, 0))
    moving = smooth_array(moving_shape)
    reference = save(tmp_path / "flair.nii.gz", smooth_array(shape, 1), reference_affine)
    resampled = resample_to(reference, save(tmp_path / "t1.nii.gz", moving, moving_affine), path)
    values, inside, outside = by_scipy(shape, reference_affine, moving, moving_affine, expected)
    assert inside.sum() > 300
    np.testing.assert_allclose(resampled[inside], values[inside], atol=0.02)
    assert not resampled[outside].any()


@pytest.mark.parametrize("ending", [".tfm", ".txt", ".mat"])
def test_read_transform_reads_itk_files(tmp_path, ending):
    transform = sitk.Euler3DTransform(CENTRE.tolist(), *EULER[:3], EULER[3:])
    sitk.WriteTransform(transform, str(tmp_path / f"t{ending}"))
    read = read_transform(tmp_path / f"t{ending}")
    np.testing.assert_allclose(read.TransformPoint((9.0, -8.0, 7.0)), transform.TransformPoint((9.0, -8.0, 7.0)))


@pytest.mark.parametrize(
    ("kind", "count", "changes", "finding"),
    [
        ("BSplineTransform", 6, {}, "elastix transform 'BSplineTransform' is not supported"),
        ("EulerTransform", 5, {}, "TransformParameters should be 6 numbers"),
        ("AffineTransform", 6, {}, "TransformParameters should be 12 numbers"),
        ("EulerTransform", 6, {"CenterOfRotationPoint": ""}, "CenterOfRotationPoint should be 3 numbers but is missing"),
        ("EulerTransform", 6, {"TransformParameters": "0 0 x 0 0 0"}, "should be 6 numbers but is 0 0 x"),
        ("EulerTransform", 6, {"InitialTransformParametersFileName": '"first.txt"'}, r"initial transform \(first\.txt\)"),
        ("EulerTransform", 3, {"FixedImageDimension": "2"}, "not a transform between 3D images"),
        ("EulerTransform", 6, {"UseDirectionCosines": '"false"'}, "without direction cosines"),
    ],
)
def test_read_elastix_transform_refuses_unsupported_files(tmp_path, kind, count, changes, finding):
    path = elastix_file(tmp_path / "reg.txt", kind, [0] * count, **changes)
    with pytest.raises(ImageError, match=rf"reg\.txt: .*{finding}"):
        read_transform(path)


def test_read_elastix_transform_knows_both_spellings_of_the_initial_transform(tmp_path):
    path = elastix_file(tmp_path / "reg.txt", "EulerTransform", EULER)
    path.write_text(path.read_text() + '(InitialTransformParameterFileName "TransformParameters.0.txt")\n')
    with pytest.raises(ImageError, match="chains of transforms are not supported"):
        read_transform(path)


def test_read_transform_refuses_other_files(tmp_path):
    (tmp_path / "flirt.mat").write_text("1 0 0 0\n0 1 0 0\n0 0 1 0\n0 0 0 1\n")
    with pytest.raises(ImageError, match="neither an elastix nor an ITK transform"):
        read_transform(tmp_path / "flirt.mat")
    with pytest.raises(ImageError, match="the file does not exist"):
        read_transform(tmp_path / "absent.txt")
    sitk.WriteTransform(sitk.Euler2DTransform(), str(tmp_path / "flat.tfm"))
    with pytest.raises(ImageError, match="not a transform between 3D images"):
        read_transform(tmp_path / "flat.tfm")


def test_resample_to_returns_an_image_on_the_same_grid_unchanged(tmp_path):
    affine = grid((1, 1, 3), (12, 14, 6), (0.2, 0.1, 0), (-1, -1, 1))
    array = smooth_array((12, 14, 6))
    reference = save(tmp_path / "flair.nii.gz", smooth_array((12, 14, 6), 1), affine)
    noisy = affine + np.random.default_rng(0).uniform(-2e-5, 2e-5, (4, 4)) * [[1], [1], [1], [0]]
    image = nib.Nifti1Image(array, noisy)
    image.set_sform(noisy, 1)
    image.set_qform(None, 0)
    nib.save(image, tmp_path / "t1.nii.gz")
    np.testing.assert_array_equal(resample_to(reference, tmp_path / "t1.nii.gz"), array)
    with pytest.raises(ValueError, match=r"`interpolator`: 'cubic' is unknown\. Use linear or bspline"):
        resample_to(reference, tmp_path / "t1.nii.gz", None, "cubic")


def test_resample_to_is_independent_of_the_storage_order(tmp_path):
    shape = (16, 18, 8)
    reference = save(tmp_path / "flair.nii.gz", smooth_array(shape, 1), grid((1, 1, 2.5), shape, (0.1, 0, 0.1)))
    moving = image_of(smooth_array((22, 24, 20)), grid((1, 1, 1), (22, 24, 20), (0, 0.1, 0)))
    results = []
    for codes in ("RAS", "LPS", "PIR"):
        turned = moving.as_reoriented(
            nib.orientations.ornt_transform(
                nib.orientations.io_orientation(moving.affine), nib.orientations.axcodes2ornt(codes)
            )
        )
        path = save(tmp_path / f"{codes}.nii.gz", np.asarray(turned.dataobj), turned.affine)
        results.append(resample_to(reference, path))
    np.testing.assert_allclose(results[1], results[0], atol=1e-3)
    np.testing.assert_allclose(results[2], results[0], atol=1e-3)


# The brain mask


def synthetic_head(fat: float = 1.8, bridge_mm: float = 0, stripped: bool = False, seed: int = 0):
    """A FLAIR-like head, its brain and lesions: ellipsoids with sulci and ventricles, CSF and bone, a bright scalp."""
    generator = np.random.default_rng(seed)
    shape = (92, 106, 36)
    x, y, z = ((np.indices(shape) - (np.array(shape)[:, None, None, None] - 1) / 2).T * SPACING).T
    size = np.sqrt((x / 68) ** 2 + (y / 82) ** 2 + ((z + 8) / 66) ** 2)
    brain = size < 1
    head = size * 68
    flair = np.zeros(shape)
    flair[brain] = 1
    flair[brain & (np.abs(x) < 2) & (z > 0)] = 0.2
    flair[brain & ((np.abs(x) - 10) ** 2 + (y / 2.5) ** 2 < 60)] = 0.2
    lesions = brain & (
        ((np.abs(x) - 22) ** 2 + (y - 20) ** 2 + z**2 < 60) | ((size > 0.96) & (np.abs(y) < 8) & (x > 0) & (z < 50))
    )
    flair[lesions] = 1.6
    flair[(head >= 68) & (head < 76)] = 0.12
    flair[(head >= 76) & (head < 83)] = fat
    flair[(head >= 68) & (head < 76) & (y**2 + z**2 < bridge_mm**2)] = 1
    if stripped:
        return np.where(brain, 300 * (flair + 0.04 * generator.normal(size=shape)), 0).astype(np.float32), brain, lesions
    noise = generator.normal(scale=0.04, size=(2, *shape))
    return (300 * np.hypot(flair + noise[0], noise[1])).astype(np.float32), brain, lesions


@pytest.mark.parametrize(("fat", "bridge_mm"), [(0.6, 0), (1.2, 0), (5.0, 0), (1.8, 4.5)])
def test_brain_mask_separates_brain_and_scalp(fat, bridge_mm):
    flair, brain, lesions = synthetic_head(fat, bridge_mm)
    mask = brain_mask(flair, RAS)
    assert 2 * (mask & brain).sum() / (mask.sum() + brain.sum()) > 0.95
    assert mask[lesions].all()
    assert (mask & (flair > 300 * fat * 0.8) & ~brain).sum() < 0.02 * mask.sum()


def test_brain_mask_of_a_scan_without_skull_is_its_support():
    flair, brain, _ = synthetic_head(stripped=True)
    flair[40, 50, 20] = 0
    ripple = ndimage.binary_dilation(brain) & ~brain
    flair[ripple] = -3
    np.testing.assert_array_equal(brain_mask(flair, RAS), brain | ripple)


def test_brain_mask_follows_a_reoriented_image():
    flair, _, _ = synthetic_head()
    np.testing.assert_array_equal(brain_mask(flair[::-1, ::-1], RAS), brain_mask(flair, RAS)[::-1, ::-1])


def test_brain_mask_falls_back_to_the_head():
    generator = np.random.default_rng(0)
    x, y, z = np.indices((40, 40, 10))
    ball = (x - 20) ** 2 + (y - 20) ** 2 + (4 * (z - 5)) ** 2 < 150
    flair = (np.where(ball, 100, 0) + generator.uniform(1, 5, ball.shape)).astype(np.float32)
    mask = brain_mask(flair, np.diag([1.0, 1.0, 4.0, 1.0]))
    np.testing.assert_array_equal(mask, ball)


def test_brain_mask_refuses_scans_without_a_head():
    with pytest.raises(ImageError, match="every voxel is -1"):
        brain_mask(-np.ones((4, 4, 4)), RAS)
    with pytest.raises(ImageError, match="no voxel of the FLAIR is positive"):
        brain_mask(-np.abs(synthetic_head()[0]), RAS)
    hole = np.ones((20, 20, 8), dtype=np.uint8)
    hole[5:15, 5:15, 2:6] = 0
    with pytest.raises(ImageError, match="no voxel of the FLAIR is brighter than its background"):
        brain_mask(hole, RAS)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shift", [0, 1e-3, -1e-3])
def test_brain_mask_of_a_z_scored_scan_without_skull_is_that_before_z_scoring(dtype, shift):
    flair, brain, _ = synthetic_head(stripped=True)
    z = np.where(brain, (flair - flair[brain].mean(dtype=np.float64)) / flair[brain].std() + shift, 0).astype(dtype)
    np.testing.assert_array_equal(brain_mask(z, RAS), brain_mask(flair, RAS))


@pytest.mark.parametrize("background", [-1000, 0.5, 1e4, -3.4e38])
def test_brain_mask_does_not_depend_on_the_value_of_a_constant_background(background):
    flair, brain, _ = synthetic_head(stripped=True)
    np.testing.assert_array_equal(brain_mask(np.where(brain, flair, background), RAS), brain_mask(flair, RAS))


@pytest.mark.parametrize(("scale", "offset"), [(1 / 60, -5), (3.5, 0), (1, -300), (1, 1e4)])
def test_brain_mask_does_not_depend_on_scale_and_offset_of_a_scan_in_noisy_air(scale, offset):
    flair, _, _ = synthetic_head()
    mask, expected = brain_mask(scale * flair + offset, RAS), brain_mask(flair, RAS)
    assert 2 * (mask & expected).sum() / (mask.sum() + expected.sum()) > 0.999


@pytest.mark.parametrize("stripped", [False, True])
@pytest.mark.parametrize("height", [1e3, 65535, 1e6, -1e6, 1e30])
def test_brain_mask_does_not_depend_on_single_voxels(stripped, height):
    flair, brain, _ = synthetic_head(stripped=stripped)
    expected = brain_mask(flair, RAS)
    spiked = flair.copy()
    spiked[46, 70, 18] = spiked[2, 3, 1] = height
    assert brain[46, 70, 18]
    assert not expected[2, 3, 1]
    np.testing.assert_array_equal(brain_mask(spiked, RAS), expected)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int64, np.float64])
def test_brain_mask_does_not_depend_on_the_type_of_the_voxels(dtype):
    flair = np.round(synthetic_head()[0] / 4)
    np.testing.assert_array_equal(brain_mask(flair.astype(dtype), RAS), brain_mask(flair, RAS))


# Cases


def head_affine(shape=(92, 106, 36)) -> np.ndarray:
    return grid(SPACING, shape, (0.05, 0.02, -0.03), (-1, -1, 1))


@pytest.fixture(scope="module")
def head():
    flair, _, lesions = synthetic_head()
    labels = lesions.astype(np.float32)
    labels[20:24, 60:64, 20] = 2
    # T1: on a coarser grid of its own, moved by the transform below, contrast reversed.
    translation = np.array([6.0, -4.0, 3.0])
    shape = (70, 80, 60)
    affine = grid((2.7, 2.9, 3.1), shape, (0.1, 0, 0.05), (-1, -1, 1), (1, 2, 0))
    back = about_centre(np.eye(3), -translation)
    t1, _, _ = by_scipy(shape, affine, np.where(flair > 45, 700 - flair, 0), head_affine(), back)
    return {"FLAIR": flair, "T1": t1.astype(np.float32), "T1_affine": affine, "mask": labels, "translation": translation}


def case_row(folder, head: dict, name: str = "Utrecht-0", **changes) -> dict:
    """Write the files of a case and return its row; `changes` replaces arrays."""
    head = {**head, **changes}
    folder = folder / name
    return {
        "case": name,
        "site": "Utrecht",
        "FLAIR": save(folder / "FLAIR.nii.gz", head["FLAIR"], head_affine()),
        "T1": save(folder / "3DT1.nii.gz", head["T1"], head["T1_affine"]),
        "T1_transform": str(elastix_file(folder / "reg.txt", "TranslationTransform", head["translation"])),
        "FLAIR_transform": "",
        "mask": save(folder / "wmh.nii.gz", head["mask"], head_affine()),
        "observer_2": save(folder / "result.nii.gz", (head["mask"] == 1).astype(np.uint8), head_affine()),
    }


def read(folder, file: str) -> np.ndarray:
    return np.asarray(nib.load(folder / file).dataobj)


def test_prepare_case_writes_all_files(tmp_path, head):
    row = case_row(tmp_path, head)
    manifest = prepare_case(row, CHANNELS, tmp_path / "out", normalisation="none")
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == [
        f"Utrecht-0{ending}" for ending in (".json", "_brain.nii.gz", "_image.nii.gz", "_mask.nii.gz", "_observer-2.nii.gz")
    ]
    image = read(tmp_path / "out", "Utrecht-0_image.nii.gz")
    assert image.dtype == np.float32
    np.testing.assert_array_equal(image[..., 0], head["FLAIR"])
    np.testing.assert_array_equal(image[..., 1], resample_to(row["FLAIR"], row["T1"], row["T1_transform"]))
    brain = read(tmp_path / "out", "Utrecht-0_brain.nii.gz")
    assert np.corrcoef(image[(brain > 0) & (head["FLAIR"] > 45)].T)[0, 1] < -0.5
    labels = read(tmp_path / "out", "Utrecht-0_mask.nii.gz")
    assert labels.dtype == brain.dtype == np.uint8
    np.testing.assert_array_equal(labels, head["mask"])
    np.testing.assert_array_equal(read(tmp_path / "out", "Utrecht-0_observer-2.nii.gz"), head["mask"] == 1)
    for name in names[1:]:
        written = nib.load(tmp_path / "out" / name)
        np.testing.assert_array_equal(written.affine, nib.load(row["FLAIR"]).affine)
        assert (int(written.header["qform_code"]), int(written.header["sform_code"])) == (1, 1)
    written = [f"Utrecht-0_{part}.nii.gz" for part in ("image", "mask", "brain", "observer-2")]
    contents = [hashlib.sha256((tmp_path / "out" / name).read_bytes()).hexdigest() for name in written]
    assert manifest.pop("prepared_sha256") == fingerprint(contents)
    voxel_ml = 0.016
    itk_mask = sitk.GetImageFromArray((head["mask"] == 1).astype(np.uint8))
    lesion_count = int(sitk.GetArrayFromImage(sitk.ConnectedComponent(itk_mask, True)).max())
    assert manifest == {
        "case": "Utrecht-0",
        "site": "Utrecht",
        "orientation": "LPS",
        "size_x": 92,
        "size_y": 106,
        "slices": 36,
        "spacing_x_mm": 2.0,
        "spacing_y_mm": 2.0,
        "spacing_z_mm": 4.0,
        "lesion_ml": pytest.approx((head["mask"] == 1).sum() * voxel_ml),
        "lesion_count": lesion_count,
        "lesion_outside_brain_ml": 0,
        "ignored_ml": pytest.approx(16 * voxel_ml),
        "brain_ml": pytest.approx(brain.sum() * voxel_ml),
        "sha256": manifest["sha256"],
    }


@pytest.mark.parametrize("normalisation", ["zscore_brain", "percentile"])
def test_prepare_case_normalises_as_configured(tmp_path, head, normalisation):
    row = case_row(tmp_path, head)
    prepare_case(row, CHANNELS, tmp_path / "raw", normalisation="none")
    prepare_case(row, CHANNELS, tmp_path / "out", normalisation=normalisation)
    raw = read(tmp_path / "raw", "Utrecht-0_image.nii.gz")
    image = read(tmp_path / "out", "Utrecht-0_image.nii.gz")
    brain = read(tmp_path / "out", "Utrecht-0_brain.nii.gz") > 0
    inside = image[brain].astype(np.float64)
    if normalisation == "zscore_brain":
        np.testing.assert_allclose(inside.mean(axis=0), 0, atol=1e-6)
        np.testing.assert_allclose(inside.std(axis=0), 1, atol=1e-6)
    else:
        np.testing.assert_allclose(np.percentile(inside, (1, 99), axis=0), [[0, 0], [1, 1]], atol=1e-6)
    for channel in range(2):
        slope, offset = np.polyfit(raw[..., channel].ravel(), image[..., channel].ravel().astype(np.float64), 1)
        np.testing.assert_allclose(image[..., channel], slope * raw[..., channel] + offset, atol=1e-4)
        assert slope > 0
    with pytest.raises(ValueError, match=r"'minmax' is unknown\. Use zscore_brain, percentile, unit_range or none"):
        prepare_case(row, CHANNELS, tmp_path / "out", normalisation="minmax")


def test_prepare_case_removes_files_of_dropped_observers(tmp_path, head):
    row = case_row(tmp_path, head)
    prepare_case(row, CHANNELS, tmp_path / "out")
    prepare_case({**row, "observer_2": ""}, ["FLAIR"], tmp_path / "out", normalisation="none")
    assert not (tmp_path / "out/Utrecht-0_observer-2.nii.gz").exists()
    np.testing.assert_array_equal(read(tmp_path / "out", "Utrecht-0_image.nii.gz"), head["FLAIR"][..., None])


def turned(path: str, codes: str, folder) -> str:
    image = nib.load(path)
    target = nib.orientations.axcodes2ornt(codes)
    image = image.as_reoriented(nib.orientations.ornt_transform(nib.orientations.io_orientation(image.affine), target))
    return save(folder / Path(path).name, np.asarray(image.dataobj), image.affine)


def test_prepare_case_is_independent_of_the_storage_order(tmp_path, head):
    row = case_row(tmp_path, head)
    other = row | {name: turned(row[name], "RAS", tmp_path / "ras") for name in ("FLAIR", "T1", "mask", "observer_2")}
    for orientation, back in ((None, (slice(None, None, -1), slice(None, None, -1))), ("LPS", ())):
        one = prepare_case(row, CHANNELS, tmp_path / "one", frame=Frame(orientation=orientation))
        two = prepare_case(other, CHANNELS, tmp_path / "two", frame=Frame(orientation=orientation))
        assert (one["orientation"], two["orientation"]) == ("LPS", orientation or "RAS")
        assert one["lesion_ml"] == two["lesion_ml"]
        assert one["brain_ml"] == two["brain_ml"]
        for name in ("image", "mask", "brain", "observer-2"):
            first, second = (nib.load(tmp_path / f"{run}/Utrecht-0_{name}.nii.gz") for run in ("one", "two"))
            np.testing.assert_allclose(np.asarray(first.dataobj), np.asarray(second.dataobj)[back], atol=1e-3)
            stored = nib.load(row["FLAIR"] if orientation else other["FLAIR"])
            np.testing.assert_allclose(second.affine, stored.affine, atol=1e-4)
            assert (int(second.header["qform_code"]), int(second.header["sform_code"])) == (1, 1)
    for wrong in ("XYZ", "LP", "LRS"):
        with pytest.raises(ValueError, match=rf"`orientation`: '{wrong}' is not valid\. Use three letters"):
            prepare_case(row, CHANNELS, tmp_path / "wrong", frame=Frame(orientation=wrong))


ORDERS = ["".join(letters) for axes in itertools.permutations(("LR", "PA", "IS")) for letters in itertools.product(*axes)]


@pytest.fixture(scope="module")
def coarse_case(tmp_path_factory, head):
    """A case with few voxels, whose axes are oblique and whose grid has three different sizes."""
    folder = tmp_path_factory.mktemp("coarse")
    flair = head["FLAIR"][::2, ::2, ::2]
    affine = head_affine() @ np.diag([2.0, 2.0, 2.0, 1.0])
    t1 = np.where(flair > 45, 700 - flair, 0)[:, 4:]
    t1_affine = affine @ nib.affines.from_matvec(np.eye(3), (0.3, 4.2, 0.4))
    paths = {"FLAIR": save(folder / "FLAIR.nii.gz", flair, affine), "T1": save(folder / "T1.nii.gz", t1, t1_affine)}
    return {"case": "a", "site": "", "FLAIR_transform": "", "T1_transform": ""} | paths


@pytest.fixture(scope="module")
def normalised_case(coarse_case):
    return read_normalised(coarse_case, CHANNELS)


@pytest.mark.parametrize("codes", ORDERS)
def test_read_normalised_gives_the_same_scan_for_every_storage_order(coarse_case, normalised_case, tmp_path, codes):
    expected = normalised_case
    paths = {"FLAIR": turned(coarse_case["FLAIR"], codes, tmp_path), "T1": turned(coarse_case["T1"], codes[::-1], tmp_path)}
    scan = read_normalised(coarse_case | paths, CHANNELS)
    assert "".join(nib.aff2axcodes(scan.reference.affine)) == codes
    np.testing.assert_array_equal(reorient_back(scan.brain, expected.reference, codes), expected.brain)
    np.testing.assert_allclose(reorient_back(scan.image, expected.reference, codes), expected.image, atol=1e-4)


@pytest.mark.workflow  # N4 takes seconds
def test_read_normalised_with_n4_gives_the_same_scan_for_another_storage_order(coarse_case, tmp_path):
    codes = "PIR"
    paths = {name: turned(coarse_case[name], codes, tmp_path) for name in CHANNELS}
    expected, scan = (read_normalised(row, CHANNELS, bias_correction="n4") for row in (coarse_case, coarse_case | paths))
    np.testing.assert_allclose(reorient_back(scan.image, expected.reference, codes), expected.image, atol=1e-3)


@pytest.mark.parametrize("normalisation", ["zscore_brain", "percentile"])
def test_read_normalised_gives_the_same_image_for_z_scored_channels(coarse_case, tmp_path, normalisation):
    brain = ndimage.binary_erosion(read_normalised(coarse_case, ["FLAIR"]).brain, iterations=2)
    flair = nib.load(coarse_case["FLAIR"])
    masked = np.where(brain, np.asarray(flair.dataobj), 0)
    z = np.where(brain, (masked - masked[brain].mean(dtype=np.float64)) / masked[brain].std(), 0)
    rows = [
        coarse_case | dict.fromkeys(CHANNELS, save(tmp_path / name, array.astype(np.float32), flair.affine))
        for name, array in (("raw.nii.gz", masked), ("z.nii.gz", z))
    ]
    raw, z_scored = (read_normalised(row, CHANNELS, normalisation) for row in rows)
    np.testing.assert_array_equal(z_scored.brain, raw.brain)
    np.testing.assert_allclose(z_scored.image[raw.brain], raw.image[raw.brain], atol=1e-4)
    # Air is darker than the brain, as before, although its exact value is lost.
    assert (z_scored.image[~raw.brain] <= np.percentile(raw.image[raw.brain], 1)).all()


@pytest.mark.parametrize("height", [1e3, 1e6, -1e6, 1e15])
@pytest.mark.parametrize("normalisation", ["zscore_brain", "percentile"])
def test_read_normalised_limits_single_voxels(coarse_case, tmp_path, height, normalisation):
    expected = read_normalised(coarse_case, CHANNELS, normalisation)
    paths = {}
    for name in CHANNELS:
        image = nib.load(coarse_case[name])
        array = np.asarray(image.dataobj).astype(np.float64)
        array[20, 24, 9] = height
        paths[name] = save(tmp_path / f"{name}.nii.gz", array, image.affine)
    scan = read_normalised(coarse_case | paths, CHANNELS, normalisation, "bspline")
    np.testing.assert_array_equal(scan.brain, expected.brain)
    reference = read_normalised(coarse_case, CHANNELS, normalisation, "bspline")
    near = np.zeros(scan.brain.shape, dtype=bool)
    near[14:27, 18:35, 4:15] = True
    np.testing.assert_allclose(scan.image[~near], reference.image[~near], rtol=0.05, atol=0.1)
    assert np.abs(scan.image).max() < 60


def test_read_normalised_refuses_n4_for_z_scored_scans(coarse_case, tmp_path):
    image = nib.load(coarse_case["FLAIR"])
    array = np.asarray(image.dataobj)
    z = save(tmp_path / "z.nii.gz", (array - array.mean()) / array.std() - 1, image.affine)
    with pytest.raises(ImageError, match=r"z\.nii\.gz: \d+% of the brain is negative.*`preparation\.bias_correction` to none"):
        read_normalised(coarse_case | {"FLAIR": z}, CHANNELS, bias_correction="n4")


@pytest.mark.parametrize("background", [0, -1000])
def test_read_normalised_fills_with_air_outside_of_a_channel(coarse_case, tmp_path, background):
    image = nib.load(coarse_case["T1"])
    array = np.asarray(image.dataobj)
    t1 = save(tmp_path / "t1.nii.gz", np.where(array != 0, array, background), image.affine)
    outside = read_normalised(coarse_case | {"T1": t1}, CHANNELS, "none").image[:, :3, :, 1]
    np.testing.assert_array_equal(outside, np.float32(0 if background == 0 else np.percentile(array[array != 0], 0.1)))


def test_prepare_case_accepts_voxels_of_64_bits(tmp_path, head):
    row = case_row(tmp_path, head)
    image = nib.Nifti1Image(np.round(head["FLAIR"]).astype(np.int64), head_affine(), dtype=np.int64)
    nib.save(image, row["FLAIR"])
    prepare_case(row, CHANNELS, tmp_path / "out", frame=Frame(orientation="RAS"))
    assert nib.aff2axcodes(nib.load(tmp_path / "out/Utrecht-0_image.nii.gz").affine) == ("R", "A", "S")


def test_prepare_cohort_names_a_case_with_an_unforeseen_error_and_prepares_the_others(tmp_path, head, monkeypatch):
    table = small_cohort(tmp_path, head, 3)

    def fail_on_second(case, *arguments, **settings):
        if case["case"] == "case-1":
            raise IndexError("index -1 is out of bounds")
        if case["case"] == "case-2":
            raise MemoryError
        return read_normalised(case, *arguments, **settings)

    monkeypatch.setattr(preparation_case, "read_normalised", fail_on_second)
    with pytest.raises(ValueError, match=r"3 cases: 2 problem\(s\)") as caught:
        prepare_cohort(table, CHANNELS, tmp_path / "out")
    assert "case case-1: cannot be processed (IndexError: index -1 is out of bounds)" in str(caught.value)
    assert "case case-2: out of memory (MemoryError). Use fewer processes" in str(caught.value)
    assert [path.name for path in (tmp_path / "out").glob("*.json")] == ["case-0.json"]


def test_prepare_case_refuses_masks_on_another_grid(tmp_path, head):
    row = case_row(tmp_path, head)
    small = save(tmp_path / "small.nii.gz", head["mask"][:90], head_affine())
    with pytest.raises(ImageError, match=r"small\.nii\.gz: its shape \(90, 106, 36\) differs from \(92, 106, 36\) of .*FLAIR"):
        prepare_case({**row, "mask": small}, CHANNELS, tmp_path / "out")
    affine = head_affine()
    affine[:3, :3] += 2e-5
    noisy = save(tmp_path / "noisy.nii.gz", head["mask"], affine)
    prepare_case({**row, "mask": noisy}, CHANNELS, tmp_path / "out")
    affine[1, 3] += 2
    moved = save(tmp_path / "moved.nii.gz", head["mask"], affine)
    for column in ("mask", "observer_2"):
        with pytest.raises(ImageError, match=r"moved\.nii\.gz: its affine differs from that of .*FLAIR.* up to 2 mm apart"):
            prepare_case({**row, column: moved}, CHANNELS, tmp_path / "out")


def test_prepare_case_refuses_a_channel_that_misses_the_brain(tmp_path, head):
    row = case_row(tmp_path, head)
    elastix_file(Path(row["T1_transform"]), "TranslationTransform", (300, 0, 0))
    with pytest.raises(ImageError, match=r"3DT1\.nii\.gz: covers \d+% of the brain.*Check its header and the direction of"):
        prepare_case(row, CHANNELS, tmp_path / "out")
    assert not list((tmp_path / "out").glob("*.json"))


def test_prepare_case_skips_up_to_date_cases(tmp_path, head):
    row = case_row(tmp_path, head)
    out = tmp_path / "out"
    first = prepare_case(row, CHANNELS, out)

    def stamps() -> dict:
        return {path.name: path.stat().st_mtime_ns for path in out.iterdir()}

    def rewrites(**settings) -> bool:
        before = stamps()
        prepare_case(row, CHANNELS, out, **settings)
        return stamps() != before

    before = stamps()
    assert prepare_case(row, CHANNELS, out) == first
    assert stamps() == before
    assert rewrites(normalisation="percentile")
    assert rewrites(interpolator="bspline")
    assert rewrites()
    assert not rewrites()
    (out / "Utrecht-0_brain.nii.gz").unlink()
    assert rewrites()
    (out / "Utrecht-0_mask.nii.gz").write_bytes(b"cut short")
    assert rewrites()
    record = out / "Utrecht-0.json"
    record.write_text(record.read_text()[:20])
    assert rewrites()
    assert set(json.loads(record.read_text())) == {"stamp", "files", "row", "seal"}
    save(Path(row["mask"]), np.zeros_like(head["mask"]), head_affine())
    assert rewrites()
    assert prepare_case(row, CHANNELS, out)["lesion_ml"] == 0


def small_cohort(tmp_path, head, count: int) -> pd.DataFrame:
    generator = np.random.default_rng(0)
    rows = [
        case_row(tmp_path, head, f"case-{k}", FLAIR=head["FLAIR"] + generator.uniform(0, 1, head["FLAIR"].shape).astype("f4"))
        for k in range(count)
    ]
    return pd.DataFrame(rows)


def test_prepare_cohort_reports_all_bad_cases_and_keeps_the_others(tmp_path, head, caplog):
    caplog.set_level("INFO")
    table = small_cohort(tmp_path, head, 5)
    flair, mask = Path(table["FLAIR"][1]), table["mask"][2]
    flair.write_bytes(flair.read_bytes()[:-1000])
    save(Path(mask), head["mask"] * 255, head_affine())
    Path(table["T1"][3]).write_bytes(gzip.compress(b"<html>"))
    with pytest.raises(ValueError, match=r"5 cases: 3 problem\(s\)") as caught:
        prepare_cohort(table, CHANNELS, tmp_path / "out")
    lines = str(caught.value).splitlines()
    assert [line.split(",")[0].strip() for line in lines[1:]] == ["case case-1", "case case-2", "case case-3"]
    for line, file, finding in zip(
        lines[1:], ("FLAIR", "wmh", "3DT1"), ("truncated", "hold 255, 510", "NIfTI header"), strict=True
    ):
        assert file in line
        assert finding in line
    assert sorted(path.name for path in (tmp_path / "out").glob("*.json")) == ["case-0.json", "case-4.json"]
    assert "preparing" in caplog.text


def test_prepare_cohort_gives_the_same_files_with_more_processes(tmp_path, head):
    table = small_cohort(tmp_path, head, 2)
    one = prepare_cohort(table, CHANNELS, tmp_path / "one")
    two = prepare_cohort(table, CHANNELS, tmp_path / "two", processes=2)
    pd.testing.assert_frame_equal(one, two)
    assert list(one["case"]) == ["case-0", "case-1"]
    for path in (tmp_path / "one").glob("*.nii.gz"):
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


def test_prepare_cohort_refuses_repeated_scans_and_mixed_orientations(tmp_path, head):
    rows = [case_row(tmp_path, head, name) for name in ("a", "b")]
    with pytest.raises(ValueError, match="cases a, b hold the same scan, which would leak"):
        prepare_cohort(pd.DataFrame(rows), CHANNELS, tmp_path / "out")
    names = ("FLAIR", "mask", "observer_2")
    rows[1] |= {name: turned(rows[1][name], "RAS", tmp_path / "ras") for name in names}
    with pytest.raises(ValueError, match=r"different ways \(LPS: a; RAS: b\).* Set `preparation\.orientation` to one of them"):
        prepare_cohort(pd.DataFrame(rows), CHANNELS, tmp_path / "out")
    with pytest.raises(ValueError, match="cases a, b hold the same scan"):
        prepare_cohort(pd.DataFrame(rows), CHANNELS, tmp_path / "out", orientation="LPS")


def test_prepare_case_accepts_masks_within_the_grid_tolerance(tmp_path, head):
    row = case_row(tmp_path, head)
    affine = head_affine()
    affine[:3, 3] += 0.3 * min(np.linalg.norm(affine[:3, :3], axis=0)) / np.sqrt(3)
    mask = save(tmp_path / "moved.nii.gz", head["mask"], affine)
    with pytest.raises(ImageError, match="its affine differs"):
        prepare_case({**row, "mask": mask}, CHANNELS, tmp_path / "out")
    prepare_case({**row, "mask": mask}, CHANNELS, tmp_path / "out", grid_tolerance_voxels=0.35)
    # The tolerance is one of the settings of a case, so that a lower one is noticed.
    with pytest.raises(ImageError, match="its affine differs"):
        prepare_case({**row, "mask": mask}, CHANNELS, tmp_path / "out")
