"""Random headers, encodings and tables: a clear error or the right values, never a traceback or a silent difference.

A small sample runs with the fast tests (about 5 s). RANDOM_INPUTS=2000 tries as many inputs, new ones each time:
`RANDOM_INPUTS=2000 python -m pytest -n 0 tests/data/test_random_inputs.py`
"""

import gzip
import itertools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation
from stored_scans import HEAD_SPACING, encodings, inputs, make_head, store

from pd_ddpm.data.cases.csv_table import channels_of_table, read_case_table
from pd_ddpm.data.cases.table import CohortError
from pd_ddpm.data.nifti.geometry import ImageError, reorient
from pd_ddpm.data.nifti.read import read_image, read_labels
from pd_ddpm.data.preparation.normalise import read_normalised

SHAPE = (7, 6, 5)


def result_or_error(kind: type[Exception], function: Callable[[], Any]) -> Any:
    """Return the result of a function, or its error of one kind. Other errors fail the test."""
    try:
        return function()
    except kind as error:
        return error


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
    return make_head()


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
