"""Cases of BIDS datasets: sessions, channels, masks and sites by names, and what is wrong with them in one go. About 1 s."""

import re
from pathlib import Path

import pytest

from pd_ddpm.data.cases.bids import bids_files, find_bids_cases, participants_problems
from pd_ddpm.data.cases.find import find_cases
from pd_ddpm.data.cases.table import CohortError, table_columns

CHANNELS = ("FLAIR", "T1")
SESSIONS = ("sub-01", "sub-02/ses-a", "sub-02/ses-b")


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    return path


def prefix(session: str) -> str:
    return session.replace("/", "_")


@pytest.fixture
def bids(tmp_path: Path) -> Path:
    """Two subjects, one with two sessions; uncompressed images of the first; a mask of each session."""
    folder = tmp_path / "bids"
    touch(folder / "dataset_description.json")
    for session in SESSIONS:
        ending = "nii" if session == "sub-01" else "nii.gz"
        for suffix in ("FLAIR", "T1w", "T2w"):
            touch(folder / session / "anat" / f"{prefix(session)}_{suffix}.{ending}")
        touch(folder / session / "anat" / f"{prefix(session)}_FLAIR.json")
        touch(folder / session / "anat" / f"._{prefix(session)}_FLAIR.nii.gz")
        touch(folder / "derivatives/manual" / session / "anat" / f"{prefix(session)}_label-WMH_mask.nii.gz")
    touch(folder / "sub-02/ses-c/func/sub-02_ses-c_bold.nii.gz")
    (folder / "participants.tsv").write_text("participant_id\tage\tsite\nsub-02\t70\t Leiden \nsub-01\t61\tn/a\n", "utf-8-sig")
    return folder


def problems(*arguments: object, **named: object) -> list[str]:
    with pytest.raises(CohortError) as caught:
        find_bids_cases(*arguments, **named)
    return [str(problem) for problem in caught.value.problems]


def test_find_bids_cases_makes_a_case_per_session(bids: Path) -> None:
    table = find_bids_cases(bids, CHANNELS)
    assert list(table.columns) == table_columns(CHANNELS)
    assert table["case"].tolist() == ["sub-01", "sub-02_ses-a", "sub-02_ses-b"]
    assert table["patient"].tolist() == ["sub-01", "sub-02", "sub-02"]
    assert table["site"].tolist() == ["unknown", "Leiden", "Leiden"]
    assert table["FLAIR"].tolist()[:2] == [
        str(bids / "sub-01/anat/sub-01_FLAIR.nii"),
        str(bids / "sub-02/ses-a/anat/sub-02_ses-a_FLAIR.nii.gz"),
    ]
    assert table["T1"][2] == str(bids / "sub-02/ses-b/anat/sub-02_ses-b_T1w.nii.gz")
    mask = bids / "derivatives/manual/sub-02/ses-b/anat/sub-02_ses-b_label-WMH_mask.nii.gz"
    assert table["mask"][2] == str(mask)
    assert (table[["role", "T1_transform", "observer_2"]] == "").all(axis=None)
    assert find_bids_cases(bids, ["T2w"])["T2w"][0].endswith("sub-01_T2w.nii")
    (bids / "participants.tsv").write_text("participant_id\tscanner\nsub-01\tA\n")
    assert set(find_bids_cases(bids, CHANNELS)["site"]) == {"unknown"}


def test_find_cases_uses_the_layout_of_the_dataset(bids: Path) -> None:
    settings = {"layout": "bids", "folder": str(bids), "channels": ["FLAIR"], "masks": "manual/**/*_mask.nii.gz"}
    assert find_cases("datasets.own", settings)["case"].tolist() == ["sub-01", "sub-02_ses-a", "sub-02_ses-b"]
    # Every image may be a candidate, so that each is listed; sidecars and AppleDouble files are not.
    assert len(bids_files(bids)) == 3 * 3 + 3


def test_find_bids_cases_accepts_dseg_but_not_brain_masks(bids: Path) -> None:
    anat = bids / "derivatives/manual/sub-01/anat"
    (anat / "sub-01_label-WMH_mask.nii.gz").rename(anat / "sub-01_dseg.nii")
    touch(bids / "derivatives/fmriprep/sub-01/anat/sub-01_desc-brain_mask.nii.gz")
    touch(anat / "sub-01_probseg.nii.gz")
    assert find_bids_cases(bids, CHANNELS)["mask"][0] == str(anat / "sub-01_dseg.nii")


def test_find_bids_cases_needs_masks_key_for_several_masks(bids: Path) -> None:
    other = touch(bids / "derivatives/lst/sub-02/ses-a/anat/sub-02_ses-a_desc-lpa_mask.nii.gz")
    (problem,) = problems(bids, CHANNELS, key="datasets.own")
    assert problem.startswith(
        "sub-02_ses-a: 2 files could be its mask: derivatives/lst/sub-02/ses-a/anat/sub-02_ses-a_desc-lpa_"
    )
    assert (
        "derivatives/manual/sub-02/ses-a/anat/sub-02_ses-a_label-WMH_mask.nii.gz. Choose one with `datasets.own.masks`"
        in problem
    )
    # The remedy chooses one of them, also if the key already is a glob.
    assert problem.endswith("a glob below derivatives/, such as lst/**/*_desc-lpa_mask.nii.gz.")
    twin = touch(bids / "derivatives/manual/sub-01/anat/sub-01_label-WMH_desc-b_mask.nii.gz")
    (problem,) = problems(bids, CHANNELS, "manual/**/*label-WMH*_mask.nii.gz")
    assert problem.endswith("such as manual/**/*_label-WMH_desc-b_mask.nii.gz.")
    twin.unlink()
    assert "manual" in find_bids_cases(bids, CHANNELS, "manual/**/*label-WMH*_mask.nii.gz")["mask"][1]
    # The key may name masks of any suffix and depth.
    other.rename(touch(bids / "derivatives/lst/v2/sub-02/ses-a/anat/sub-02_ses-a_lesions.nii.gz"))
    lacking = problems(bids, CHANNELS, "lst/**/*_lesions.nii.gz")
    assert [text.partition(":")[0] for text in lacking] == ["sub-01", "sub-02_ses-b"]
    with pytest.raises(ValueError, match=r"own\.masks: .*derivatives: nothing there matches nowhere/\*"):
        find_bids_cases(bids, CHANNELS, "nowhere/*", key="own")


def test_find_bids_cases_needs_images_key_for_several_images(bids: Path) -> None:
    first = bids / "sub-01/anat/sub-01_FLAIR.nii"
    first.rename(first.with_name("sub-01_acq-3D_FLAIR.nii"))
    touch(first.with_name("sub-01_acq-2D_run-1_FLAIR.nii.gz"))
    touch(bids / "sub-02/ses-b/anat/sub-02_ses-b_T1.nii.gz")
    found = problems(bids, CHANNELS, key="datasets.own")
    assert len(found) == 2
    assert "2 files could be its FLAIR: sub-01/anat/sub-01_acq-2D_run-1_FLAIR.nii.gz, sub-01/anat/sub-01_acq-3D_F" in found[0]
    assert "Choose one with `datasets.own.images`, such as {FLAIR: '*_acq-2D_run-1_FLAIR.nii.gz'}" in found[0]
    assert found[1].startswith("sub-02_ses-b: 2 files could be its T1: ")
    # What a key names must be there in every session: nobody's 2D scan is taken among 3D ones.
    only = problems(bids, ["FLAIR"], images={"FLAIR": "*acq-3D*"})
    assert [text.partition(". ")[0] for text in only] == [
        f"{name}: there is no FLAIR with the name *acq-3D*" for name in ("sub-02_ses-a", "sub-02_ses-b")
    ]
    chosen = find_bids_cases(bids, CHANNELS, images={"FLAIR": "*[!1]_FLAIR*", "T1": "*_T1w.*"})
    assert chosen["FLAIR"][0].endswith("acq-3D_FLAIR.nii")
    assert chosen["T1"][2].endswith("ses-b_T1w.nii.gz")


def test_find_bids_cases_lists_everything_that_is_missing(bids: Path) -> None:
    (bids / "sub-01/anat/sub-01_T1w.nii").unlink()
    flair = bids / "sub-02/ses-a/anat/sub-02_ses-a_FLAIR.nii.gz"
    flair.unlink()
    flair.symlink_to(bids / ".git/annex/objects/absent")
    for session in SESSIONS[:2]:
        next((bids / "derivatives/manual" / session / "anat").iterdir()).unlink()
    touch(bids / "sub-x y/anat/sub-x y_FLAIR.nii.gz")
    with pytest.raises(CohortError, match=r"^datasets\.own\.folder: .*bids: 7 problem\(s\)") as caught:
        find_bids_cases(bids, CHANNELS, key="datasets.own")
    for text in (
        "sub-01: there is no T1. Add it to sub-01/anat, or list the cases that you want in a csv (layout: table).",
        "sub-01: there is no mask. Add it below derivatives/",
        f"sub-02_ses-a, {flair}: its content has not been fetched (a link of git-annex). Run `datalad get {flair}`",
        "sub-02_ses-a: there is no mask",
        "the case name 'sub-x y' is not safe in file names",
        "sub-x y: there is no T1",
        "sub-x y: there is no mask",
    ):
        assert text in str(caught.value), text
    assert caught.value.table.set_index("case").loc["sub-02_ses-b", "mask"].endswith("_mask.nii.gz")
    assert caught.value.table["FLAIR"][1] == ""


def test_find_bids_cases_refuses_other_folders(bids: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"k\.folder: .*absent: the folder does not exist"):
        find_bids_cases(tmp_path / "absent", CHANNELS, key="k")
    with pytest.raises(ValueError, match=r"no sub-\*/anat or sub-\*/ses-\*/anat in it"):
        find_bids_cases(bids / "derivatives", CHANNELS)
    for mask in bids.glob("derivatives/**/*.nii.gz"):
        mask.unlink()
    with pytest.raises(
        ValueError, match=r"k\.masks: .*derivatives: nothing there matches \*_mask\.nii\.gz or \*_dseg\.nii\.gz"
    ):
        find_bids_cases(bids, CHANNELS, key="k")
    (bids / "participants.tsv").write_bytes("sub-01\tsite\nZürich\t1\n".encode("cp1252"))
    touch(bids / "derivatives/m/sub-01/anat/sub-01_mask.nii.gz")
    with pytest.raises(ValueError, match=r"participants\.tsv: cannot be read as text"):
        find_bids_cases(bids, CHANNELS)


@pytest.mark.parametrize(
    ("content", "problem", "remedy"),
    [
        ("participant_id\tsite\nsub-01\tA\nsub-02\tn/a\n", None, None),
        ("participant_id\tage\nsub-01\t61\n", None, None),
        ("participant_id\tsite\n01\tA\n02\tB\n", "no row for sub-01, sub-02, .*are: 01, 02\\)", "such as sub-01"),
        ("participant_id\tsite\nsub-1\tA\nsub-02\tB\n", "no row for sub-01, whose site is unknown", "such as sub-01"),
        ("participant_id\tsite\n", "no row for sub-01, sub-02, .*are: none\\)", "such as sub-01"),
        ("participant_id\tSite\nsub-01\tA\n", "no column `site`.*columns are: participant_id, Site", "Rename 'Site' to 'site'"),
        ("participant_id\tcenter\nsub-01\tA\n", "no column `site`", "Rename 'center' to 'site'"),
        ("participant_id\tsite_id\nsub-01\tA\n", "no column `site`", "Rename 'site_id' to 'site'"),
        ("id\tsite\nsub-01\tA\n", "no column `participant_id`", "holds the names of the sub-\\*"),
        ("participant_id,site\nsub-01,A\n", "not separated by tabs", "Save it with tabs"),
        ("participant_id;site\nsub-01;A\n", "not separated by tabs", "Save it with tabs"),
    ],
)
def test_participants_problems_names_ids_or_the_column_that_was_looked_for(bids, content, problem, remedy) -> None:
    (bids / "participants.tsv").write_text(content)
    found = participants_problems(bids)
    if problem is None:
        assert found == []
        return
    assert re.search(problem, found[0].problem), found
    assert re.search(remedy, found[0].remedy), found
    assert set(find_bids_cases(bids, CHANNELS)["site"]) <= {"unknown", "B"}


@pytest.mark.parametrize("value", ["NA", "n/a", "nan"])
def test_find_bids_cases_reads_missing_sites_as_unknown(bids: Path, value: str) -> None:
    (bids / "participants.tsv").write_text(f"participant_id\tsite\nsub-01\t{value}\nsub-02\tB\n")
    assert find_bids_cases(bids, CHANNELS)["site"].tolist() == ["unknown", "B", "B"]
    assert participants_problems(bids) == []


def test_find_bids_cases_reads_endings_in_capitals(bids: Path) -> None:
    flair = bids / "sub-02/ses-a/anat/sub-02_ses-a_FLAIR.nii.gz"
    flair.rename(flair.with_name("sub-02_ses-a_FLAIR.NII.GZ"))
    assert find_bids_cases(bids, CHANNELS)["FLAIR"][1].endswith("FLAIR.NII.GZ")
    assert any(path.endswith("FLAIR.NII.GZ") for path in bids_files(bids))
