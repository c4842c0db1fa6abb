"""Files of masks that another program has made: nnU-Net, BIDS, submissions, csv, and their versions (below 1 s)."""

from pathlib import Path

import pytest

from pd_ddpm.config.run import Run
from pd_ddpm.data.cases.mask_files import find_mask_files, read_mask_files, write_mask_files
from pd_ddpm.data.cases.scan_versions import update_scan_versions
from pd_ddpm.data.cases.table import CohortError

RUN = Run("wmh", "nnunet", 1, 0)


def files(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"mask")


@pytest.mark.parametrize(
    ("subfolder", "pattern", "names"),
    [
        # The folders of nnU-Net: one for each fold, whose masks lie next to a json; or cross-validation in one folder.
        ("fold_{split}", "{case}.nii.gz", {"a": "fold_1/a.nii.gz", "b-2": "fold_1/b-2.nii.gz"}),
        ("", "fold_*/validation/{case}.nii.gz", {"a": "fold_0/validation/a.nii.gz", "b-2": "fold_1/validation/b-2.nii.gz"}),
        ("{dataset}", "{case}/result.nii.gz", {"a": "wmh/a/result.nii.gz", "b-2": "wmh/b-2/result.nii.gz"}),
        ("", "{case}_seed-{seed}.nii", {"a": "a_seed-0.nii", "b-2": "b-2_seed-0.nii"}),
        (
            "derivatives/tool",
            "**/{case}_*_mask.nii.gz",
            {
                "sub-1_ses-1": "derivatives/tool/sub-1/ses-1/anat/sub-1_ses-1_space-orig_label-WMH_mask.nii.gz",
                "sub-1_ses-11": "derivatives/tool/sub-1/ses-11/anat/sub-1_ses-11_space-orig_label-WMH_mask.nii.gz",
            },
        ),
    ],
)
def test_find_mask_files_fills_in_case_and_run(tmp_path: Path, subfolder: str, pattern: str, names: dict[str, str]) -> None:
    files(tmp_path, *names.values(), "fold_1/summary.json", "fold_0/c.nii.gz")
    settings = {"folder": f"{tmp_path}/{subfolder}", "pattern": pattern}
    assert find_mask_files(settings, RUN, list(names)) == {case: tmp_path / name for case, name in names.items()}


def test_find_mask_files_reads_a_csv(tmp_path: Path) -> None:
    files(tmp_path, "masks/x.nii.gz", "masks/y.nii.gz")
    (tmp_path / "split-1.csv").write_text(f"case;file\na;masks/x.nii.gz\nb;{tmp_path}/masks/y.nii.gz\n", encoding="utf-8")
    found = find_mask_files({"table": f"{tmp_path}/split-{{split}}.csv"}, RUN, ["b", "a"])
    assert found == {"b": tmp_path / "masks/y.nii.gz", "a": tmp_path / "masks/x.nii.gz"}


def test_find_mask_files_names_all_missing_cases_in_one_error(tmp_path: Path) -> None:
    files(tmp_path, "b.nii.gz")
    settings = {"folder": str(tmp_path), "pattern": "{case}.nii.gz"}
    with pytest.raises(CohortError) as caught:
        find_mask_files(settings, RUN, ["a", "b", "c", "d"])
    assert len(caught.value.problems) == 1
    assert f"`methods.nnunet.pattern`: {tmp_path}/{{case}}.nii.gz: 3 of 4 cases have no file: a, c, d." in str(caught.value)


def test_find_mask_files_leaves_out_cases_if_files_are_not_required(tmp_path: Path) -> None:
    files(tmp_path, "b.nii.gz")
    settings = {"folder": str(tmp_path), "pattern": "{case}.nii.gz"}
    assert find_mask_files(settings, RUN, ["a", "b"], are_required=False) == {"b": tmp_path / "b.nii.gz"}
    write_mask_files({}, None, str(tmp_path / "none.csv"), str(tmp_path / "none.json"))
    assert read_mask_files(tmp_path / "none.csv") == ({}, None)


def test_find_mask_files_rejects_ambiguous_names_and_dangling_links(tmp_path: Path) -> None:
    files(tmp_path, "a_mask.nii.gz", "a_probability.nii.gz")
    (tmp_path / "b_mask.nii.gz").symlink_to("nowhere")
    with pytest.raises(CohortError) as caught:
        find_mask_files({"folder": str(tmp_path), "pattern": "{case}_*"}, RUN, ["a", "b"])
    first, second = map(str, caught.value.problems)
    assert "2 files could be that of case a: " in first
    assert "Write more of the name" in first
    assert "case b, " in second
    assert "is a link to a missing file (nowhere)" in second


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("case,mask\na,x\n", "column 'file' is missing (the columns are: case, mask)"),
        ("case,file\na,x\na,y\n", "2 files could be that of case a"),
        ("case,file\nb,x\n", "1 of 1 cases have no file: a"),
        ("case,file\na,x\n", "the file does not exist"),
    ],
)
def test_find_mask_files_rejects_unusable_tables(tmp_path: Path, text: str, problem: str) -> None:
    (tmp_path / "masks.csv").write_text(text, encoding="utf-8")
    with pytest.raises(CohortError) as caught:
        find_mask_files({"table": str(tmp_path / "masks.csv")}, RUN, ["a"])
    assert problem in str(caught.value)


def test_find_mask_files_without_the_folder_or_table_names_it(tmp_path: Path) -> None:
    with pytest.raises(CohortError, match=r"`methods.nnunet.folder`: .*/fold_1: the folder does not exist"):
        find_mask_files({"folder": f"{tmp_path}/fold_{{split}}", "pattern": "{case}.nii.gz"}, RUN, ["a"])
    with pytest.raises(CohortError, match=r"masks.csv: .*does not exist"):
        find_mask_files({"table": f"{tmp_path}/masks.csv"}, RUN, ["a"])


def test_versions_tell_changed_files_from_touched_and_archived_ones(tmp_path: Path) -> None:
    files(tmp_path, "masks/a.nii.gz", "masks/b.nii.gz")
    table, versions = tmp_path / "list.csv", tmp_path / "list.json"
    listed = {name: tmp_path / f"masks/{name}.nii.gz" for name in "ab"}
    for label in (None, 77):
        write_mask_files(listed, label, str(table), str(versions))
        assert read_mask_files(table) == (listed, label)
    (tmp_path / "masks/a.nii.gz").touch()
    assert update_scan_versions(versions) == []
    (tmp_path / "masks/b.nii.gz").unlink()
    (tmp_path / "masks/a.nii.gz").write_bytes(b"more")
    assert update_scan_versions(versions) == [f"{tmp_path}/masks/a.nii.gz"]
