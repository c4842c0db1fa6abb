"""Files are found through linked folders, once each, also if a link leads back to a folder above it. Below 1 s."""

from collections.abc import Callable
from pathlib import Path

import pytest

from pd_ddpm.data.cases.bids import bids_files, find_bids_cases
from pd_ddpm.data.cases.links import glob_through_links
from pd_ddpm.data.cases.origin import is_downloaded
from pd_ddpm.data.cases.wmh import find_wmh_cases


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    return path


def write_site(folder: Path, *cases: str) -> None:
    for case in cases:
        for name in ("pre/FLAIR.nii.gz", "pre/T1.nii.gz", "wmh.nii.gz"):
            touch(folder / case / name)


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("**/x.txt", ["a/b/x.txt", "linked/b/x.txt", "linked/x.txt", "x.txt"]),
        ("*/x.txt", ["linked/x.txt"]),
        ("a/**/*.txt", ["a/b/x.txt", "a/y.txt"]),
        ("**/[!x].txt", ["a/y.txt"]),
        ("b/**/x.txt", []),
    ],
)
def test_glob_through_links_follows_links_and_ends_at_circles(tmp_path: Path, pattern: str, names: list[str]) -> None:
    folder = tmp_path / "folder"
    for name in ("x.txt", "a/y.txt", "a/b/x.txt"):
        touch(folder / name)
    for name in ("x.txt", "b/x.txt"):
        touch(tmp_path / "elsewhere" / name)
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    (folder / "a/up").symlink_to(folder)
    (tmp_path / "elsewhere/back").symlink_to(folder / "linked")
    assert [path.relative_to(folder).as_posix() for path in glob_through_links(folder, pattern)] == names
    assert list(glob_through_links(tmp_path / "absent", pattern)) == []


@pytest.mark.parametrize("num_linked", [1, 2])
def test_find_wmh_cases_reads_linked_sites_like_others(tmp_path: Path, num_linked: int) -> None:
    folder = tmp_path / "wmh"
    (folder / "training").mkdir(parents=True)
    for number, site in enumerate(("Utrecht", "Singapore")):
        place = tmp_path / "disk" if number < num_linked else folder / "training"
        write_site(place / site, "0", "1")
        if place == tmp_path / "disk":
            (folder / "training" / site).symlink_to(place / site)
    touch(tmp_path / "observers/training/Utrecht/0/result.nii.gz")
    (folder / "additional_annotations").mkdir()
    (folder / "additional_annotations/observer_o3").symlink_to(tmp_path / "observers")
    table = find_wmh_cases(folder)
    assert table["case"].tolist() == ["Singapore-0", "Singapore-1", "Utrecht-0", "Utrecht-1"]
    assert table["mask"][2] == str(folder / "training/Utrecht/0/wmh.nii.gz")
    assert table["observer_2"].ne("").tolist() == [False, False, True, False]
    assert not is_downloaded({"layout": "wmh_challenge", "folder": str(folder), "download": {"accept_licence": True}})


def test_find_wmh_cases_lists_masks_that_are_dangling_links(tmp_path: Path) -> None:
    write_site(tmp_path / "training/Utrecht", "0", "1")
    mask = tmp_path / "training/Utrecht/1/wmh.nii.gz"
    mask.unlink()
    mask.symlink_to(tmp_path / "absent")
    with pytest.raises(ValueError, match=r"Utrecht/1/wmh\.nii\.gz: is a link to a missing file \(.*\)\. Fetch"):
        find_wmh_cases(tmp_path)


def test_bids_masks_are_found_through_linked_derivatives(tmp_path: Path) -> None:
    folder = tmp_path / "bids"
    touch(folder / "sub-1/anat/sub-1_FLAIR.nii.gz")
    touch(tmp_path / "disk/deep/sub-1/anat/sub-1_label-WMH_mask.nii.gz")
    (folder / "derivatives").mkdir()
    (folder / "derivatives/manual").symlink_to(tmp_path / "disk")
    mask = folder / "derivatives/manual/deep/sub-1/anat/sub-1_label-WMH_mask.nii.gz"
    assert str(mask) in bids_files(folder, "manual/**/*_mask.nii.gz")


@pytest.mark.parametrize("find", [find_wmh_cases, lambda folder: find_bids_cases(folder, ["FLAIR"])])
def test_find_cases_names_the_target_of_a_dangling_folder(tmp_path: Path, find: Callable[[Path], object]) -> None:
    (tmp_path / "data").symlink_to("/not/mounted")
    with pytest.raises(ValueError, match=r"data is a link to a missing folder \(/not/mounted\)"):
        find(tmp_path / "data")
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="it is a file, but a folder is needed"):
        find(tmp_path / "file")
