"""Scans without masks in a csv, a BIDS dataset and a folder, and their check (about 2 s)."""

import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from pd_ddpm.commands.main import main
from pd_ddpm.data.cases.scans import find_scans, has_masks
from pd_ddpm.data.cases.table import CohortError

CHANNELS = ["FLAIR", "T1"]


def files(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"scan")


@pytest.mark.parametrize(
    ("names", "cases"),
    [
        (["a/FLAIR.nii.gz", "a/T1.nii.gz", "b/flair.nii", "b/t1w.nii"], ["a", "b"]),
        (["a_FLAIR.nii.gz", "a_T1w.nii.gz", "b-1_FLAIR.nii", "b-1_T1.nii", "a_T2.nii.gz", "notes.txt"], ["a", "b-1"]),
        (["x/1/pre/FLAIR.nii.gz", "x/1/pre/T1.nii.gz"], ["x_1_pre"]),
        (["FLAIR.nii.gz", "T1.nii.gz"], ["clinic"]),
    ],
)
def test_find_scans_groups_the_files_of_a_folder(tmp_path: Path, names: list[str], cases: list[str]) -> None:
    files(tmp_path / "clinic", *names)
    table = find_scans(tmp_path / "clinic", CHANNELS)
    assert table["case"].tolist() == cases
    assert set(table["mask"]) == {""}
    for row in table.to_dict("records"):
        assert Path(row["FLAIR"]).parent == Path(row["T1"]).parent
        assert "flair" in Path(row["FLAIR"]).name.lower()
        assert "t1" in Path(row["T1"]).name.lower()


def test_find_scans_in_a_bids_dataset_needs_no_derivatives(tmp_path: Path) -> None:
    for subject in ("sub-1/ses-2", "sub-3"):
        stem = subject.replace("/", "_")
        files(tmp_path, f"{subject}/anat/{stem}_FLAIR.nii.gz", f"{subject}/anat/{stem}_T1w.nii.gz")
    table = find_scans(tmp_path, CHANNELS)
    assert table[["case", "patient"]].to_numpy().tolist() == [["sub-1_ses-2", "sub-1"], ["sub-3", "sub-3"]]
    assert not has_masks(tmp_path)
    files(tmp_path, "derivatives/manual/sub-3/anat/sub-3_label-WMH_mask.nii.gz")
    assert has_masks(tmp_path)


def test_find_scans_reads_a_csv_without_masks_and_sites(tmp_path: Path) -> None:
    files(tmp_path, "a/F.nii.gz", "a/T.nii.gz")
    (tmp_path / "scans.csv").write_text("case,FLAIR,T1\na,a/F.nii.gz,a/T.nii.gz\n", encoding="utf-8")
    (row,) = find_scans(tmp_path / "scans.csv", CHANNELS).to_dict("records")
    assert (row["case"], row["site"], row["mask"]) == ("a", "unknown", "")
    assert row["T1"] == str(tmp_path / "a/T.nii.gz")
    assert not has_masks(tmp_path / "scans.csv")


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        (["a/FLAIR.nii.gz", "b/FLAIR.nii.gz", "b/T1.nii.gz"], "scan a, "),
        (["a/FLAIR.nii.gz", "a/T1.nii.gz", "a/T1w.nii.gz"], "2 files could be its T1: T1.nii.gz, T1w.nii.gz"),
        (["a_b/FLAIR.nii.gz", "a_b/T1.nii.gz", "a/b_FLAIR.nii.gz", "a/b_T1.nii.gz"], "case a_b occurs more than once"),
        (["a/image.nii.gz"], "nor scans without masks, such as FLAIR.nii.gz or CASE_FLAIR.nii.gz"),
    ],
)
def test_find_scans_names_incomplete_scans(tmp_path: Path, names: list[str], problem: str) -> None:
    files(tmp_path, *names)
    with pytest.raises(CohortError) as caught:
        find_scans(tmp_path, CHANNELS)
    assert problem in str(caught.value)


def test_find_scans_in_dicom_files_names_dcm2niix(tmp_path: Path) -> None:
    (tmp_path / "series").mkdir()
    (tmp_path / "series" / "IM0001").write_bytes(bytes(128) + b"DICM" + bytes(20))
    with pytest.raises(CohortError, match=r"it holds DICOM files, such as series/IM0001, not NIfTI. .*dcm2niix -z y"):
        find_scans(tmp_path, CHANNELS)


@pytest.fixture
def heads() -> Callable[[Path], None]:
    """A function that writes a head with a T1 into a folder."""

    def write(folder: Path) -> None:
        folder.mkdir(parents=True)
        shape, affine = (40, 58, 14), np.diag([3.2, 3.2, 7.5, 1.0])
        centre, radii = np.array([20, 29, 7]).reshape(3, 1, 1, 1), np.array([17, 25, 6.5]).reshape(3, 1, 1, 1)
        distance = np.linalg.norm((np.indices(shape) - centre) / radii, axis=0)
        random = np.random.default_rng(len(folder.name))
        for name, signal in (("FLAIR", 0), ("T1", 50 * (distance < 0.7))):
            scan = (200 * (distance < 1) + signal + random.normal(0, 5, shape)).clip(0).astype(np.float32)
            nib.save(nib.Nifti1Image(scan, affine), folder / f"{name}.nii.gz")

    return write


def test_check_of_scans_without_masks(tmp_path: Path, heads: Callable, capsys: pytest.CaptureFixture[str]) -> None:
    for case in ("a", "bc"):
        heads(tmp_path / "clinic" / case)
    arguments = ["--results", str(tmp_path / "results"), "--processes", "1"]
    code, printed = main(["check", str(tmp_path / "clinic"), *arguments]), capsys.readouterr().out
    assert code == 0, printed
    assert "scans without masks, for `pd-ddpm predict`" in printed
    assert "2 cases, channels FLAIR, T1, 4 files read" in printed
    assert "0 error(s), 0 warning(s)" in printed
    rows = "".join(f"{case},clinic/{case}/FLAIR.nii.gz,clinic/{case}/T1.nii.gz\n" for case in ("a", "bc"))
    (tmp_path / "scans.csv").write_text(f"case,FLAIR,T1\n{rows}", encoding="utf-8")
    assert main(["check", str(tmp_path / "scans.csv"), *arguments]) == 0
    shutil.copy(tmp_path / "clinic/a/FLAIR.nii.gz", tmp_path / "clinic/bc/FLAIR.nii.gz")
    assert main(["check", str(tmp_path / "clinic"), *arguments]) == 1
    assert "cases a, bc hold the same scan" in capsys.readouterr().out
