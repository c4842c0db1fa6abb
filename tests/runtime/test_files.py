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

from pd_ddpm.runtime.files import (
    BusyError,
    DiskFullError,
    atomic_write,
    file_sha256,
    fingerprint,
    lock_folder,
    remove_partial_files,
    write_json,
)


def test_atomic_write_creates_the_file_only_when_complete(tmp_path):
    path = tmp_path / "deep" / "scores.nii.gz"
    with atomic_write(path) as temporary:
        assert temporary.parent == path.parent
        assert temporary.name.endswith(".nii.gz")
        temporary.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]


def test_atomic_write_does_not_disturb_a_reader_of_the_old_file(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("old")
    with path.open() as reader:
        with atomic_write(path) as temporary:
            temporary.write_text("new")
        assert reader.read() == "old"
    assert path.read_text() == "new"


def test_atomic_write_keeps_the_old_file_after_an_error(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("old")

    def fail():
        with atomic_write(path) as temporary:
            temporary.write_text("half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_atomic_write_keeps_the_old_file_after_a_kill(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("old")
    code = (
        "import os, signal; from pathlib import Path; from pd_ddpm.runtime.files import atomic_write\n"
        f"with atomic_write(Path({str(path)!r})) as temporary:\n"
        "    temporary.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == -signal.SIGKILL
    assert path.read_text() == "old"
    write_json(path, {"new": 1})  # what the killed process left does not stand in the way
    assert json.loads(path.read_text()) == {"new": 1}


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("before", [None, 5_000_000])
def test_atomic_write_on_a_full_disk_reports_needed_and_free_bytes(tmp_path, monkeypatch, code, before):
    path = tmp_path / "state.pt"
    if before:
        path.write_bytes(bytes(before))

    def fail():
        with atomic_write(path, 2_000_000) as temporary:
            temporary.write_bytes(bytes(1000))
            try:
                raise OSError(code, "No space left on device")
            except OSError:
                raise RuntimeError("a writer that does not say why") from None  # its context says it

    with pytest.raises(DiskFullError) as caught:
        fail()
    found = re.fullmatch(
        rf"{path}: there is no room for it on the disk or in the quota: it needs (\S+) MB or more, and (\S+) [kM]B are "
        r"free\. Make room and start again\. Finished results are kept, and the run resumes there\.",
        str(caught.value),
    )
    assert float(found[1]) == (5.0 if before else 2.0)
    assert float(found[2]) > 0
    assert list(tmp_path.iterdir()) == ([path] if before else [])
    assert isinstance(caught.value, OSError)


def test_atomic_write_beyond_the_file_size_limit_raises_disk_full(tmp_path):
    """The real thing: a write that the system refuses."""
    path = tmp_path / "table.csv"
    path.write_text("old")
    code = (
        "from pathlib import Path; from pd_ddpm.runtime.files import atomic_write\n"
        f"with atomic_write(Path({str(path)!r})) as temporary: temporary.write_bytes(bytes(2_000_000))"
    )

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))

    job = subprocess.run([sys.executable, "-c", code], preexec_fn=limit, capture_output=True, text=True)
    assert job.returncode == 1
    assert f"DiskFullError: {path}: there is no room for it" in job.stderr
    assert "it needs 1.0 MB or more" in job.stderr
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_atomic_write_passes_other_errors_on(tmp_path):
    with pytest.raises(PermissionError, match="not allowed"), atomic_write(tmp_path / "a"):
        raise PermissionError(errno.EACCES, "not allowed")


def test_remove_partial_files_keeps_all_other_files(tmp_path):
    for name in (".partial.a.json", ".partial.b.nii.gz", "a.json", "partial.json", ".hidden"):
        (tmp_path / name).write_text("x")
    remove_partial_files(tmp_path)
    remove_partial_files(tmp_path / "missing")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".hidden", "a.json", "partial.json"]


def test_fingerprint_depends_on_content_not_on_key_order(tmp_path):
    one = fingerprint({"a": 1, "b": [1, 2, {"c": None}]})
    assert one == fingerprint({"b": [1, 2, {"c": None}], "a": 1})
    changed = [
        {"a": 2, "b": [1, 2, {"c": None}]},
        {"a": 1, "b": [2, 1, {"c": None}]},
        {"a": 1},
        {"a": "1", "b": [1, 2, {"c": None}]},
    ]
    assert len({one, *map(fingerprint, changed)}) == 5


def test_file_sha256_hashes_the_bytes(tmp_path):
    path = tmp_path / "weights"
    path.write_bytes(os.urandom(3_000_000))
    assert file_sha256(path) == hashlib.sha256(path.read_bytes()).hexdigest()


def test_lock_folder_refuses_a_second_user_in_any_process(tmp_path):
    folder = tmp_path / "new"
    code = (
        "from pathlib import Path; from pd_ddpm.runtime.files import lock_folder\n"
        f"with lock_folder(Path({str(folder)!r})): print('locked')"
    )
    with lock_folder(folder):
        words = rf"new: is locked by another run \(process {os.getpid()} on {socket.gethostname()} since (.*)\)\. Wait for it"
        with pytest.raises(BusyError, match=words) as caught, lock_folder(folder):
            pass
        since = datetime.fromisoformat(re.search("since ([^)]*)", str(caught.value))[1])
        assert timedelta(0) <= datetime.now().astimezone() - since < timedelta(minutes=1)
        other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert other.returncode == 1
        assert "BusyError" in other.stderr
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "locked\n"


def test_lock_folder_is_released_by_a_kill(tmp_path):
    code = (
        "import os, signal; from pathlib import Path; from pd_ddpm.runtime.files import lock_folder\n"
        f"with lock_folder(Path({str(tmp_path)!r})): os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == -signal.SIGKILL
    with lock_folder(tmp_path), pytest.raises(BusyError, match=rf"\(process {os.getpid()} on"), lock_folder(tmp_path):
        pass
