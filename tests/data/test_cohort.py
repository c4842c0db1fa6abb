"""Tables of cases: the WMH challenge's folders and a user's csv, checked in one go. About 1 s."""

import shutil
from pathlib import Path

import pandas as pd
import pytest

from pd_ddpm.data.cases.csv_table import channels_of_table, missing_sites, read_case_table
from pd_ddpm.data.cases.find import case_files, find_cases
from pd_ddpm.data.cases.table import OBSERVERS, CohortError, clean_name, read_table, table_columns, write_table
from pd_ddpm.data.cases.wmh import find_wmh_cases, image_versions

CHANNELS = ("FLAIR", "T1")
T1_VERSIONS = ("pre/3DT1.nii.gz", "pre/T1.nii.gz", "orig/3DT1.nii.gz")
PLACES = ("Utrecht/0", "Utrecht/19", "Utrecht/2", "Singapore/50", "Amsterdam/GE3T/100")


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    return path


@pytest.fixture
def challenge(tmp_path):
    folder = tmp_path / "wmh data"
    for place in (*(f"training/{place}" for place in PLACES), "test/Utrecht/3", "test/Amsterdam/Philips_VU .PETMR_01./160"):
        for file in (*T1_VERSIONS, "pre/FLAIR.nii.gz", "orig/reg_3DT1_to_FLAIR.txt", "wmh.nii.gz"):
            touch(folder / place / file)
    touch(folder / "additional_annotations/observer_o3/training/Amsterdam/GE3T/100/result.nii.gz")
    touch(folder / "additional_annotations/observer_o4/training/Utrecht/0/result.nii.gz")
    touch(folder / "additional_annotations/observer_o4/test/Utrecht/3/result.nii.gz")
    return folder


def test_find_wmh_cases_finds_training_cases_at_any_depth(challenge):
    table = find_wmh_cases(challenge)
    assert list(table.columns) == table_columns(CHANNELS)
    assert list(table["case"]) == ["GE3T-100", "Singapore-50", "Utrecht-0", "Utrecht-2", "Utrecht-19"]
    assert list(table["site"]) == ["GE3T", "Singapore", "Utrecht", "Utrecht", "Utrecht"]
    first = table.iloc[0]
    source = challenge / "training/Amsterdam/GE3T/100"
    assert first["FLAIR"] == str(source / "pre/FLAIR.nii.gz")
    assert first["T1"] == str(source / "pre/3DT1.nii.gz")
    assert first["T1_transform"] == str(source / "orig/reg_3DT1_to_FLAIR.txt")
    assert first["FLAIR_transform"] == first["role"] == ""
    assert first["mask"] == str(source / "wmh.nii.gz")
    assert first["observer_2"].endswith("observer_o3/training/Amsterdam/GE3T/100/result.nii.gz")
    assert list(table["observer_2"][1:]) == [""] * 4
    assert list(table["observer_3"] != "") == [False, False, True, False, False]
    assert table["observer_3"][2].endswith("observer_o4/training/Utrecht/0/result.nii.gz")
    assert table["fold"].isna().all()


def test_find_wmh_cases_finds_held_out_cases_on_request_only(challenge):
    (challenge / "test/Amsterdam/Philips_VU .PETMR_01./160/pre/3DT1.nii.gz").unlink()
    table = find_wmh_cases(challenge, part="held_out")
    assert list(table["case"]) == ["Philips_VU_.PETMR_01-160", "Utrecht-3"]
    assert list(table["site"]) == ["Philips_VU_.PETMR_01", "Utrecht"]
    assert table["mask"][0] == str(challenge / "test/Amsterdam/Philips_VU .PETMR_01./160/wmh.nii.gz")
    assert table["T1"][0] == str(challenge / "test/Amsterdam/Philips_VU .PETMR_01./160/pre/T1.nii.gz")
    assert table["T1_transform"][1] == str(challenge / "test/Utrecht/3/orig/reg_3DT1_to_FLAIR.txt")
    assert list(table["observer_2"]) == ["", ""]
    assert table["observer_3"][1].endswith("additional_annotations/observer_o4/test/Utrecht/3/result.nii.gz")
    settings = {"layout": "wmh_challenge", "folder": str(challenge), "channels": ["FLAIR"], "part": "held_out"}
    assert case_files(settings) == sorted(table["mask"])
    assert list(find_cases("datasets.own", settings)["case"]) == list(table["case"])
    shutil.rmtree(challenge / "test")
    with pytest.raises(ValueError, match=r"no wmh\.nii\.gz lies below its test/\. .*unpack `test/`"):
        find_wmh_cases(challenge, part="held_out")


@pytest.mark.parametrize(
    ("missing", "image"),
    [
        ([], "pre/3DT1.nii.gz"),
        (["orig/3DT1.nii.gz", "pre/T1.nii.gz"], "pre/3DT1.nii.gz"),
        (["pre/3DT1.nii.gz"], "pre/T1.nii.gz"),
        (["orig/reg_3DT1_to_FLAIR.txt"], "pre/T1.nii.gz"),
        (["pre/3DT1.nii.gz", "pre/T1.nii.gz"], "orig/3DT1.nii.gz"),
    ],
)
def test_find_wmh_cases_takes_the_first_available_t1(challenge, missing, image):
    """The bias-corrected 3D scan, the resampled one, the 3D scan as acquired."""
    source = challenge / "training/Utrecht/2"
    for file in missing:
        (source / file).unlink()
    table = find_wmh_cases(challenge)
    row = table.set_index("case").loc["Utrecht-2"]
    transform = "" if image == "pre/T1.nii.gz" else str(source / "orig/reg_3DT1_to_FLAIR.txt")
    assert (row["T1"], row["T1_transform"]) == (str(source / image), transform)
    t1 = {"pre/3DT1.nii.gz": 5} if image == "pre/3DT1.nii.gz" else {"pre/3DT1.nii.gz": 4, image: 1}
    assert image_versions(table, CHANNELS) == {"FLAIR": {"pre/FLAIR.nii.gz": 5}, "T1": t1}


def test_image_versions_names_no_files_of_other_data(challenge):
    table = find_wmh_cases(challenge).replace("/pre/FLAIR", "/pre/p17_FLAIR", regex=True)
    assert image_versions(table, CHANNELS) == {"T1": {"pre/3DT1.nii.gz": 5}}


def test_all_missing_files_are_listed(challenge):
    for path in ("Utrecht/0/pre/FLAIR.nii.gz", *(f"Utrecht/2/{image}" for image in T1_VERSIONS)):
        (challenge / "training" / path).unlink()
    with pytest.raises(ValueError, match=r"my\.key: .*2 problem\(s\)") as caught:
        find_wmh_cases(challenge, key="my.key")
    assert "Utrecht/0/pre/FLAIR.nii.gz: the file does not exist" in str(caught.value)
    assert "Utrecht/2/pre/T1.nii.gz: the file does not exist" in str(caught.value)


def test_find_wmh_cases_refuses_unknown_channels(challenge):
    assert list(find_wmh_cases(challenge, ["FLAIR"]).columns) == table_columns(["FLAIR"])
    with pytest.raises(ValueError, match="has the channels FLAIR and T1, not T2"):
        find_wmh_cases(challenge, ["FLAIR", "T2"])


def test_find_wmh_cases_explains_how_to_get_missing_data(tmp_path):
    with pytest.raises(ValueError, match=r"^dataset\.folder: .*nowhere: the folder does not exist") as caught:
        find_wmh_cases(tmp_path / "nowhere")
    for word in ("doi:10.34894/AECRSD", "CC BY-NC 4.0", "`training/`", "`additional_annotations/`"):
        assert word in str(caught.value)
    touch(tmp_path / "test/Utrecht/3/wmh.nii.gz")
    with pytest.raises(ValueError, match=r"k: .*no wmh\.nii\.gz lies below its training/.*AECRSD"):
        find_wmh_cases(tmp_path, key="k")


@pytest.mark.parametrize(
    ("name", "cleaned"),
    [("Philips_VU .PETMR_01.", "Philips_VU_.PETMR_01"), ("GE3T", "GE3T"), ("sub-01", "sub-01"), ("Zürich / 3", "Z_rich_3")],
)
def test_clean_name(name, cleaned):
    assert clean_name(name) == cleaned


def write_csv(folder: Path, text: str, encoding: str = "utf-8") -> Path:
    for name in ("f1", "f2", "f3", "t1", "t2", "t3", "m1", "m2", "m3", "o1"):
        touch(folder / "scans" / f"{name}.nii.gz")
    touch(folder / "scans/t1.tfm")
    path = folder / "cases.csv"
    path.write_text(text.replace("@", "scans/"), encoding=encoding)
    return path


def test_read_case_table_reads_all_columns(tmp_path):
    path = write_csv(
        tmp_path,
        "case,age,site,FLAIR,T1,mask,T1_transform,observer_2,fold,patient,observer_3\n"
        "a,71, X ,@f1.nii.gz,@t1.nii.gz,@m1.nii.gz,@t1.tfm,@o1.nii.gz,0,7 b,@o1.nii.gz\n"
        f"NA,64,,{tmp_path}/scans/f2.nii.gz,@t2.nii.gz,@m2.nii.gz,,,1,,\n",
        "utf-8-sig",
    )
    table = read_case_table(path, CHANNELS)
    assert list(table.columns) == table_columns(CHANNELS)
    assert list(table["case"]) == ["a", "NA"]
    assert list(table["site"]) == ["X", "unknown"]
    assert list(table["fold"]) == [0, 1]
    assert list(table["patient"]) == ["7 b", ""]
    assert list(table["FLAIR"]) == [str(tmp_path / f"scans/f{k}.nii.gz") for k in (1, 2)]
    assert list(table["T1_transform"]) == [str(tmp_path / "scans/t1.tfm"), ""]
    for observer in OBSERVERS:
        assert list(table[observer]) == [str(tmp_path / "scans/o1.nii.gz"), ""]
    moved = tmp_path / "elsewhere.csv"
    moved.write_text(path.read_text(encoding="utf-8-sig").replace("scans/", "", 1), encoding="utf-8")
    with pytest.raises(ValueError, match=r"elsewhere\.csv: .*problem"):
        read_case_table(moved, CHANNELS, folder=tmp_path)


def test_read_case_table_resolves_paths_from_the_given_folder(tmp_path):
    write_csv(tmp_path / "data", "")
    (tmp_path / "cases.csv").write_text("case,site,FLAIR,mask\na,X,scans/f1.nii.gz,scans/m1.nii.gz\n")
    table = read_case_table(tmp_path / "cases.csv", ["FLAIR"], folder=tmp_path / "data")
    assert table["mask"][0] == str(tmp_path / "data/scans/m1.nii.gz")


def test_read_case_table_lists_all_problems_with_their_lines(tmp_path):
    path = write_csv(
        tmp_path,
        "case,site,FLAIR,T1,mask,role,fold,FLAIR_transform\n"
        "a,X,@f1.nii.gz,@gone.nii.gz,@m1.nii.gz,train,,\n"
        "\n"
        "b,X,@f2.nii.gz,@t2.nii.gz,@gone.nii.gz,trian\n"
        "a,X,@f3.nii.gz,@t3.nii.gz,@m3.nii.gz,test,2,\n"
        "c d,X,,@t3.nii.gz,@m3.nii.gz,,one,@t1.tfm\n",
    )
    with pytest.raises(ValueError, match=r"cases\.csv: 11 problem\(s\)") as caught:
        read_case_table(path, CHANNELS)
    expected = (
        "line 2, case a, column T1, ",
        "gone.nii.gz: the file does not exist. Correct the path.",
        "line 4, case b, column mask, ",
        "line 4, case b: unknown role 'trian'. Use train",
        "line 5, case a: has both a role and a fold",
        "line 6: the case name 'c d' is not safe in file names",
        "for instance to 'c_d'",
        "line 6, case c d: there is no path in column FLAIR",
        "line 6, case c d: FLAIR defines the grid, so it must have no transform",
        "line 6, case c d: fold 'one' is not a number",
        "case a occurs more than once: line 2, line 5",
        "column role: it is filled in for 3 of 4 cases",
        "column fold: it is filled in for 2 of 4 cases",
    )
    for text in expected:
        assert text in str(caught.value), text


@pytest.mark.parametrize(
    ("header", "finding"),
    [
        ("case,site,Flair,T1,mask", r"column 'FLAIR' is missing\. Rename 'Flair'\."),
        ("case,site,FLAIR,T1,masks", r"column 'mask' is missing, and 'masks' seems to hold the masks\. Rename it to 'mask'"),
        ("case,site,FLAIR,T1,Lesion_Mask", r"column 'mask' is missing, and 'Lesion_Mask' seems to hold the masks"),
        ("case,FLAIR,T1,mask", r"column 'site' is missing\. Add it \(the columns are: case, FLAIR, T1, mask\)"),
        ("case,site,FLAIR,T1,mask,observer2", r"column 'observer2' is not known\. Rename it to 'observer_2'"),
        ("case,site,FLAIR,T1,mask,T1_transfrom", r"column 'T1_transfrom' is not known\. Rename it to 'T1_transform'"),
        ("case,site,FLAIR,T1,mask,mask", "column 'mask' occurs twice"),
        ("case|site|FLAIR|T1|mask", r"first line is a single cell, 'case\|site.*separated by commas, semicolons or tabs"),
        ("case;site;FLAIR;T1;mask", "the table has no cases"),
        ("sep=;\ncase;site;FLAIR;T1;mask", r"its first line is one for Excel \(sep=\)\. Remove"),
        ("case,site,FLAIR,T1,mask", "the table has no cases"),
    ],
)
def test_read_case_table_refuses_wrong_columns(tmp_path, header, finding):
    with pytest.raises(ValueError, match=rf"cases\.csv: [\s\S]*{finding}"):
        read_case_table(write_csv(tmp_path, header + "\n"), CHANNELS)


def test_read_case_table_refuses_files_that_are_not_tables(tmp_path):
    with pytest.raises(ValueError, match="the table of cases does not exist"):
        read_case_table(tmp_path / "absent.csv", CHANNELS)
    for content in (b"", b"case,site\n\xff\xfe\x00,1\n", b"a,b\n1,2,3\n4,5,6,7\n", b"a,b\n1,2,3\n4,5,6\n"):
        (tmp_path / "bad.csv").write_bytes(content)
        with pytest.raises(ValueError, match=r"bad\.csv: "):
            read_case_table(tmp_path / "bad.csv", CHANNELS)


def test_read_table_returns_what_was_written(tmp_path, challenge):
    for table in (find_wmh_cases(challenge), find_wmh_cases(challenge).assign(fold=pd.array([0, 1, 2, 0, 1], "Int64"))):
        write_table(table, tmp_path / "cases.csv")
        pd.testing.assert_frame_equal(read_table(tmp_path / "cases.csv"), table)


@pytest.mark.parametrize("value", ["NA", "n/a", "NaN", "NULL", "None"])
def test_read_case_table_reads_missing_values_of_other_programs_as_empty(tmp_path, value):
    lines = [f"a,{value},@f1.nii.gz,@t1.nii.gz,@m1.nii.gz,{value},{value},{value},{value}"]
    lines += [f"b,X,@f2.nii.gz,@t2.nii.gz,@m2.nii.gz,{value},{value},{value},{value}"]
    header = "case,site,FLAIR,T1,mask,patient,role,fold,T1_transform"
    path = write_csv(tmp_path, "\n".join([header, *lines, ""]))
    table = read_case_table(path, CHANNELS)
    assert table["case"].tolist() == ["a", "b"]
    assert table["site"].tolist() == ["unknown", "X"]
    assert (table[["patient", "role", "T1_transform"]] == "").all(axis=None)
    assert table["fold"].isna().all()
    assert missing_sites(path) == ["a"]
    path.write_text(path.read_text().replace("scans/f1.nii.gz", value))
    with pytest.raises(ValueError, match="line 2, case a: there is no path in column FLAIR"):
        read_case_table(path, CHANNELS)


@pytest.mark.parametrize("site", ["=HYPERLINK(1)", "+1", "-1", "@SUM(1)"])
def test_find_cases_refuses_a_site_that_is_a_formula(tmp_path, site):
    for name in ("flair.nii.gz", "mask.nii.gz"):
        (tmp_path / name).touch()
    (tmp_path / "cases.csv").write_text(f"case,site,FLAIR,mask\np1,{site},flair.nii.gz,mask.nii.gz\n", encoding="utf-8")
    settings = {"layout": "table", "table": tmp_path / "cases.csv", "folder": tmp_path, "channels": ["FLAIR"]}
    with pytest.raises(CohortError, match=r"spreadsheets would execute it as a formula\. Begin the name") as caught:
        find_cases("datasets.own", settings)
    assert caught.value.table["case"].tolist() == ["p1"]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_read_case_table_reads_tables_as_spreadsheets_write_them(tmp_path, separator, encoding):
    path = write_csv(tmp_path, "case,site,FLAIR,T1,mask\na,Zürich,@f1.nii.gz,@t1.nii.gz,@m1.nii.gz\n")
    expected = read_case_table(path, CHANNELS)
    path.write_text(path.read_text(encoding="utf-8").replace(",", separator), encoding=encoding)
    pd.testing.assert_frame_equal(read_case_table(path, CHANNELS), expected)
    assert channels_of_table(path) == list(CHANNELS)


def test_read_case_table_reads_commas_in_a_table_with_semicolons(tmp_path):
    path = write_csv(tmp_path, "case;site;FLAIR;T1;mask\na;Leiden, NL;@f1.nii.gz;@t1.nii.gz;@m1.nii.gz\n")
    assert read_case_table(path, CHANNELS)["site"][0] == "Leiden, NL"


def test_read_case_table_says_how_to_fetch_dangling_links(tmp_path):
    path = write_csv(tmp_path, "case,site,FLAIR,T1,mask\na,X,annexed.nii.gz,moved.nii.gz,@m1.nii.gz\n")
    (tmp_path / "annexed.nii.gz").symlink_to(".git/annex/objects/aa/bb/MD5E-s1--0/MD5E-s1--0")
    (tmp_path / "moved.nii.gz").symlink_to("/elsewhere/t1.nii.gz")
    with pytest.raises(CohortError) as caught:
        read_case_table(path, CHANNELS)
    first, second = map(str, caught.value.problems)
    assert first.startswith(f"line 2, case a, column FLAIR, {tmp_path}/annexed.nii.gz: its content has not been fetched")
    assert f"Run `datalad get {tmp_path}/annexed.nii.gz`" in first
    assert "moved.nii.gz: is a link to a missing file (/elsewhere/t1.nii.gz)" in second


def test_channels_of_table_ignores_the_case_of_endings(tmp_path):
    path = write_csv(tmp_path, "case,site,FLAIR,age,T1,mask\na,X,@f1.NII.GZ,7,@t1.Nii,@m1.nii.gz\n")
    assert channels_of_table(path) == ["FLAIR", "T1"]


@pytest.mark.parametrize(
    ("header", "finding"),
    [
        ("case,site,FLAIR,lesion", r"'lesion' seems to hold the masks\. Rename it to 'mask'"),
        ("case,site,FLAIR 3D,mask", r"column 'FLAIR 3D' holds images, but names of channels have letters and digits only"),
    ],
)
def test_channels_of_table_names_columns_to_rename(tmp_path, header, finding):
    with pytest.raises(CohortError, match=finding):
        channels_of_table(write_csv(tmp_path, f"{header}\na,X,@f1.nii.gz,@m1.nii.gz\n"))
