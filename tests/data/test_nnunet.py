"""Cases of nnU-Net raw datasets, as its versions 2 and 1 describe them, and what does not fit. About 1 s."""

import json
from pathlib import Path
from typing import Any

import pytest

from pd_ddpm.data.cases.find import case_files, find_cases, tables_of_cases
from pd_ddpm.data.cases.nnunet import find_nnunet_cases, nnunet_channels
from pd_ddpm.data.cases.table import CohortError, table_columns

VERSION_2 = {
    "channel_names": {"0": "T1w", "1": "flair"},
    "labels": {"background": 0, "WMH": 1, "ignore": 2},
    "numTraining": 2,
    "file_ending": ".nii.gz",
}


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    return path


def describe(folder: Path, **changes: Any) -> None:
    content = {key: value for key, value in (VERSION_2 | changes).items() if value is not None}
    (folder / "dataset.json").write_text(json.dumps(content), encoding="utf-8")


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    folder = tmp_path / "Dataset001_WMH"
    for case in ("WMH_001", "WMH_002"):
        for number in range(2):
            touch(folder / "imagesTr" / f"{case}_{number:04d}.nii.gz")
        touch(folder / "labelsTr" / f"{case}.nii.gz")
    touch(folder / "imagesTs/WMH_900_0000.nii.gz")
    touch(folder / "labelsTr/._WMH_001.nii.gz")  # what macOS leaves behind
    describe(folder)
    return folder


def test_find_nnunet_cases_finds_channels_by_name(raw: Path) -> None:
    table = find_nnunet_cases(raw, ["FLAIR", "T1"])
    assert list(table.columns) == table_columns(["FLAIR", "T1"])
    assert table["case"].tolist() == ["WMH_001", "WMH_002"]
    assert table["FLAIR"].tolist() == [str(raw / f"imagesTr/WMH_00{number}_0001.nii.gz") for number in (1, 2)]
    assert table["T1"][0] == str(raw / "imagesTr/WMH_001_0000.nii.gz")
    assert table["mask"][1] == str(raw / "labelsTr/WMH_002.nii.gz")
    assert set(table["site"]) == {"unknown"}
    assert (table[["patient", "role", "T1_transform"]] == "").all(axis=None)
    settings = {"layout": "nnunet", "folder": str(raw), "channels": ["flair"]}
    assert find_cases("datasets.own", settings)["flair"].tolist() == table["FLAIR"].tolist()
    assert len(case_files(settings)) == 7  # without imagesTs
    assert tables_of_cases(settings) == [str(raw / "dataset.json")]


def test_find_nnunet_cases_reads_descriptions_of_version_1(raw: Path) -> None:
    describe(
        raw,
        channel_names=None,
        file_ending=None,
        modality={"0": "T1", "1": "FLAIR"},
        labels={"0": "background", "1": "wmh"},
    )
    assert find_nnunet_cases(raw, ["T1w"])["T1w"][0].endswith("WMH_001_0000.nii.gz")


def test_find_nnunet_cases_accepts_uncompressed_files(raw: Path) -> None:
    for path in raw.rglob("*.nii.gz"):
        path.rename(path.with_name(path.name.removesuffix(".gz")))
    describe(raw, file_ending=".nii")
    assert find_nnunet_cases(raw, ["FLAIR"])["mask"][0].endswith("WMH_001.nii")


def test_nnunet_channels_returns_all_channel_names(raw: Path) -> None:
    describe(raw, channel_names={"1": "T1 (Gd)", "0": "FLAIR"})
    assert nnunet_channels(raw) == ["FLAIR", "T1Gd"]
    assert find_nnunet_cases(raw, ["FLAIR", "T1Gd"])["T1Gd"][0].endswith("_0001.nii.gz")


def test_all_missing_files_are_listed(raw: Path) -> None:
    (raw / "imagesTr/WMH_001_0001.nii.gz").unlink()
    (raw / "imagesTr/WMH_002_0000.nii.gz").unlink()
    (raw / "labelsTr/WMH_002.nii.gz").unlink()
    touch(raw / "imagesTr/a b_0000.nii.gz")
    with pytest.raises(CohortError, match=r"^datasets\.own\.folder: .*Dataset001_WMH: 5 problem\(s\)") as caught:
        find_nnunet_cases(raw, ["FLAIR"], key="datasets.own")
    names = [problem.location.rpartition("/")[2] for problem in caught.value.problems]
    assert names[:1] == ["WMH_001_0001.nii.gz"]
    assert names[1:2] == ["WMH_002.nii.gz"]
    assert "the case name 'a b' is not safe in file names" in caught.value.problems[2].problem
    assert names[3:] == ["a b_0001.nii.gz", "a b.nii.gz"]
    assert caught.value.table["mask"].tolist() == [str(raw / "labelsTr/WMH_001.nii.gz"), "", ""]


@pytest.mark.parametrize(
    ("changes", "channels", "finding"),
    [
        ({}, ["T2"], r"dataset\.json: no channel is called T2; the channels are T1w, flair\. Enter one of them"),
        ({"channel_names": {"0": "T1", "1": "t1w"}}, ["T1"], "2 channels are called T1"),
        (
            {"labels": {"background": 0, "a": 1, "b": 2, "c": 3}},
            ["FLAIR"],
            r"\"c\": 3.*but 0 must be background.*Recode the files",
        ),
        ({"labels": {"background": 0, "lesion": 2}}, ["FLAIR"], "Recode the files of labelsTr"),
        ({"labels": {"lesion": 0, "background": 1}}, ["FLAIR"], "but 0 must be background"),
        ({"labels": {"background": 0, "whole": [1, 2], "core": 2}}, ["FLAIR"], "Recode the files of labelsTr"),
        ({"labels": {"0": "background", "1": "a", "5": "b"}}, ["FLAIR"], "Recode the files of labelsTr"),
        (
            {"labels": {"background": 0, "ventricles": 1, "WMH": 2}},
            ["FLAIR"],
            "label 1 must be .* 'ventricles' is not a lesion",
        ),
        ({"labels": {"background": 0, "brain": 1}}, ["FLAIR"], "label 1 must be the lesion, and 'brain' is"),
        ({"labels": {"background": 0, "ignore": 1, "WMH": 2}}, ["FLAIR"], "label 1 must be the lesion, and 'ignore' is"),
        ({"labels": {"background": 0, "periventricular": 1, "deep": 2}}, ["FLAIR"], "label 2 is left out .* 'deep' does not"),
        ({"labels": {"background": 0, "lesion_area1": 1, "lesion_area2": 2}}, ["FLAIR"], "'lesion_area2' does not name"),
        ({"labels": {"0": "background", "1": "WMH", "2": "infarct"}}, ["FLAIR"], "'infarct' does not name.*Recode the files"),
        ({"labels": None}, ["FLAIR"], r"cannot be read as nnU-Net's description \(KeyError: 'labels'\)"),
        ({"channel_names": ["FLAIR"]}, ["FLAIR"], "cannot be read as nnU-Net's description"),
        ({"channel_names": None}, ["FLAIR"], r"KeyError: 'modality'"),
        ({"file_ending": ".png"}, ["FLAIR"], r"file_ending is '\.png'\. Convert the images to NIfTI"),
        ({"file_ending": ".nii"}, ["FLAIR"], r"own\.folder: .*there is no \*\.nii in its imagesTr and labelsTr"),
    ],
)
def test_find_nnunet_cases_refuses_an_unsuitable_description(
    raw: Path, changes: dict, channels: list[str], finding: str
) -> None:
    describe(raw, **changes)
    with pytest.raises(ValueError, match=finding):
        find_nnunet_cases(raw, channels, key="datasets.own")


@pytest.mark.parametrize(
    "labels",
    [
        {"background": 0, "lesion": 1, "Other pathology": 2},
        {"background": 0, "white matter hyperintensities": 1, "non-WMH": 2},
        {"background": 0, "periventricular": 1},
        {"background": 0, "1": 1},
        {"0": "background", "1": "brain lesion", "2": "exclude"},
    ],
)
def test_find_nnunet_cases_accepts_lesions_and_what_is_left_out_by_name(raw: Path, labels: dict) -> None:
    describe(raw, labels=labels)
    assert len(find_nnunet_cases(raw, ["FLAIR"])) == 2


def test_find_nnunet_cases_refuses_other_folders(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"own\.folder: .*there is no dataset\.json in it\. Set it to a raw dataset of nnU-Net"
    ):
        find_nnunet_cases(tmp_path, ["FLAIR"], key="datasets.own")
    with pytest.raises(ValueError, match="the folder does not exist"):
        find_nnunet_cases(tmp_path / "absent", ["FLAIR"])
    (tmp_path / "dataset.json").write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match=r"dataset\.json: cannot be read as nnU-Net's description \(JSONDecodeError"):
        find_nnunet_cases(tmp_path, ["FLAIR"])


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_find_nnunet_cases_reads_a_description_with_a_byte_order_mark(raw: Path, encoding: str) -> None:
    text = (raw / "dataset.json").read_text(encoding="utf-8")
    (raw / "dataset.json").write_text(text, encoding=encoding)
    assert len(find_nnunet_cases(raw, ["FLAIR"])) == 2


def test_find_nnunet_cases_names_labels_with_the_number_of_a_channel(raw: Path) -> None:
    for name in ("WMH_001", "WMH_002"):
        (raw / f"labelsTr/{name}.nii.gz").rename(raw / f"labelsTr/{name}_0000.nii.gz")
    with pytest.raises(CohortError) as caught:
        find_nnunet_cases(raw, ["FLAIR", "T1"])
    assert [str(problem) for problem in caught.value.problems] == [
        f"{raw}/labelsTr/{name}_0000.nii.gz: a label has no number of a channel. Rename it to {name}.nii.gz."
        for name in ("WMH_001", "WMH_002")
    ]


def test_find_nnunet_cases_says_how_to_fetch_dangling_links(raw: Path) -> None:
    image = raw / "imagesTr/WMH_001_0001.nii.gz"
    image.unlink()
    image.symlink_to("../.git/annex/objects/aa/bb/MD5E-s1--0.nii.gz/MD5E-s1--0.nii.gz")
    with pytest.raises(CohortError, match=r"its content has not been fetched .* Run `datalad get .*WMH_001_0001"):
        find_nnunet_cases(raw, ["FLAIR", "T1"])
    (raw / "dataset.json").write_text("/annex/objects/MD5E-s1--0.json\n")
    with pytest.raises(CohortError, match=r"dataset\.json: is a pointer of git-annex"):
        find_nnunet_cases(raw, ["FLAIR", "T1"])
