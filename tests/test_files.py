"""Whole files, hashes and locks (below 1 s)."""

import hashlib
import json
import os
import signal
import subprocess
import sys

import pytest

from pd_ddpm.files import BusyError, file_sha256, fingerprint, held, replacing, write_json


def test_a_file_takes_its_place_when_it_is_whole(tmp_path):
    path = tmp_path / "deep" / "scores.nii.gz"
    with replacing(path) as temporary:
        assert temporary.parent == path.parent
        assert temporary.name.endswith(".nii.gz")
        temporary.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]


def test_whoever_reads_meanwhile_reads_the_old_file_to_its_end(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("old")
    with path.open() as reader:
        with replacing(path) as temporary:
            temporary.write_text("new")
        assert reader.read() == "old"
    assert path.read_text() == "new"


def test_what_was_there_stays_when_writing_fails(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("old")

    def fail():
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_was_there_stays_when_the_process_is_killed_while_writing(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("old")
    code = (
        "import os, signal; from pathlib import Path; from pd_ddpm.files import replacing\n"
        f"with replacing(Path({str(path)!r})) as temporary:\n"
        "    temporary.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == -signal.SIGKILL
    assert path.read_text() == "old"
    write_json(path, {"new": 1})  # what the killed process left does not stand in the way
    assert json.loads(path.read_text()) == {"new": 1}


def test_fingerprints_are_of_content_not_of_order(tmp_path):
    one = fingerprint({"a": 1, "b": [1, 2, {"c": None}]})
    assert one == fingerprint({"b": [1, 2, {"c": None}], "a": 1})
    changed = [
        {"a": 2, "b": [1, 2, {"c": None}]},
        {"a": 1, "b": [2, 1, {"c": None}]},
        {"a": 1},
        {"a": "1", "b": [1, 2, {"c": None}]},
    ]
    assert len({one, *map(fingerprint, changed)}) == 5


def test_hash_of_a_file_is_that_of_its_bytes(tmp_path):
    path = tmp_path / "weights"
    path.write_bytes(os.urandom(3_000_000))
    assert file_sha256(path) == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_folder_has_one_user_at_a_time_also_among_processes(tmp_path):
    folder = tmp_path / "new"
    code = f"from pathlib import Path; from pd_ddpm.files import held\nwith held(Path({str(folder)!r})): print('held')"
    with held(folder):
        with pytest.raises(BusyError, match=r"new is in use by another run; wait for it or stop it"), held(folder):
            pass
        other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert other.returncode == 1
        assert "BusyError" in other.stderr
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "held\n"


def test_a_killed_process_leaves_no_lock(tmp_path):
    code = (
        "import os, signal; from pathlib import Path; from pd_ddpm.files import held\n"
        f"with held(Path({str(tmp_path)!r})): os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == -signal.SIGKILL
    with held(tmp_path):
        pass
