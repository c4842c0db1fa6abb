"""The check of a dataset: one artificial fault per row of docs/faults.md, with its message and exit code. About 20 s."""

import gzip
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import yaml
from snakemake.utils import update_config

from pd_ddpm.commands.main import main
from pd_ddpm.config import load
from pd_ddpm.config.load import read
from pd_ddpm.config.resolve import overlay
from pd_ddpm.data.cases.csv_table import read_case_table
from pd_ddpm.data.cases.table import write_table
from pd_ddpm.data.check import case as check_case
from pd_ddpm.data.check import dataset
from pd_ddpm.data.check.case import Examination
from pd_ddpm.data.check.report import Requirements

ROOT = Path(__file__).parents[2]
SHAPE, AFFINE = (40, 58, 14), np.diag([3.2, 3.2, 7.5, 1.0])
VOXEL_ML = 3.2 * 3.2 * 7.5 / 1000
FILES = ("FLAIR", "T1", "mask")


def save(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE, sform: np.ndarray | None = None) -> Path:
    image = nib.Nifti1Image(array, affine)
    image.set_qform(affine, 1)
    image.set_sform(affine if sform is None else sform, 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)
    return path


def array_of(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj).copy()


def change(path: Path, function: Callable[[np.ndarray], np.ndarray]) -> None:
    save(path, function(array_of(path)))


def move(path: Path, affine: np.ndarray) -> None:
    save(path, array_of(path), affine)


def edit_header(path: Path, **fields: object) -> None:
    """Set fields of a stored header without nibabel's checks."""
    content = bytearray(gzip.decompress(path.read_bytes()))
    header = nib.Nifti1Header(bytes(content[:348]), check=False)
    for name, value in fields.items():
        header[name] = value
    content[:348] = header.binaryblock
    path.write_bytes(gzip.compress(bytes(content)))


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def edit(folder: Path, **columns: list) -> None:
    """Set columns of the case table."""
    pd.read_csv(folder / "cases.csv", dtype=str).assign(**columns).to_csv(folder / "cases.csv", index=False)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write five complete cases, each a head of 840 ml with a bright lesion, and their table."""
    folder = tmp_path_factory.mktemp("sound")
    random = np.random.default_rng(0)
    centre, radii = np.array([20, 29, 7]).reshape(3, 1, 1, 1), np.array([17, 25, 6.5]).reshape(3, 1, 1, 1)
    distance = np.linalg.norm((np.indices(SHAPE) - centre) / radii, axis=0)
    # Mirrored heads differ from each other.
    cyst = np.linalg.norm(np.indices(SHAPE) * AFFINE[0, 0] - np.array([88, 120, 26]).reshape(3, 1, 1, 1), axis=0) < 16
    for number in range(5):
        lesion = distance < 0.2 + 0.02 * number
        # White matter is bright in the T1, and lesions are in the FLAIR.
        for name, signal in (("FLAIR", 50 * lesion), ("T1", 50 * (distance < 0.7))):
            scan = (200 * (distance < 1) - 150 * cyst + signal + random.normal(0, 5, SHAPE)).clip(0).astype(np.float32)
            save(folder / f"p{number}/{name}.nii.gz", scan)
        save(folder / f"p{number}/mask.nii.gz", lesion.astype(np.uint8))
    rows = [{"case": f"p{n}", "site": "s"} | {name: f"p{n}/{name}.nii.gz" for name in FILES} for n in range(5)]
    pd.DataFrame(rows).to_csv(folder / "cases.csv", index=False)
    return folder


@pytest.fixture
def cohort(sound: Path, tmp_path: Path) -> Path:
    return shutil.copytree(sound, tmp_path / "cohort")


@pytest.fixture
def patches_within_slices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the demo by one of five folds whose patches fit into the slices of the cohort."""
    folder = tmp_path / "config"
    folder.mkdir()
    shutil.copy(load.CONFIG, folder)
    demo = yaml.safe_load(load.CONFIG.with_name("demo.yaml").read_text(encoding="utf-8"))
    changes = {"grid": {"spacing_mm": None}, "training": {"crop": [32, 48]}, "folds": {"count": 5}}
    (folder / "demo.yaml").write_text(yaml.safe_dump(overlay(demo, changes)), encoding="utf-8")
    monkeypatch.setattr(load, "CONFIG", folder / "config.yaml")


@pytest.fixture(scope="module")
def examine_changed_case() -> Callable[..., Examination]:
    """Return `examine_case`, which examines a case without findings once, as long as its files and their folders are equal."""
    sound_cases: dict[tuple, Examination] = {}
    examine = dataset.examine_case

    def examine_once(case: dict[str, Any], requirements: Requirements) -> Examination:
        cells = {column: str(cell) for column, cell in case.items()}
        files = [Path(cell) for cell in cells.values() if Path(cell).is_file()]
        contents = {column: Path(cell).read_bytes() if Path(cell) in files else cell for column, cell in cells.items()}
        neighbours = [sorted(path.name for path in file.parent.iterdir()) for file in files]
        # The paths of the source differ between tests, and only its layout concerns a case.
        required = replace(requirements, source={"layout": requirements.source["layout"]})
        key = (*contents.items(), repr(neighbours), repr(required))
        if key in sound_cases:
            return sound_cases[key]
        examination = examine(case, requirements)
        if not examination.findings:
            sound_cases[key] = examination
        return examination

    return examine_once


@pytest.fixture
def run(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    patches_within_slices: None,
    examine_changed_case: Callable[..., Examination],
) -> Callable[..., tuple[int, str, pd.DataFrame]]:
    """Run the check and return exit code, output and findings. In one process, sound cases are examined once for all tests."""

    def call(data: Path, *arguments: str) -> tuple[int, str, pd.DataFrame]:
        output = tmp_path / "findings.csv"
        output.unlink(missing_ok=True)
        basic = ("--results", str(tmp_path / "results"), "--processes", "1", "--output", str(output))
        with monkeypatch.context() as patch:
            if "--processes" not in arguments:
                patch.setattr(dataset, "examine_case", examine_changed_case)
            code = main(["check", str(data), *basic, *arguments])
        printed = capsys.readouterr()
        return code, printed.out + printed.err, pd.read_csv(output, keep_default_na=False) if output.exists() else None

    return call


def test_check_of_a_sound_dataset_has_no_findings(cohort, run):
    code, printed, findings = run(cohort / "cases.csv")
    assert (code, len(findings)) == (0, 0), printed
    assert "40x58x14 3.2x3.2x7.5 RAS" in " ".join(printed.split())
    ml = [int((array_of(cohort / f"p{n}/mask.nii.gz") == 1).sum()) * VOXEL_ML for n in range(5)]
    assert f"{np.median(ml):.1f} ({min(ml):.1f} to {max(ml):.1f})" in printed
    assert "5 cases, channels FLAIR, T1, 15 files read" in printed
    assert "0 error(s), 0 warning(s), 0 note(s); ready." in printed


SHEARED = AFFINE.copy()
SHEARED[0, 1], SHEARED[1, 1] = 3.2 * np.sin(0.1), 3.2 * np.cos(0.1)
MIRRORED = np.diag([-1.0, 1, 1, 1]) @ AFFINE
SAGITTAL = AFFINE[:, [1, 2, 0, 3]]


DISK = np.linalg.norm((np.indices(SHAPE)[:2] - np.array([10, 29]).reshape(2, 1, 1, 1)) / 5, axis=0) < 1
INNER_HEAD = np.linalg.norm((np.indices(SHAPE) - np.array([20, 29, 7]).reshape(3, 1, 1, 1)) / 10, axis=0) < 1


def moved(*offset: float) -> np.ndarray:
    result = AFFINE.copy()
    result[:3, 3] = offset
    return result


# What is done to case p3, and severity, file, finding and remedy that must be reported, nothing else.
FAULTS = {
    "1 truncated gzip": (
        lambda p: (p / "T1.nii.gz").write_bytes((p / "T1.nii.gz").read_bytes()[:-2000]),
        ("error", "p3/T1.nii.gz", "ends early, so the file is truncated", "Fetch or copy it again"),
    ),
    "1 truncated by its last byte": (
        lambda p: (p / "mask.nii.gz").write_bytes((p / "mask.nii.gz").read_bytes()[:-1]),
        ("error", "p3/mask.nii.gz", "ends early, so the file is truncated", "Fetch or copy it again"),
    ),
    "2 a flipped bit": (
        lambda p: flip_a_bit(p / "FLAIR.nii.gz"),
        ("error", "p3/FLAIR.nii.gz", "the gzip stream is damaged", "Fetch or copy it again"),
    ),
    "3 a web page": (
        lambda p: (p / "FLAIR.nii.gz").write_text("<html>503 Service Unavailable</html>"),
        ("error", "p3/FLAIR.nii.gz", "is a web page, not an image", "Delete it and fetch it again"),
    ),
    "4 an empty file": (
        lambda p: (p / "T1.nii.gz").write_bytes(b""),
        ("error", "p3/T1.nii.gz", "the file is empty", "Delete it and fetch it again"),
    ),
    "5 uncompressed": (
        lambda p: (p / "T1.nii.gz").write_bytes(gzip.decompress((p / "T1.nii.gz").read_bytes())),
        ("error", "p3/T1.nii.gz", "is NIfTI without compression", "Rename it to T1.nii"),
    ),
    "6 x.nii next to x.nii.gz": (
        lambda p: shutil.copy(p / "T1.nii.gz", p / "T1.nii"),
        ("error", "p3/T1.nii.gz", "T1.nii lies next to it", "Remove one of them"),
    ),
    "7 NaN": (
        lambda p: change(p / "FLAIR.nii.gz", lambda a: np.where(a > 215, np.nan, a)),
        ("error", "p3/FLAIR.nii.gz", "voxels are NaN or infinite, the first at (", "Replace them by numbers"),
    ),
    "7 Inf": (
        lambda p: change(p / "T1.nii.gz", lambda a: np.where(a > 255, np.inf, a)),
        ("error", "p3/T1.nii.gz", "voxels are NaN or infinite", "Replace them by numbers"),
    ),
    "8 a constant image": (
        lambda p: change(p / "T1.nii.gz", lambda a: a * 0 + 7),
        ("error", "p3/T1.nii.gz", "every voxel is 7", "Export the image again"),
    ),
    "8 no voxel above 0": (
        lambda p: change(p / "FLAIR.nii.gz", lambda a: -1 - a),
        ("error", "p3/FLAIR.nii.gz", "no voxel of the FLAIR is positive", "Export the image again"),
    ),
    "9 another shape": (
        lambda p: change(p / "mask.nii.gz", lambda a: a[:-2]),
        ("error", "p3/mask.nii.gz", "its shape (38, 58, 14) differs from (40, 58, 14) of", "Resample one of them"),
    ),
    "9 another place": (
        lambda p: move(p / "T1.nii.gz", moved(0, 0, 300)),
        ("error", "p3/T1.nii.gz", "covers 0% of the brain on the grid of the first channel", "Check its header"),
    ),
    "10 another affine": (
        lambda p: move(p / "mask.nii.gz", moved(0, 0.5, 0)),
        ("error", "p3/mask.nii.gz", "its affine differs from that of", "correct its header"),
    ),
    "12 qform is not sform": (
        lambda p: save(p / "T1.nii.gz", array_of(p / "T1.nii.gz"), AFFINE, moved(0, 3, 0)),
        ("error", "p3/T1.nii.gz", "qform and sform differ by up to 3 mm", "Set the wrong one to the right one"),
    ),
    "13 no spacing": (
        lambda p: edit_header(p / "FLAIR.nii.gz", pixdim=[1, 0, 0, 0, 0, 0, 0, 0]),
        ("error", "p3/FLAIR.nii.gz", "has no spacing (voxel sizes [0, 0, 0])", "Convert it again from DICOM"),
    ),
    "13 no form codes": (
        lambda p: edit_header(p / "FLAIR.nii.gz", qform_code=0, sform_code=0),
        ("error", "p3/FLAIR.nii.gz", "has no spacing and orientation", "Convert it again from DICOM"),
    ),
    "14 sheared": (
        lambda p: edit_header(p / "T1.nii.gz", qform_code=0, **{f"srow_{x}": SHEARED[i] for i, x in enumerate("xyz")}),
        ("error", "p3/T1.nii.gz", "its voxel axes are not perpendicular", "Resample it to a grid without shear"),
    ),
    "15 4D": (
        lambda p: change(p / "T1.nii.gz", lambda a: np.stack([a, a], axis=-1)),
        ("error", "p3/T1.nii.gz", "has the shape (40, 58, 14, 2), but a 3D image is needed", "Extract one 3D volume"),
    ),
    "16 a mirrored mask": (
        lambda p: move(p / "mask.nii.gz", MIRRORED),
        ("error", "p3/mask.nii.gz", "its affine differs", "Resample one of them onto the grid of the other"),
    ),
    "16 mixed orientation": (
        lambda p: [move(p / f"{name}.nii.gz", MIRRORED) for name in FILES],
        (
            "error",
            "",
            "the voxel axes point different ways (LAS: p3; RAS: p0, p1, p2, p4)",
            "Set `preparation.orientation` to one of them",
        ),
    ),
    "16 lesions outside the brain": (
        lambda p: change(p / "mask.nii.gz", lambda a: np.roll(a, (20, 29), axis=(0, 1))),
        ("warning", "p3/mask.nii.gz", "100% of the lesion lies outside the brain", "not mirrored"),
    ),
    "18 an unexpected label": (
        lambda p: change(p / "mask.nii.gz", lambda a: a * 3),
        ("error", "p3/mask.nii.gz", "voxels hold 3, but a mask may hold only 0", "Recode the mask"),
    ),
    "18 255": (
        lambda p: change(p / "mask.nii.gz", lambda a: a * 255),
        ("error", "p3/mask.nii.gz", "voxels hold 255", "Recode the mask"),
    ),
    "18 an interpolated label": (
        lambda p: change(p / "mask.nii.gz", lambda a: a * np.float32(0.4999)),
        ("error", "p3/mask.nii.gz", "voxels hold 0.4999", "without interpolation"),
    ),
    "20 an empty mask": (
        lambda p: change(p / "mask.nii.gz", lambda a: a * 0),
        ("warning", "p3/mask.nii.gz", "no voxel is lesion (label 1)", "unless the patient has no lesion"),
    ),
    "26 the same scan under two names": (
        lambda p: shutil.copy(p.parent / "p1/FLAIR.nii.gz", p / "FLAIR.nii.gz"),
        ("error", "", "cases p1, p3 hold the same scan, which would leak between training and test", "Remove all but one"),
    ),
    "26 the same T1, stored otherwise": (
        lambda p: save(p / "T1.nii.gz", array_of(p.parent / "p1/T1.nii.gz").astype(np.float64)),
        ("error", "", "cases p1, p3 have the same T1", "Give each its own file"),
    ),
    "26 the same mask": (
        lambda p: shutil.copy(p.parent / "p1/mask.nii.gz", p / "mask.nii.gz"),
        ("warning", "", "cases p1, p3 have the same mask", "Give each its own file"),
    ),
    "26 one file for two channels": (
        lambda p: shutil.copy(p / "FLAIR.nii.gz", p / "T1.nii.gz"),
        ("error", "p3/T1.nii.gz", "holds the same voxels as FLAIR", "Enter the file of T1"),
    ),
    "29 a missing channel": (
        lambda p: (p / "T1.nii.gz").unlink(),
        ("error", "cases.csv", "line 5, case p3, column T1, ", "Correct the path"),
    ),
    "29 a missing mask": (
        lambda p: (p / "mask.nii.gz").unlink(),
        ("error", "cases.csv", "line 5, case p3, column mask, ", "Correct the path"),
    ),
    "a head of a thimble": (
        lambda p: [move(p / f"{name}.nii.gz", np.diag([0.32, 0.32, 0.5, 1])) for name in FILES],
        ("warning", "p3/FLAIR.nii.gz", "its field of view of 13x19x7 mm is not that of a whole head", "Check its voxel size"),
    ),
    "a head without voxel size": (
        lambda p: [move(p / f"{name}.nii.gz", np.eye(4)) for name in FILES],
        ("warning", "p3/FLAIR.nii.gz", "its affine is the identity", "Convert it again from DICOM"),
    ),
    "a part of a head": (
        lambda p: [change(p / f"{name}.nii.gz", lambda a: a * INNER_HEAD) for name in FILES[:2]],
        ("warning", "p3/FLAIR.nii.gz", "the brain mask, over which intensities are normalised, holds", "Check that this is a"),
    ),
    "a mask of the brain": (
        lambda p: change(p / "mask.nii.gz", lambda a: (array_of(p / "FLAIR.nii.gz") > 100).astype(np.uint8)),
        ("warning", "p3/mask.nii.gz", "its lesions (label 1) take", "Enter the mask of the lesions"),
    ),
    "a mask of other tissue": (
        lambda p: change(p / "mask.nii.gz", lambda a: np.roll(a, 10, axis=0)),
        (
            "warning",
            "p3/mask.nii.gz",
            "its lesions are not brighter than the brain",
            "Check that the mask belongs to this scan",
        ),
    ),
    "17 label 2 that is bright": (
        lambda p: change(p / "mask.nii.gz", lambda a: a + a * (np.indices(SHAPE)[0] < 19)),
        ("warning", "p3/mask.nii.gz", "label 2 is bright as label 1 (lesion) is", "Recode it to 1 if it is lesion"),
    ),
    "17 label 2 that is larger than label 1": (
        lambda p: change(p / "mask.nii.gz", lambda a: np.where(DISK & (a == 0), 2, a).astype(np.uint8)),
        ("warning", "p3/mask.nii.gz", "label 2 takes more voxels than label 1", "Recode it to 1 if it is lesion"),
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_check_reports_each_fault_with_file_and_remedy(cohort, run, fault):
    damage, (severity, file, finding, remedy) = FAULTS[fault]
    damage(cohort / "p3")
    code, printed, findings = run(cohort / "cases.csv")
    expected = findings[findings["severity"] != "note"]
    assert len(expected) == 1, printed
    found = expected.iloc[0]
    assert found["severity"] == severity
    assert found["file"].endswith(file)
    assert finding in found["finding"]
    assert remedy in found["remedy"]
    assert code == (severity == "error")
    assert finding in printed
    assert severity.upper() in printed
    assert f"1 {severity}(s)" in printed


@pytest.mark.parametrize(
    "harmless",
    [
        lambda p: move(p / "mask.nii.gz", moved(2e-5, -2e-5, 2e-5)),
        lambda p: change(p / "mask.nii.gz", lambda a: a * np.float32(0.9999999)),
        lambda p: change(p / "T1.nii.gz", lambda a: a[..., None]),
        lambda p: change(p / "mask.nii.gz", lambda a: a + 2 * np.roll(a, 12, axis=0)),
        lambda p: save(p / "T1.nii.gz", array_of(p / "T1.nii.gz")[::2], AFFINE @ np.diag([2.0, 1, 1, 1])),
    ],
    ids=["11 float noise", "19 float labels", "15 trailing 1", "17 label 2", "9 a channel on its own grid"],
)
def test_check_accepts_harmless_variants(cohort, run, harmless):
    harmless(cohort / "p3")
    code, printed, findings = run(cohort / "cases.csv")
    assert (code, len(findings)) == (0, 0), printed


def test_check_warns_of_integers_that_overflowed(cohort, run):
    change(cohort / "p3/FLAIR.nii.gz", lambda a: ((163 * a).astype(int) + 2**15) % 2**16 - np.float32(2**15))
    code, _, findings = run(cohort / "cases.csv")
    assert code == 0
    assert set(findings["severity"]) == {"warning"}
    finding = findings[findings["file"].str.endswith("p3/FLAIR.nii.gz")].iloc[0]
    assert "of the head is negative, next to voxels near the maximum, as if integers had overflowed" in finding["finding"]


def test_check_mentions_outliers(cohort, run):
    def spike(array: np.ndarray) -> np.ndarray:
        array[20, 29, 7] = 1e6
        return array

    change(cohort / "p3/T1.nii.gz", spike)
    code, printed, findings = run(cohort / "cases.csv")
    assert code == 0
    assert list(findings["severity"]) == ["note"], printed
    assert findings["file"][0].endswith("p3/T1.nii.gz")
    assert findings["finding"][0] == "1 voxel(s) lie far beyond all others, up to 1e+06"


def test_check_accepts_a_scan_that_is_z_scored_within_the_brain(cohort, run):
    change(cohort / "p3/FLAIR.nii.gz", lambda a: np.where(a > 100, (a - 200) / 5, 0).astype(np.float32))
    code, printed, findings = run(cohort / "cases.csv")
    assert (code, len(findings)) == (0, 0), printed


def test_check_reports_the_volume_of_label_2(cohort, run):
    change(cohort / "p3/mask.nii.gz", lambda a: a + 2 * np.roll(a, 12, axis=0))
    ml = (array_of(cohort / "p3/mask.nii.gz") == 2).sum() * VOXEL_ML
    assert run(cohort / "cases.csv")[1].splitlines()[1].endswith(f" {ml:.1f}")


def test_check_lists_all_faults_at_once(cohort, run):
    """Faults of files, of the table and across cases do not hide each other."""
    flip_a_bit(cohort / "p0/FLAIR.nii.gz")
    change(cohort / "p0/mask.nii.gz", lambda a: a * 3)
    (cohort / "p1/T1.nii.gz").write_bytes(b"")
    (cohort / "p2/mask.nii.gz").unlink()
    shutil.copy(cohort / "p3/FLAIR.nii.gz", cohort / "p4/FLAIR.nii.gz")
    change(cohort / "p4/mask.nii.gz", lambda a: a * 0)
    edit(cohort, fold=["0", "0", "1", "1", "1"], T1_transform=["cases.csv", "", "", "", ""])
    code, printed, findings = run(cohort / "cases.csv")
    assert code == 1
    assert findings["severity"].tolist() == ["error"] * 7 + ["warning"], printed
    for text in (
        "line 4, case p2, column mask, ",
        "the gzip stream is damaged",
        "voxels hold 3",
        "the file is empty",
        "cases p3, p4 hold the same scan",
        "fold: the table has the folds [0, 1]",
        "no voxel is lesion",
        "is neither an elastix nor an ITK transform",
        "7 error(s), 1 warning(s), 0 note(s); fix the errors before training.",
    ):
        assert text in printed, text


@pytest.mark.parametrize(
    ("columns", "finding"),
    [
        ({"case": ["p0", "p1", "p2", "p1", "p4"]}, "case p1 occurs more than once: line 3, line 5"),
        (
            {"case": ["p0", "p1", "p2", "p1", "p4"], "role": ["train", "train", "train", "test", "test"]},
            "case p1 occurs more than once: line 3, line 5",
        ),
        ({"role": ["train"] * 4 + ["validation"]}, "split 0: no case has the role test"),
        ({"role": ["train", "", "", "", "test"]}, "column role: it is filled in for 2 of 5 cases"),
        ({"role": ["train"] * 4 + ["tset"]}, "line 6, case p4: unknown role 'tset'"),
        (
            {"fold": ["0", "1", "2", "3", "3"]},
            "the table has the folds [0, 1, 2, 3], but `folds.count` is 5, so each of 0 to 4 must occur",
        ),
        ({"role": ["train"] * 4 + ["test"], "fold": [*"01234"]}, "line 2, case p0: has both a role and a fold"),
        (
            {"patient": ["a", "b", "b", "", ""], "fold": [*"01234"]},
            "patients with more than one role, which would leak between training and test: b (p1 validation, p2 train)",
        ),
        (
            {"T1": ["p0/T1.nii.gz", "", "p2/T1.nii.gz", "p3/T1.nii.gz", "p4/T1.nii.gz"]},
            "line 3, case p1: there is no path in column T1",
        ),
        ({"case": ["p0", "p/1", "p2", "p3", "p4"]}, "the case name 'p/1' is not safe in file names"),
        ({"T1_transform": ["", "cases.csv", "", "", ""]}, "is neither an elastix nor an ITK transform"),
        ({"observer_2": ["p0/FLAIR.nii.gz", "", "", "", ""]}, "but a mask may hold only 0"),
        ({"observer_3": ["", "p0/FLAIR.nii.gz", "", "", ""]}, "but a mask may hold only 0"),
    ],
)
def test_check_reports_faults_of_the_table(cohort, run, columns, finding):
    edit(cohort, **columns)
    code, printed, findings = run(cohort / "cases.csv")
    assert code == 1
    assert findings["finding"].str.contains(finding, regex=False).any(), printed


def test_check_refuses_an_unreadable_table(cohort, run):
    text = (cohort / "cases.csv").read_text()
    (cohort / "cases.csv").write_bytes(text.replace("p0,s", "p0,Zürich").encode("cp1252"))
    code, printed, _ = run(cohort / "cases.csv")
    assert code == 1
    assert "Save it as UTF-8 text" in printed
    code, printed, _ = run(cohort / "absent.csv")
    assert code == 1
    assert "the table of cases does not exist" in printed
    assert "Traceback" not in printed


def test_check_reports_a_dataset_without_lesions(cohort, run):
    for number in range(5):
        change(cohort / f"p{number}/mask.nii.gz", lambda a: a * 0)
    code, printed, findings = run(cohort / "cases.csv")
    assert (code, findings["severity"].tolist()) == (1, ["error"] + ["warning"] * 5)
    assert "no mask has a voxel of lesion (label 1), so there is nothing to learn" in printed
    assert "cases p0, p1, p2, p3, p4\n    no voxel is lesion" in printed


def test_check_notes_scans_smaller_than_the_crop(cohort, run):
    code, printed, findings = run(cohort / "cases.csv", "--scale", "paper")
    assert (code, findings["severity"].tolist()) == (0, ["note"] * 5)
    assert (
        "its slices of 40x58 pixels are smaller than the networks' crop of 128x192.\n    -> Nothing needs to be done" in printed
    )


def test_check_warns_of_slices_that_are_not_axial(cohort, run):
    for path in cohort.glob("p*/*.nii.gz"):
        save(path, array_of(path).transpose(1, 2, 0), SAGITTAL)
    code, printed, findings = run(cohort / "cases.csv")
    assert (code, findings["severity"].unique().tolist()) == (0, ["warning", "note"])
    assert "its third axis points to R" in printed
    (cohort / "own.yaml").write_text(
        "dataset: own\npreparation: {orientation: LPS}\ndatasets: {own: {layout: table, channels: [FLAIR, T1], "
        f"table: '{cohort}/cases.csv', folder: '{cohort}'}}}}\n"
    )
    code, printed, findings = run(cohort / "own.yaml")
    assert (code, len(findings)) == (0, 0), printed
    assert "40x58x14 3.2x3.2x7.5 LPS" in " ".join(printed.split())


def test_check_accepts_paths_with_spaces_and_dots(cohort, run, tmp_path):
    folder = cohort.rename(tmp_path / "Philips_VU .PETMR_01.")
    code, printed, _ = run(folder / "cases.csv")
    assert code == 0, printed


@pytest.fixture
def challenge(sound, tmp_path):
    """The same cases in the folders of the WMH challenge."""
    folder = tmp_path / "wmh"
    for number, place in enumerate(("Utrecht/0", "Utrecht/1", "Singapore/50", "Amsterdam/GE3T/100", "Amsterdam/GE3T/101")):
        for source, name in zip(FILES, ("pre/FLAIR", "pre/T1", "wmh"), strict=True):
            target = folder / "training" / place / f"{name}.nii.gz"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(sound / f"p{number}/{source}.nii.gz", target)
    return folder


def test_check_recognises_a_folder_of_the_challenge(challenge, run, tmp_path):
    code, printed, _ = run(challenge)
    assert code == 0, printed
    assert printed.startswith(f"{challenge}: the WMH challenge\n\n")
    assert [line.split()[:2] for line in printed.splitlines()[3:6]] == [["GE3T", "2"], ["Singapore", "1"], ["Utrecht", "2"]]
    (challenge / "training/Utrecht/0/pre/T1.nii.gz").unlink()
    flip_a_bit(challenge / "training/Singapore/50/pre/FLAIR.nii.gz")
    code, printed, findings = run(challenge)
    assert (code, len(findings)) == (1, 2)
    assert "Utrecht/0/pre/T1.nii.gz: the file does not exist" in printed
    assert "case Singapore-50" in printed
    code, printed, _ = run(tmp_path / "nowhere")
    assert code == 1
    (tmp_path / "empty").mkdir()
    code, printed, _ = run(tmp_path / "empty")
    assert code == 1
    assert "holds neither a raw dataset of nnU-Net (dataset.json), nor a BIDS dataset" in printed
    assert "nor scans without masks, such as FLAIR.nii.gz or CASE_FLAIR.nii.gz" in printed


def test_check_names_the_images_of_the_challenge_and_warns_of_a_mixture(challenge, run):
    _, printed, findings = run(challenge)
    assert "Images: FLAIR is pre/FLAIR.nii.gz; T1 is pre/T1.nii.gz." in printed
    assert not len(findings)
    case = challenge / "training/Utrecht/1"
    (case / "orig").mkdir()
    shutil.move(case / "pre/T1.nii.gz", case / "orig/3DT1.nii.gz")
    identity = "\n".join(
        (
            '(Transform "EulerTransform")',
            "(NumberOfParameters 6)",
            "(TransformParameters 0 0 0 0 0 0)",
            "(CenterOfRotationPoint 0 0 0)",
            '(ComputeZYX "false")',
            '(InitialTransformParametersFileName "NoInitialTransform")',
            '(UseDirectionCosines "true")\n',
        )
    )
    (case / "orig/reg_3DT1_to_FLAIR.txt").write_text(identity, encoding="ascii")
    code, printed, findings = run(challenge)
    assert code == 0
    (finding,) = findings["finding"]
    assert finding == "T1 is pre/T1.nii.gz in 4 case(s) and orig/3DT1.nii.gz in 1 case(s)"
    assert "Images: FLAIR is pre/FLAIR.nii.gz; T1 is pre/T1.nii.gz, orig/3DT1.nii.gz." in printed


def as_bids(sound: Path, folder: Path) -> Path:
    """The same cases as BIDS subjects, one of them with a session."""
    for number, session in enumerate(("sub-a/ses-1", "sub-b", "sub-c", "sub-d", "sub-e")):
        name = session.replace("/", "_")
        for source, target in (
            ("FLAIR", f"{session}/anat/{name}_FLAIR"),
            ("T1", f"{session}/anat/{name}_T1w"),
            ("mask", f"derivatives/manual/{session}/anat/{name}_label-WMH_mask"),
        ):
            (folder / target).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(sound / f"p{number}/{source}.nii.gz", folder / f"{target}.nii.gz")
    return folder


def as_nnunet(sound: Path, folder: Path) -> Path:
    """The same cases as a raw data set of nnU-Net whose first channel is T1."""
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
    for number in range(5):
        for source, target in (("T1", "imagesTr/p{}_0000"), ("FLAIR", "imagesTr/p{}_0001"), ("mask", "labelsTr/p{}")):
            shutil.copy(sound / f"p{number}/{source}.nii.gz", folder / f"{target.format(number)}.nii.gz")
    described = {"channel_names": {"0": "T1", "1": "FLAIR"}, "labels": {"background": 0, "WMH": 1}, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(described))
    return folder


# The layout, what is done to its folder, and what must be reported, nothing else.
FAULTS_OF_LAYOUTS = {
    "bids: a missing modality": (
        as_bids,
        lambda folder: (folder / "sub-c/anat/sub-c_T1w.nii.gz").unlink(),
        ["sub-c: there is no T1.\n    -> Add it to sub-c/anat, or list the cases that you want in a csv"],
    ),
    "bids: two candidates for the mask": (
        as_bids,
        lambda folder: shutil.copytree(folder / "derivatives/manual/sub-b", folder / "derivatives/lst/sub-b"),
        [
            "sub-b: 2 files could be its mask: derivatives/lst/sub-b/anat/sub-b_label-WMH_mask.nii.gz",
            "Choose one with `datasets.own.masks`",
        ],
    ),
    "bids: unexpected labels": (
        as_bids,
        lambda folder: change(next(folder.glob("derivatives/manual/sub-d/anat/*")), lambda a: a * 4),
        ["case sub-d", "voxels hold 4, but a mask may hold only 0"],
    ),
    "nnunet: a missing modality": (
        as_nnunet,
        lambda folder: (folder / "imagesTr/p2_0001.nii.gz").unlink(),
        ["imagesTr/p2_0001.nii.gz: the file does not exist"],
    ),
    "nnunet: unexpected labels": (
        as_nnunet,
        lambda folder: change(folder / "labelsTr/p4.nii.gz", lambda a: a * 3),
        ["case p4", "voxels hold 3", "Recode the mask"],
    ),
    "nnunet: unexpected labels in its description": (
        as_nnunet,
        lambda folder: (folder / "dataset.json").write_text(
            json.dumps({"channel_names": {"0": "T1", "1": "FLAIR"}, "labels": {"background": 0, "a": 1, "b": 2, "c": 3}})
        ),
        ["1 the lesion and 2, if used, neither of them", "Recode the files of labelsTr"],
    ),
}


@pytest.mark.parametrize("fault", FAULTS_OF_LAYOUTS)
def test_check_reports_faults_of_bids_and_nnunet_folders(sound, run, tmp_path, fault):
    build, damage, words = FAULTS_OF_LAYOUTS[fault]
    folder = build(sound, tmp_path / "own")
    damage(folder)
    code, printed, findings = run(folder)
    assert (code, findings["severity"].tolist()) == (1, ["error"]), printed
    for word in words:
        assert word in printed


@pytest.mark.parametrize(("build", "kind"), [(as_bids, "a BIDS dataset"), (as_nnunet, "a raw dataset of nnU-Net")])
def test_check_recognises_the_layout_of_a_folder(sound, run, tmp_path, build, kind):
    code, printed, findings = run(build(sound, tmp_path / "own"))
    assert (code, len(findings)) == (0, 0), printed
    assert printed.startswith(f"{tmp_path / 'own'}: {kind}\n")
    assert "5 cases, channels FLAIR, T1, 15 files read" in printed


def test_check_of_a_test_only_dataset_needs_no_folds(cohort, run):
    text = (
        f"dataset: second\ndatasets:\n  second: {{layout: table, table: '{cohort}/cases.csv', folder: '{cohort}', "
        "channels: [FLAIR, T1]%s}}\n"
    )
    (cohort / "cases.csv").write_text("".join((cohort / "cases.csv").read_text().splitlines(keepends=True)[:3]))
    for networks, expected in (("", 1), (", networks_of: wmh", 0)):
        (cohort / "own.yaml").write_text(text.replace("}}", "}") % networks)
        code, printed, _ = run(cohort / "own.yaml")
        assert code == expected, printed
        assert ("folds need at least 5 patients, but there are 2" in printed) == bool(expected)


def own_configuration(folder: Path, text: str = "") -> Path:
    path = folder / "own.yaml"
    dataset = f"{{layout: table, table: '{folder}/cases.csv', folder: '{folder}', channels: [FLAIR]}}"
    path.write_text(f"dataset: own\n{text}datasets: {{own: {dataset}}}\n")
    return path


def test_check_of_a_configuration_checks_its_dataset(cohort, run):
    code, printed, _ = run(own_configuration(cohort))
    assert code == 0, printed
    assert "5 cases, channels FLAIR, 10 files read" in printed
    edit(cohort, role=["train"] * 4 + ["test"])
    code, printed, _ = run(own_configuration(cohort, "splits: [0, 1]\n"))
    assert code == 1
    assert "roles in the table make one split only" in printed
    assert run(own_configuration(cohort, "splits: [0]\n"))[0] == 0
    code, printed, _ = run(own_configuration(cohort, "trainin: {steps: 3}\n"))
    assert code == 1
    assert "`trainin`: unknown key. Did you mean 'training'" in printed
    code, printed, _ = run(own_configuration(cohort), "--dataset", "won")
    assert code == 1
    assert "'won' is not one of datasets. Did you mean 'own'" in printed
    assert run(own_configuration(cohort), "--channels", "FLAIR")[0] == run(cohort / "cases.csv", "--dataset", "own")[0] == 1
    for text in ("a: [", "- a"):
        (cohort / "own.yaml").write_text(text)
        assert run(cohort / "own.yaml")[0] == 1


def test_check_of_a_configuration_reads_the_masks_of_other_programs(cohort, run):
    masks = cohort / "nnunet" / "0"
    text = (
        "methods: {nnunet: {label: nnU-Net, segmenter: files, folder: '%s', pattern: '{case}.nii.gz'}}\n"
        "exhibits: {table1: [unet, nnunet, attunet, ddpm, tdpm, es-ddpm, pd-ddpm]}\nsplits: [0]\n"
    )
    edit(cohort, role=["train", "train", "test", "test", "test"])
    for number in (2, 3, 4):
        masks.mkdir(parents=True, exist_ok=True)
        shutil.copy(cohort / f"p{number}/mask.nii.gz", masks / f"p{number}.nii.gz")
    split = own_configuration(cohort, text % f"{cohort}/nnunet/{{split}}")
    code, printed, findings = run(split)
    assert (code, len(findings)) == (0, 0), printed
    code, printed, findings = run(own_configuration(cohort, text % masks))
    assert (code, findings["severity"].tolist()) == (0, ["warning"])
    assert "nnU-Net: its files are the same for all splits, so their program may have been trained on test cases." in printed
    split = own_configuration(cohort, text % f"{cohort}/nnunet/{{split}}")
    change(masks / "p2.nii.gz", lambda a: a * 2)
    change(masks / "p3.nii.gz", lambda a: a * 0)
    move(masks / "p4.nii.gz", AFFINE + np.eye(4, k=3))
    code, printed, findings = run(split)
    assert (code, findings[["severity", "case"]].to_numpy().tolist()) == (
        1,
        [["error", "p2"], ["error", "p4"], ["warning", "p3"]],
    )
    assert "a mask holds values from 0 to 1" in findings["finding"][0]
    assert "its affine differs from that of" in findings["finding"][1]
    (masks / "p2.nii.gz").unlink()
    (masks / "p3.nii.gz").unlink()
    assert "2 of 3 cases have no file: p2, p3." in run(split)[1]


def test_check_warns_of_scans_that_are_not_simulated_yet(run, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    code, printed, findings = run(ROOT / "config/config.yaml")
    assert (code, findings["severity"].tolist(), findings["file"].tolist()) == (0, ["warning"], ["data/phantom"])
    assert "the workflow has not simulated these scans yet" in printed
    assert "nothing was checked." in printed
    code, printed, _ = run(ROOT / "config/config.yaml", "--dataset", "wmh")
    assert code == 1
    assert "10.34894/AECRSD" in printed


@pytest.mark.parametrize("over", [None, "open_ms.example.yaml"])
@pytest.mark.parametrize("scale", [None, "demo", "paper"])
def test_configurations_are_laid_over_each_other_as_snakemake_does(over, scale):
    content = lambda name: yaml.safe_load((ROOT / "config" / name).read_text(encoding="utf-8"))  # noqa: E731
    changes = {"scale": scale} if scale else {}
    expected = content("config.yaml")
    layers = [content("demo.yaml")] * (scale != "paper") + ([content(over)] if over else []) + [changes]
    for layer in layers:
        update_config(expected, layer)
    assert read(ROOT / "config" / (over or "config.yaml"), changes) == expected


def test_check_reports_an_output_folder_that_is_not_writable(cohort, run, tmp_path, monkeypatch):
    (tmp_path / "results").write_text("in the way")
    code, printed, findings = run(cohort / "cases.csv")
    assert (code, len(findings)) == (1, 1)
    assert "results cannot be written there (Not a directory)" in printed

    def read_only(**_: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(tempfile, "TemporaryFile", read_only)
    assert "(Read-only file system).; Make the folder writable" in run(cohort / "cases.csv")[1].replace("\n    -> ", "; ")


@pytest.mark.parametrize(("free", "severity"), [(800_000, "error"), (3_200_000, "warning"), (3_300_000, None)])
def test_check_reports_too_little_disk_space(cohort, run, monkeypatch, free, severity):
    """Five cases of 32480 voxels of 2 x 4 + 2 bytes take 1.624 MB. Half of that is an error, twice as much is enough."""
    usage = shutil.disk_usage(cohort)
    monkeypatch.setattr(dataset, "disk_usage", lambda path: usage._replace(free=free))
    code, printed, findings = run(cohort / "cases.csv")
    assert findings["severity"].tolist() == ([severity] if severity else []), printed
    assert code == (severity == "error")
    assert not severity or "GB are free, and the prepared cases take 0.0 GB" in printed


def test_check_gives_the_same_findings_with_more_processes(cohort, run):
    flip_a_bit(cohort / "p1/FLAIR.nii.gz")
    change(cohort / "p4/mask.nii.gz", lambda a: a * 0)
    one, two = run(cohort / "cases.csv"), run(cohort / "cases.csv", "--processes", "2")
    pd.testing.assert_frame_equal(one[2], two[2])


def test_check_continues_after_an_unforeseen_error(cohort, run, monkeypatch):
    def fail(path: str) -> None:
        raise KeyError(42)

    monkeypatch.setattr(check_case, "read_image", lambda path: fail(path) if "p1/T1" in path else nib.load(path))
    # A changed case is examined even if other tests have examined the sound one.
    change(cohort / "p1/FLAIR.nii.gz", lambda a: a + 1)
    change(cohort / "p4/mask.nii.gz", lambda a: a * 3)
    code, printed, findings = run(cohort / "cases.csv")
    assert (code, len(findings)) == (1, 2)
    assert "cannot be processed (KeyError: 42)" in printed


def test_check_script_writes_findings_or_fails_with_all_of_them(cohort, script, tmp_path, patches_within_slices):
    config = read(None, {"datasets": {"own": {"channels": ["FLAIR", "T1"]}}})
    change(cohort / "p4/mask.nii.gz", lambda a: a * 0)
    write_table(read_case_table(cohort / "cases.csv", ["FLAIR", "T1"]), tmp_path / "cases.csv")
    arguments = {"table": tmp_path / "cases.csv", "findings": tmp_path / "check.csv", "dataset": "own", "processes": 1}
    script("check")(**arguments, config=config)
    table = pd.read_csv(tmp_path / "check.csv")
    assert table.columns.tolist() == ["severity", "case", "file", "finding", "remedy"]
    assert table["case"].tolist() == ["p4"]
    (tmp_path / "check.csv").unlink()
    flip_a_bit(cohort / "p1/FLAIR.nii.gz")
    (cohort / "p2/T1.nii.gz").unlink()
    with pytest.raises(ValueError, match="the dataset own cannot be used") as caught:
        script("check")(**arguments, config=config)
    for text in (
        "p1/FLAIR.nii.gz",
        "p2/T1.nii.gz",
        "the file does not exist",
        "no voxel is lesion",
        "2 error(s), 1 warning(s)",
    ):
        assert text in str(caught.value)
    assert not (tmp_path / "check.csv").exists()


def test_list_cases_script_reports_missing_files_and_other_faults(cohort, script, tmp_path):
    chosen = {"layout": "table", "table": str(cohort / "cases.csv"), "folder": str(cohort), "channels": ["FLAIR", "T1"]}
    arguments = {
        "table": str(tmp_path / "out.csv"),
        "versions": str(tmp_path / "versions.json"),
        "dataset": "own",
        "settings": chosen,
        "config": read(None, {"datasets": {"own": chosen}, "folds": {"count": 5}}),
        "processes": 1,
    }
    (cohort / "p2/mask.nii.gz").unlink()
    change(cohort / "p4/mask.nii.gz", lambda a: a * 3)
    with pytest.raises(ValueError, match="the dataset own cannot be used") as caught:
        script("list_cases")(**arguments)
    for text in ("line 4, case p2, column mask, ", "case p4", "voxels hold 3", "2 error(s)"):
        assert text in str(caught.value)
    assert not (tmp_path / "out.csv").exists()
    edit(cohort, mask=[f"p{number}/mask.nii.gz" for number in (0, 1, 3, 3, 4)])
    script("list_cases")(**arguments)
    assert (tmp_path / "out.csv").is_file()


def test_help_teaches_and_loads_nothing_heavy():
    for arguments, words in ((["--help"], ["check", "example"]), (["check", "--help"], ["cases.csv", "remedy", "exit code"])):
        code = (
            f"import sys; from pd_ddpm.commands.main import main\ntry:\n    main({arguments})\n"
            "except SystemExit as end:\n    loaded = {'torch', 'pandas', 'nibabel'} & set(sys.modules)\n"
            "    sys.exit(end.code or len(loaded))"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        for word in words:
            assert word in done.stdout
