"""Versions of scans: which changes of a file count (below 1 s)."""

import os

import pandas as pd
import pytest

from pd_ddpm.data.cases.scan_versions import update_scan_versions, write_scan_versions
from pd_ddpm.runtime.sealed import DamagedFileError, read_sealed_json

LONG_AGO = (1_000_000_000, 1_000_000_000)  # seconds since 1970


@pytest.fixture
def versions(tmp_path):
    """The list of versions of two cases that share a transform; its own time lies long ago."""
    for name in ("p1_FLAIR", "p2_FLAIR", "p1_mask", "p2_mask", "transform"):
        (tmp_path / name).write_text(name)
    rows = [
        {"case": case, "patient": "", "site": "s", "role": "", "fold": pd.NA}
        | {"FLAIR": str(tmp_path / f"{case}_FLAIR"), "mask": str(tmp_path / f"{case}_mask")}
        | {"FLAIR_transform": str(tmp_path / "transform"), "observer_2": ""}
        for case in ("p1", "p2")
    ]
    path = tmp_path / "scans.json"
    write_scan_versions(pd.DataFrame(rows), path)
    os.utime(path, LONG_AGO)
    return path


def is_newer(path):
    return path.stat().st_mtime > LONG_AGO[1]


def test_write_scan_versions_lists_each_file_once(versions):
    names = [file.rsplit("/", 1)[-1] for file in read_sealed_json(versions)]
    assert names == ["p1_FLAIR", "p1_mask", "p2_FLAIR", "p2_mask", "transform"]


@pytest.mark.parametrize("content", ["p1_flair", "longer than before"])
def test_changed_scan_makes_the_list_newer_once(versions, content):
    scan = versions.with_name("p1_FLAIR")
    scan.write_text(content)
    assert update_scan_versions(versions) == [str(scan)]
    assert is_newer(versions)
    os.utime(versions, LONG_AGO)
    assert update_scan_versions(versions) == []
    assert not is_newer(versions)


def test_scan_replaced_by_an_older_file_makes_the_list_newer(versions):
    scan = versions.with_name("p2_mask")
    scan.write_text("an earlier mask")
    os.utime(scan, (1, 1))
    assert update_scan_versions(versions) == [str(scan)]
    assert is_newer(versions)


def test_changed_scan_with_its_earlier_size_and_time_makes_the_list_newer(versions):
    scan = versions.with_name("p1_FLAIR")
    status = scan.stat()
    scan.write_text("p1_flair")
    os.utime(scan, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert update_scan_versions(versions) == [str(scan)]
    assert is_newer(versions)


def test_touched_and_archived_scans_leave_the_time_of_the_list(versions):
    os.utime(versions.with_name("p1_FLAIR"))
    versions.with_name("p2_FLAIR").unlink()
    before = read_sealed_json(versions)
    assert update_scan_versions(versions) == []
    assert not is_newer(versions)
    after = read_sealed_json(versions)
    assert {file: version["sha256"] for file, version in before.items()} == {
        file: version["sha256"] for file, version in after.items()
    }


def test_update_scan_versions_without_a_list_returns_nothing_and_refuses_a_damaged_one(versions):
    assert update_scan_versions(versions.with_name("none.json")) == []
    versions.write_text("{}")
    with pytest.raises(DamagedFileError, match=r"scans\.json: it was changed or damaged"):
        update_scan_versions(versions)
