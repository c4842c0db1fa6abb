"""Sealed files: every flipped bit stops the reader (below 2 s)."""

import json
import os
import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest

from pd_ddpm.runtime.files import read_completion_record, write_completion_record
from pd_ddpm.runtime.sealed import (
    DamagedFileError,
    copy_sealed,
    read_foreign,
    read_sealed,
    read_sealed_json,
    seal_foreign_files,
    seal_path,
    sealed_write,
    write_sealed_json,
)
from pd_ddpm.runtime.sealed_tables import read_sealed_csv, write_sealed_csv

TABLE = pd.DataFrame({"case": ["01", "NA"], "site": ["7", "nan"], "dice": [0.5, np.nan]})


def flips(content):
    """Yield the content with each of its bits flipped, one at a time."""
    for position in range(8 * len(content)):
        flipped = bytearray(content)
        flipped[position // 8] ^= 1 << position % 8
        yield bytes(flipped)


@pytest.mark.parametrize("damaged_part", ["content", "seal"])
@pytest.mark.parametrize("name", ["scores.csv", "method.json"])
def test_read_sealed_refuses_every_flipped_bit_of_content_or_seal(tmp_path, name, damaged_part):
    path = tmp_path / name
    if name == "scores.csv":
        write_sealed_csv(TABLE, path)
        read = read_sealed_csv
    else:
        write_sealed_json(path, {"settings": {"samples": 5}, "seconds": 1.5})
        read = read_sealed_json
    damaged = path if damaged_part == "content" else seal_path(path)
    intact = damaged.read_bytes()
    for content in flips(intact):
        damaged.write_bytes(content)
        with pytest.raises(DamagedFileError, match=rf"{name}: it was changed or damaged .* Delete it and run `snakemake`"):
            read(path)
    damaged.write_bytes(intact)
    read(path)


def test_read_completion_record_refuses_every_flipped_bit(tmp_path):
    (tmp_path / "p1_mask.nii.gz").write_bytes(b"mask")
    path = tmp_path / "p1.json"
    row = {"case": "p1", "samples": 5, "seconds_per_member": 0.25}
    write_completion_record(path, "fingerprint", ["p1_mask.nii.gz"], row)
    intact = path.read_bytes()
    for content in flips(intact):
        path.write_bytes(content)
        assert read_completion_record(path, "fingerprint") is None
    path.write_bytes(intact)
    assert read_completion_record(path, "fingerprint") == row


def test_read_sealed_csv_keeps_names_that_look_like_numbers_or_missing_values(tmp_path):
    write_sealed_csv(TABLE, tmp_path / "scores.csv")
    pd.testing.assert_frame_equal(read_sealed_csv(tmp_path / "scores.csv"), TABLE)


def test_files_without_a_seal_are_read(tmp_path):
    (tmp_path / "a.csv").write_text("case,dice\np1,0.5\n")
    (tmp_path / "a.json").write_text('{"a": 1}')
    assert read_sealed_csv(tmp_path / "a.csv")["dice"].tolist() == [0.5]
    assert read_sealed_json(tmp_path / "a.json") == {"a": 1}


@pytest.mark.parametrize("content", [b"{", b"\xff", b"[" * 100_000])
def test_read_sealed_json_names_a_file_that_is_not_json(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(DamagedFileError, match=r"a\.json: it is not JSON"):
        read_sealed_json(tmp_path / "a.json")


def test_sealed_write_after_an_error_keeps_file_and_seal(tmp_path):
    path = tmp_path / "a.json"
    write_sealed_json(path, {"a": 1})

    def fail():
        with sealed_write(path) as temporary:
            temporary.write_text("half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()
    assert read_sealed_json(path) == {"a": 1}
    assert sorted(file.name for file in tmp_path.iterdir()) == [".a.json.sha256", "a.json"]


def test_seal_is_verified_by_sha256sum(tmp_path):
    if not shutil.which("sha256sum"):
        pytest.skip("sha256sum is not installed")
    path = tmp_path / "a.json"
    write_sealed_json(path, {"a": 1})
    command = ["sha256sum", "--check", "--strict", seal_path(path).name]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True).returncode == 0
    path.write_text(json.dumps({"a": 2}))
    assert subprocess.run(command, cwd=tmp_path, capture_output=True).returncode == 1


def test_foreign_file_is_compared_with_its_seal_until_it_is_written_again(tmp_path):
    path = tmp_path / "deep" / "train.tsv"
    path.parent.mkdir()
    path.write_text("s\n12.5\n")
    assert read_foreign(path) == b"s\n12.5\n"
    seal_foreign_files(tmp_path, "*.tsv")
    status = path.stat()
    path.write_text("s\n92.5\n")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(DamagedFileError, match=r"train\.tsv: it was changed or damaged"):
        read_foreign(path)
    seal_foreign_files(tmp_path, "*.tsv")  # does not accept the damage
    with pytest.raises(DamagedFileError, match=r"train\.tsv: it was changed or damaged"):
        read_foreign(path)
    path.write_text("s\n13.5\n")  # by a later job
    os.utime(path, ns=(0, seal_path(path).stat().st_mtime_ns + 1))
    assert read_foreign(path) == b"s\n13.5\n"
    seal_foreign_files(tmp_path, "*.tsv")
    assert seal_path(path).read_text().split()[1] == "train.tsv"


def test_copy_sealed_refuses_a_damaged_source_and_keeps_the_earlier_copy(tmp_path):
    source, target = tmp_path / "exhibits" / "table1.csv", tmp_path / "table1.csv"
    write_sealed_csv(TABLE, source)
    copy_sealed(source, target)
    assert target.read_bytes() == read_sealed(target) == source.read_bytes()
    source.write_bytes(source.read_bytes().replace(b"0.5", b"0.7"))
    with pytest.raises(DamagedFileError, match=r"exhibits/table1\.csv: it was changed or damaged"):
        copy_sealed(source, target)
    assert b"0.5" in read_sealed(target)
