"""Whole files, hashes and locks (below 1 s)."""

import errno
import hashlib
import json
import os
import re
import resource
import signal
import socket
import subprocess
import sys
from datetime import datetime, timedelta

import pytest

from pd_ddpm.runtime.files import BusyError, DiskFullError, file_sha256, fingerprint, held, replacing, sweep, write_json


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
        "import os, signal; from pathlib import Path; from pd_ddpm.runtime.files import replacing\n"
        f"with replacing(Path({str(path)!r})) as temporary:\n"
        "    temporary.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == -signal.SIGKILL
    assert path.read_text() == "old"
    write_json(path, {"new": 1})  # what the killed process left does not stand in the way
    assert json.loads(path.read_text()) == {"new": 1}


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("before", [None, 5_000_000])
def test_without_room_the_error_names_the_file_what_it_needs_and_what_is_free(tmp_path, monkeypatch, code, before):
    path = tmp_path / "state.pt"
    if before:
        path.write_bytes(bytes(before))

    def fail():
        with replacing(path, 2_000_000) as temporary:
            temporary.write_bytes(bytes(1000))
            try:
                raise OSError(code, "No space left on device")
            except OSError:
                raise RuntimeError("a writer that does not say why") from None  # its context says it

    with pytest.raises(DiskFullError) as caught:
        fail()
    found = re.fullmatch(
        rf"{path}: there is no room for it on the disk or in the quota: it needs (\S+) MB or more, and (\S+) [kM]B are "
        "free; make room and start again: what is finished is kept, and the run goes on from there",
        str(caught.value),
    )
    assert float(found[1]) == (5.0 if before else 2.0)
    assert float(found[2]) > 0
    assert list(tmp_path.iterdir()) == ([path] if before else [])
    assert isinstance(caught.value, OSError)


def test_a_limit_on_the_size_of_files_is_a_want_of_room(tmp_path):
    """The real thing: a write that the system refuses."""
    path = tmp_path / "table.csv"
    path.write_text("old")
    code = (
        "from pathlib import Path; from pd_ddpm.runtime.files import replacing\n"
        f"with replacing(Path({str(path)!r})) as temporary: temporary.write_bytes(bytes(2_000_000))"
    )

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))

    job = subprocess.run([sys.executable, "-c", code], preexec_fn=limit, capture_output=True, text=True)
    assert job.returncode == 1
    assert f"DiskFullError: {path}: there is no room for it" in job.stderr
    assert "it needs 1.0 MB or more" in job.stderr
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_another_error_of_writing_stays_what_it_is(tmp_path):
    with pytest.raises(PermissionError, match="not allowed"), replacing(tmp_path / "a"):
        raise PermissionError(errno.EACCES, "not allowed")


def test_only_what_is_half_written_is_swept(tmp_path):
    for name in (".partial.a.json", ".partial.b.nii.gz", "a.json", "partial.json", ".hidden"):
        (tmp_path / name).write_text("x")
    sweep(tmp_path)
    sweep(tmp_path / "missing")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".hidden", "a.json", "partial.json"]


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
    code = f"from pathlib import Path; from pd_ddpm.runtime.files import held\nwith held(Path({str(folder)!r})): print('held')"
    with held(folder):
        words = rf"new is in use by another run \(process {os.getpid()} on {socket.gethostname()} since (.*)\); wait for it"
        with pytest.raises(BusyError, match=words) as caught, held(folder):
            pass
        since = datetime.fromisoformat(re.search("since ([^)]*)", str(caught.value))[1])
        assert timedelta(0) <= datetime.now().astimezone() - since < timedelta(minutes=1)
        other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert other.returncode == 1
        assert "BusyError" in other.stderr
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "held\n"


def test_a_killed_process_leaves_no_lock(tmp_path):
    code = (
        "import os, signal; from pathlib import Path; from pd_ddpm.runtime.files import held\n"
        f"with held(Path({str(tmp_path)!r})): os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == -signal.SIGKILL
    with held(tmp_path), pytest.raises(BusyError, match=rf"\(process {os.getpid()} on"), held(tmp_path):
        pass
