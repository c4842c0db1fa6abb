"""Random headers, encodings and tables: a clear error or the right values, never a traceback or a silent difference.

A small sample runs with the fast tests (about 5 s). RANDOM_INPUTS=2000 tries as many inputs, new ones each time:
`RANDOM_INPUTS=2000 python -m pytest -n 0 tests/data/test_random_inputs.py`
"""

import gzip
import itertools
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nibabel.orientations import inv_ornt_aff
from scipy.spatial.transform import Rotation

from pd_ddpm.data.cases.csv_table import channels_of_table, read_case_table
from pd_ddpm.data.cases.table import CohortError
from pd_ddpm.data.nifti.geometry import ImageError, reorient
from pd_ddpm.data.nifti.read import read_image, read_labels
from pd_ddpm.data.preparation.normalise import read_normalised

INPUTS = int(os.environ.get("RANDOM_INPUTS", "0"))
SHAPE = (7, 6, 5)
HEAD_SHAPE, HEAD_SPACING = (41, 57, 13), (3.25, 3.0, 5.0)

# All 48 ways to store three axes: their order and their directions.
ORIENTATIONS = [
    np.column_stack([order, signs])
    for order in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=3)
]
INTEGERS = (np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64)
FLOATS = (np.float32, np.float64)


def inputs(share: float):
    """Return the settings of a property that gets a share of the inputs: some 40 in the fast tests, always the same."""
    return settings(
        max_examples=max(1, round(share * (INPUTS or 40))),
        derandomize=not INPUTS,
        database=None,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )


def result_or_error(kind: type[Exception], function: Callable[[], Any]) -> Any:
    """Return the result of a function, or its error of one kind. Other errors fail the test."""
    try:
        return function()
    except kind as error:
        return error


@st.composite
def encodings(draw: st.DrawFn) -> dict:
    """Draw a way to store an image: type, scaling, byte order, version, compression, orientation, form codes and qfac."""
    dtype = draw(st.sampled_from(INTEGERS + FLOATS))
    # Powers of two are exact in float32, so that every encoding holds the same values.
    factor = 1 if dtype is np.uint8 else 2 ** draw(st.integers(0, 6))
    return {
        "dtype": np.dtype(dtype),
        "byte_order": draw(st.sampled_from("<>")),
        "factor": factor,
        "offset": 0 if dtype is np.uint8 else draw(st.integers(0, 3000)),
        "image_class": draw(st.sampled_from((nib.Nifti1Image, nib.Nifti2Image))),
        "ending": draw(st.sampled_from((".nii", ".nii.gz", ".NII.GZ"))),
        "orientation": draw(st.sampled_from(ORIENTATIONS)),
        "codes": draw(st.sampled_from([(1, 1), (0, 1), (1, 0), (2, 4)])),
        "positive_qfac": draw(st.sampled_from((0, 1))),
    }


def affines() -> st.SearchStrategy[np.ndarray]:
    """Draw the affine of an oblique scan in RAS order, without shear."""
    angles = st.lists(st.floats(-0.3, 0.3), min_size=3, max_size=3)
    spacings = st.lists(st.floats(0.3, 6), min_size=3, max_size=3)
    origins = st.lists(st.floats(-200, 200), min_size=3, max_size=3)
    return st.builds(affine_of, angles, spacings, origins)


def affine_of(angles: list[float], spacing: list[float], origin: list[float]) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", angles).as_matrix() @ np.diag(spacing)
    affine[:3, 3] = origin
    return affine


def store(folder: Path, array: np.ndarray, affine: np.ndarray, encoding: dict) -> Path:
    """Write an array of whole numbers in RAS order with an encoding; nibabel neither scales nor turns anything."""
    change = encoding["orientation"]
    turned = nib.orientations.apply_orientation(array, change)
    stored_affine = affine @ inv_ornt_aff(change, array.shape)
    header = encoding["image_class"].header_class(endianness=encoding["byte_order"])
    header.set_data_dtype(encoding["dtype"])
    header.set_data_shape(turned.shape)
    header.set_xyzt_units("mm")
    header.set_qform(stored_affine, encoding["codes"][0])
    header.set_sform(stored_affine, encoding["codes"][1])
    header.set_slope_inter(1 / encoding["factor"], -encoding["offset"] / encoding["factor"])
    if header["pixdim"][0] == 1:
        header["pixdim"][0] = encoding["positive_qfac"]
    values = (turned * encoding["factor"] + encoding["offset"]).astype(encoding["dtype"].newbyteorder(encoding["byte_order"]))
    header["vox_offset"] = header.single_vox_offset
    content = header.binaryblock + bytes(header.single_vox_offset - len(header.binaryblock)) + values.tobytes(order="F")
    path = folder / f"{len(list(folder.iterdir()))}{encoding['ending']}"
    path.write_bytes(gzip.compress(content, 1) if path.name.lower().endswith(".gz") else content)
    return path


@pytest.fixture(scope="module")
def values() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 200, SHAPE)


@inputs(0.25)
@given(affine=affines(), encoding=encodings())
def test_read_image_of_any_encoding_returns_the_same_values_and_places(values, affine, encoding):
    with tempfile.TemporaryDirectory() as folder:
        image = read_image(store(Path(folder), values, affine, encoding))
    turned = reorient(np.asarray(image.dataobj).astype(np.float32), image, "RAS")
    np.testing.assert_allclose(np.asarray(turned.dataobj), values, atol=1e-4)
    corners = np.array(list(itertools.product(*[(0, size - 1) for size in SHAPE])))
    places = nib.affines.apply_affine(turned.affine, corners)
    np.testing.assert_allclose(places, nib.affines.apply_affine(affine, corners), atol=2e-3)


@inputs(0.1)
@given(encoding=encodings(), seed=st.integers(0, 2**32 - 1))
def test_read_labels_of_any_encoding_returns_the_same_labels(encoding, seed):
    labels = np.random.default_rng(seed).integers(0, 3, SHAPE)
    affine = np.diag([1.0, 1.2, 3.0, 1.0])
    with tempfile.TemporaryDirectory() as folder:
        read, image = read_labels(store(Path(folder), labels, affine, encoding))
    np.testing.assert_array_equal(np.asarray(reorient(read, image, "RAS").dataobj), labels)


@inputs(0.4)
@given(
    encoding=encodings(),
    edits=st.lists(st.tuples(st.integers(0, 539), st.integers(0, 255)), min_size=1, max_size=6),
    length=st.one_of(st.none(), st.integers(0, 1500)),
    as_mask=st.booleans(),
)
def test_read_image_of_a_damaged_file_returns_an_image_or_names_the_file(values, encoding, edits, length, as_mask):
    """Bytes of the header are overwritten, and the file may end early. Warnings are errors in tests."""
    with tempfile.TemporaryDirectory() as folder:
        path = store(Path(folder), values, np.diag([1.0, 1.2, 3.0, 1.0]), encoding)
        is_compressed = path.name.lower().endswith(".gz")
        content = bytearray(gzip.decompress(path.read_bytes()) if is_compressed else path.read_bytes())
        header_size = 540 if encoding["image_class"] is nib.Nifti2Image else 348
        for position, value in edits:
            content[position % header_size] = value
        content = bytes(content[:length])
        path.write_bytes(gzip.compress(content, 1) if is_compressed else content)
        image = result_or_error(ImageError, lambda: read_image(path, mask=as_mask))
    if isinstance(image, ImageError):
        assert str(path) in str(image)
        assert all(problem.remedy for problem in image.problems)
        return
    assert image.ndim == 3
    assert np.isfinite(np.asarray(image.dataobj)).all()
    assert np.isfinite(image.affine).all()
    reorient(np.asarray(image.dataobj).astype(np.float64), image, "LPS")


CELLS = st.text(alphabet=st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp"), exclude_characters=',;\t"\\'), max_size=12)


@inputs(0.1)
@given(
    sites=st.lists(CELLS.map(str.strip), min_size=1, max_size=4),
    separator=st.sampled_from([",", ";", "\t"]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
    newline=st.sampled_from(["\n", "\r\n"]),
    columns=st.permutations(["case", "site", "FLAIR", "mask"]),
)
def test_read_case_table_of_any_dialect_returns_the_same_cases(sites, separator, encoding, newline, columns):
    rows = [{"case": f"c{number}", "site": site, "FLAIR": "f.nii.gz", "mask": "m.nii.gz"} for number, site in enumerate(sites)]
    lines = [columns, *([f'"{row[name]}"' for name in columns] for row in rows)]
    with tempfile.TemporaryDirectory() as folder:
        for name in ("f.nii.gz", "m.nii.gz"):
            (Path(folder) / name).touch()
        path = Path(folder) / "cases.csv"
        path.write_bytes(newline.join(separator.join(line) for line in lines).encode(encoding))
        table = read_case_table(path, ["FLAIR"])
        assert channels_of_table(path) == ["FLAIR"]
    missing = {"", *("NA", "N/A", "n/a", "#N/A", "<NA>", "NaN", "nan", "NULL", "null", "None")}
    assert table["case"].tolist() == [row["case"] for row in rows]
    assert table["site"].tolist() == ["unknown" if site in missing else site for site in sites]


@inputs(0.1)
@given(content=st.one_of(st.binary(max_size=200), st.text(max_size=200).map(lambda text: text.encode("utf-8", "replace"))))
def test_read_case_table_of_arbitrary_bytes_names_the_file(content):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cases.csv"
        path.write_bytes(content)
        for read in (channels_of_table, lambda table: read_case_table(table, ["FLAIR"])):
            result = result_or_error(CohortError, lambda read=read: read(path))
            assert not isinstance(result, CohortError) or str(path) in str(result)


@pytest.fixture(scope="module")
def head() -> np.ndarray:
    """A head of 200 on air of about 0, with noise and brighter spots, in whole numbers."""
    random = np.random.default_rng(5)
    centre, radii = np.array([20, 28, 6]).reshape(3, 1, 1, 1), np.array([17, 25, 6]).reshape(3, 1, 1, 1)
    distance = np.linalg.norm((np.indices(HEAD_SHAPE) - centre) / radii, axis=0)
    head = 120 * (distance < 1) + random.normal(0, 3, HEAD_SHAPE)
    for x, y, z in random.integers((10, 14, 3), (31, 43, 10), (6, 3)):
        head[x - 2 : x + 3, y - 1 : y + 3, z : z + 2] += 40
    return np.rint(head).clip(0, 255).astype(int)


@pytest.fixture(scope="module")
def normalised(head, tmp_path_factory) -> tuple[np.ndarray, np.ndarray]:
    """The normalised head and its brain mask, of the plainest encoding."""
    folder = tmp_path_factory.mktemp("head")
    image = nib.Nifti1Image(head.astype(np.float32), np.diag([*HEAD_SPACING, 1]))
    nib.save(image, folder / "scan.nii.gz")
    scan = read_normalised({"case": "a", "FLAIR": str(folder / "scan.nii.gz"), "FLAIR_transform": ""}, ["FLAIR"])
    return scan.image, scan.brain


@inputs(0.05)
@given(encoding=encodings())
def test_read_normalised_of_any_encoding_returns_the_same_image_and_brain(head, normalised, encoding):
    with tempfile.TemporaryDirectory() as folder:
        path = store(Path(folder), head, np.diag([*HEAD_SPACING, 1]), encoding)
        scan = read_normalised({"case": "a", "FLAIR": str(path), "FLAIR_transform": ""}, ["FLAIR"])
    image = np.asarray(reorient(scan.image, scan.reference, "RAS").dataobj)
    brain = np.asarray(reorient(scan.brain.astype(np.uint8), scan.reference, "RAS").dataobj) > 0
    np.testing.assert_array_equal(brain, normalised[1])
    np.testing.assert_allclose(image, normalised[0], atol=1e-4)
