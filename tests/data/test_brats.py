"""Cases of BraTS in a made-up folder: names, labels, roles of PatchDDM, and what is missing (about 5 s)."""

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from scipy import ndimage

from pd_ddpm.commands.main import main
from pd_ddpm.data.cases.brats import brats_files, find_brats_cases, label_recoding, patch_ddm_roles
from pd_ddpm.data.cases.find import case_files, find_cases, layout_of
from pd_ddpm.data.cases.table import CohortError, read_table, write_table
from pd_ddpm.data.nifti.geometry import ImageError
from pd_ddpm.data.nifti.read import read_labels
from pd_ddpm.data.preparation.case import prepare_cohort

CHANNELS = ["FLAIR", "T1", "T1ce", "T2"]
MODALITIES = ("flair", "t1", "t1ce", "t2")


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    return path


def add_case(folder: Path, name: str, ending: str = ".nii.gz", names: tuple[str, ...] = (*MODALITIES, "seg")) -> Path:
    """Add the empty files of a case and return its folder."""
    for part in names:
        touch(folder / name / f"{name}_{part}{ending}")
    return folder / name


@pytest.fixture
def brats(tmp_path: Path) -> Path:
    """Four cases as they are published: of 2020, one of them with a misnamed segmentation, and of 2021."""
    folder = tmp_path / "brats"
    training = folder / "BraTS2020_TrainingData/MICCAI_BraTS2020_TrainingData"
    add_case(training, "BraTS20_Training_001", ".nii")
    touch(add_case(training, "BraTS20_Training_355", ".nii", MODALITIES) / "W39_1998.09.19_Segm.nii")
    touch(training / "name_mapping.csv")
    touch(training / "BraTS20_Training_001/._BraTS20_Training_001_t1.nii")  # what macOS leaves behind
    add_case(folder / "BraTS2020_ValidationData", "BraTS20_Validation_001", ".nii", MODALITIES)
    add_case(folder, "BraTS2021_00000")
    add_case(folder, "BraTS2021_01666")
    return folder


def write(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, np.diag([3.0, 3.0, 3.0, 1.0])), path)


def write_heads(folder: Path, seed: int, names: list[str]) -> None:
    """Write skull-stripped heads with a tumour of labels 1, 2 and 4 or 3 that is brighter than the brain in FLAIR and T2."""
    random = np.random.default_rng(seed)
    shape = (56, 64, 44)
    grid = np.stack(np.meshgrid(*(np.linspace(-1.1, 1.1, n) for n in shape), indexing="ij"))
    brain = (grid**2).sum(axis=0) < 1
    for number, name in enumerate(names):
        distance = np.sqrt(((grid - random.uniform(-0.3, 0.3, 3)[:, None, None, None]) ** 2).sum(axis=0))
        labels = np.select([distance < 0.1, distance < 0.2, distance < 0.35], [1, 4 - number % 2, 2], 0).astype(np.uint8)
        for modality, contrast in zip(MODALITIES, (1.0, -0.3, 0.4, 1.2), strict=True):
            texture = ndimage.gaussian_filter(random.normal(size=shape), 1.5) * 120
            image = brain * (500 + texture + 300 * contrast * (labels > 0))
            write(folder / name / f"{name}_{modality}.nii.gz", image.astype(np.float32))
        write(folder / name / f"{name}_seg.nii.gz", labels)


def test_find_brats_cases_finds_cases_of_2020_and_2021_at_any_depth(brats: Path) -> None:
    table = find_brats_cases(brats, CHANNELS)
    assert table["case"].tolist() == ["BraTS2021_00000", "BraTS2021_01666", "BraTS20_Training_001", "BraTS20_Training_355"]
    assert set(table["site"]) == {"unknown"}
    assert (table["role"] == "").all()
    assert set(table["lesion_labels"]) == {"1 2 3 4"}
    compressed, _, first, misnamed = table.to_dict("records")
    assert Path(first["T1ce"]).name == "BraTS20_Training_001_t1ce.nii"
    assert Path(first["mask"]).name == "BraTS20_Training_001_seg.nii"
    assert Path(misnamed["mask"]).name == "W39_1998.09.19_Segm.nii"
    assert [Path(compressed[channel]).name for channel in CHANNELS] == [
        f"BraTS2021_00000_{modality}.nii.gz" for modality in MODALITIES
    ]


def test_brats_is_a_layout_of_the_configuration(brats: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"layout": "brats", "folder": str(brats), "channels": ["FLAIR", "T1ce"]}
    table = find_cases("datasets.tumours", settings | {"lesion_labels": [3, 4]})
    assert set(table["lesion_labels"]) == {"3 4"}
    assert layout_of(brats) == "brats"
    assert case_files(settings) == brats_files(brats)
    assert len(brats_files(brats)) == 4 * 5
    write_table(table, tmp_path / "cases.csv")
    pd.testing.assert_frame_equal(read_table(tmp_path / "cases.csv"), table)


def test_only_folders_with_segmented_cases_are_brats(brats: Path, tmp_path: Path) -> None:
    for name in (
        "head_flair.nii.gz",
        "CASE/FLAIR.nii.gz",
        "CASE/CASE_pd.nii.gz",
        "BraTS20_Training_002/W39_1998.09.19_Segm.nii",
    ):
        touch(tmp_path / "other" / name)
    add_case(tmp_path / "other", "BraTS2021_00002", names=MODALITIES)  # a validation case of 2021
    assert len(brats_files(tmp_path / "other")) == 4
    with pytest.raises(CohortError, match=r"nor BraTS \(folders with \{case\}_flair\.nii\.gz, \{case\}_seg"):
        layout_of(tmp_path / "other")


def test_misnamed_segmentation_may_have_been_renamed_or_be_missing(brats: Path) -> None:
    misnamed = next(brats.rglob("W39_1998.09.19_Segm.nii"))
    renamed = misnamed.rename(misnamed.with_name("BraTS20_Training_355_seg.nii"))
    assert find_brats_cases(brats, CHANNELS)["mask"][3] == str(renamed)
    renamed.unlink()
    with pytest.raises(CohortError, match=r"W39_1998\.09\.19_Segm\.nii\.gz: the file does not exist\. Unpack it again"):
        find_brats_cases(brats, CHANNELS)


def test_find_brats_cases_lists_all_missing_files_and_keeps_the_others(brats: Path) -> None:
    (brats / "BraTS2021_00000/BraTS2021_00000_t2.nii.gz").unlink()
    (brats / "BraTS2021_01666/BraTS2021_01666_seg.nii.gz").unlink()
    with pytest.raises(CohortError) as caught:
        find_brats_cases(brats, CHANNELS)
    assert len(caught.value.problems) == 2
    assert (caught.value.table[["T2", "mask"]] == "").to_numpy().tolist() == [[True, False], [False, True], *[[False] * 2] * 2]
    assert len(find_brats_cases(brats / "BraTS2020_TrainingData", CHANNELS)) == 2


@pytest.mark.parametrize("exists", [True, False])
def test_find_brats_cases_says_where_to_get_the_data(tmp_path: Path, exists: bool) -> None:
    folder = tmp_path / "empty"
    if exists:
        folder.mkdir()
    with pytest.raises(CohortError, match=r"cbica/brats2020.*syn25829067.*needs an account.*unpack them below that folder"):
        find_brats_cases(folder, CHANNELS, key="datasets.brats")


def test_find_brats_cases_names_channels_that_brats_has_not(brats: Path) -> None:
    with pytest.raises(CohortError, match="BraTS has the channels FLAIR, T1, T1ce, T2, not PD"):
        find_brats_cases(brats, ["FLAIR", "PD"])


# Labels


@pytest.mark.parametrize(
    ("cell", "expected"),
    [("1 2 3 4", [0, 1, 1, 1, 1]), ("1 3 4", [0, 1, 0, 1, 1]), ("3 4", [0, 0, 0, 1, 1])],
    ids=["whole tumour", "tumour core", "enhancing tumour"],
)
def test_labels_of_brats_are_recoded(tmp_path: Path, cell: str, expected: list[int]) -> None:
    labels = np.arange(5, dtype=np.uint8).reshape(1, 1, 5).repeat(3, axis=0)
    write(tmp_path / "seg.nii.gz", labels)
    recoded, _ = read_labels(tmp_path / "seg.nii.gz", label_recoding({"lesion_labels": cell}))
    assert recoded.dtype == np.uint8
    assert np.array_equal(recoded, np.array(expected)[labels])


def test_labels_beyond_those_of_brats_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "seg.nii.gz", np.full((2, 2, 2), 5, np.uint8))
    with pytest.raises(ImageError, match="8 voxels hold 5, but a mask may hold only 0, 1, 2, 3 and 4"):
        read_labels(tmp_path / "seg.nii.gz", label_recoding({"lesion_labels": "1"}))


def test_labels_of_other_layouts_stay(tmp_path: Path) -> None:
    write(tmp_path / "mask.nii.gz", np.arange(3, dtype=np.uint8).reshape(1, 1, 3).repeat(2, axis=0))
    assert np.array_equal(read_labels(tmp_path / "mask.nii.gz", label_recoding({"case": "a"}))[0][0, 0], [0, 1, 2])


def test_prepare_cohort_writes_the_lesion_that_the_table_names(tmp_path: Path) -> None:
    names = ["BraTS20_Training_001", "BraTS20_Training_002"]
    write_heads(tmp_path / "brats", 0, names)
    for labels, expected in (((1, 2, 3, 4), (1, 2, 3, 4)), ((1, 3, 4), (1, 3, 4))):
        table = find_brats_cases(tmp_path / "brats", CHANNELS, labels)
        prepare_cohort(table, CHANNELS, tmp_path / "cases")
        for name in names:
            source = np.asarray(nib.load(tmp_path / f"brats/{name}/{name}_seg.nii.gz").dataobj)
            mask = np.asarray(nib.load(tmp_path / f"cases/{name}_mask.nii.gz").dataobj)
            assert np.array_equal(mask, np.isin(source, expected))
            assert nib.load(tmp_path / f"cases/{name}_image.nii.gz").shape == (*source.shape, 4)


# Roles


def test_roles_of_patch_ddm_are_those_of_its_code() -> None:
    """The first numbers of each part were printed by the released code."""
    roles = patch_ddm_roles()
    assert sorted(roles) == list(range(1, 370))
    by_role = {role: [number for number in sorted(roles) if roles[number] == role] for role in ("train", "validation", "test")}
    assert [len(numbers) for numbers in by_role.values()] == [295, 37, 37]
    assert by_role["validation"][:3] == [29, 32, 33]
    assert by_role["test"][:3] == [10, 26, 40]


def test_find_brats_cases_assigns_roles_of_patch_ddm(tmp_path: Path) -> None:
    for number in range(1, 370):
        add_case(tmp_path, f"BraTS20_Training_{number:03d}", names=("flair", "seg"))
    settings = {"layout": "brats", "folder": str(tmp_path), "channels": ["FLAIR"], "roles": "patch_ddm"}
    roles = find_cases("datasets.brats", settings).set_index("case")["role"]
    assert roles["BraTS20_Training_029"] == roles["BraTS20_Training_032"] == "validation"
    assert roles["BraTS20_Training_010"] == "test"
    assert roles.value_counts().to_dict() == {"train": 295, "validation": 37, "test": 37}


def test_roles_of_patch_ddm_need_all_cases_of_2020(brats: Path) -> None:
    with pytest.raises(
        CohortError, match=r"367 of them are missing, the first is 002 and 2 others are there, such as BraTS2021"
    ):
        find_brats_cases(brats, CHANNELS, roles="patch_ddm", key="datasets.brats")


# Check


@pytest.mark.workflow  # checks six cases of four channels twice
def test_check_recognises_brats_and_reports_a_damaged_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = [f"BraTS20_Training_{number:03d}" for number in range(1, 7)]
    folder = tmp_path / "brats"
    write_heads(folder, 1, names)
    arguments = ["check", str(folder), "--results", str(tmp_path / "results"), "--processes", "1"]
    assert main(arguments) == 0
    text = capsys.readouterr().out
    assert f"{folder}: BraTS" in text
    assert "channels FLAIR, T1, T1ce, T2" in text
    damaged = folder / names[0] / f"{names[0]}_t1ce.nii.gz"
    damaged.write_bytes(damaged.read_bytes()[:2000])
    assert main(arguments) == 1
    assert damaged.name in capsys.readouterr().out
