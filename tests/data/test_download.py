"""The download of a dataset from a local server with Dataverse's API and injected faults (about 15 s)."""

import gzip
import hashlib
import json
import logging
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
import yaml
from local_server import LocalHandler, LocalServer
from workflow_runs import ROOT, copy_of_the_repository, jobs, snakemake

from pd_ddpm.config.errors import ConfigError
from pd_ddpm.config.validate import validate
from pd_ddpm.data.download import http, verify
from pd_ddpm.data.download import obtain as obtain_module
from pd_ddpm.data.download.obtain import DownloadError
from pd_ddpm.data.download.settings import DownloadSettings, RetryPolicy
from pd_ddpm.runtime.files import BusyError, lock_folder

DOI = "10.34894/AECRSD"
QUICK_RETRY = RetryPolicy(attempts=3, first_wait=0.01, longest_wait=5, connect_timeout=5, read_timeout=5)
HELD_OUT = {
    *(f"test/Amsterdam/Philips_VU .PETMR_01./160/{name}" for name in ("pre/FLAIR.nii.gz", "wmh.nii.gz")),
    *(f"test/Amsterdam/Philips_VU .PETMR_01./160/{name}" for name in ("pre/3DT1.nii.gz", "orig/reg_3DT1_to_FLAIR.txt")),
}
PHILIPS = "test/Amsterdam/Philips_VU .PETMR_01./160"
FLAIR = "training/Utrecht/0/pre/FLAIR.nii.gz"
MASK = "training/Amsterdam/GE3T/100/wmh.nii.gz"
NEEDED = {
    *(f"training/{case}/{name}" for case in ("Utrecht/0", "Amsterdam/GE3T/100") for name in ("pre/FLAIR.nii.gz", "wmh.nii.gz")),
    *(f"training/Utrecht/0/{name}" for name in ("pre/3DT1.nii.gz", "orig/reg_3DT1_to_FLAIR.txt")),
    "training/Amsterdam/GE3T/100/pre/T1.nii.gz",  # its 3D T1 has no transform
    "additional_annotations/observer_o3/training/Utrecht/0/result.nii.gz",
    "additional_annotations/observer_o4/training/Utrecht/0/result.nii.gz",
}

Fault = Callable[["Handler", bytes], None]


def published() -> dict[str, bytes]:
    """Return a small dataset in the challenge's layout: path -> content."""
    random = np.random.default_rng(0)
    names = ["orig/FLAIR.nii.gz", "orig/3DT1.nii.gz", "orig/reg_3DT1_to_FLAIR.txt", "wmh.nii.gz"]
    names += [f"pre/{channel}.nii.gz" for channel in ("FLAIR", "T1", "3DT1")]
    paths = [f"{case}/{name}" for case in ("training/Utrecht/0", "training/Amsterdam/GE3T/100", PHILIPS) for name in names]
    paths += [f"additional_annotations/observer_{name}/training/Utrecht/0/result.nii.gz" for name in ("o3", "o4")]
    paths.remove("training/Amsterdam/GE3T/100/orig/reg_3DT1_to_FLAIR.txt")
    contents = {path: random.bytes(3000) for path in [*paths, "readme.txt"]}
    return {path: gzip.compress(body, mtime=0) if path.endswith(".gz") else body for path, body in contents.items()}


class Handler(LocalHandler):
    """Dataverse's listing and file access; the faults set for a path come before its file."""

    server: "Server"

    def do_GET(self) -> None:
        with self.server.counting():
            address = urlsplit(self.path)
            self.server.agents.add(self.headers["User-Agent"])
            if address.path.startswith("/api/access/datafile/"):
                path = list(self.server.files)[int(address.path.rsplit("/", 1)[1]) - 1000]
                body = self.server.files[path]
            else:
                asked = (address.path, parse_qs(address.query))
                assert asked == ("/api/datasets/:persistentId/versions/1.0", {"persistentId": [f"doi:{DOI}"]})
                path, body = "listing", json.dumps({"status": "OK", "data": self.server.listing}).encode()
            self.server.requests.append((path, time.monotonic()))
            faults = self.server.faults[path]
            (faults.pop(0) if faults else send)(self, body)


class Server(LocalServer):
    def __init__(self) -> None:
        super().__init__(Handler)
        self.files = published()
        self.listing = {"license": {"name": "CC BY-NC 4.0", "uri": "https://licence"}, "files": self.entries()}
        self.faults: dict[str, list[Fault]] = defaultdict(list)
        self.requests: list[tuple[str, float]] = []
        self.agents: set[str] = set()
        self.lock, self.active, self.most = threading.Lock(), 0, 0

    def entries(self) -> list[dict[str, Any]]:
        entries = []
        for number, (path, body) in enumerate(self.files.items()):
            folder, _, name = path.rpartition("/")
            checksum = {"type": "SHA-1", "value": hashlib.sha1(body).hexdigest()}
            stored = {"id": 1000 + number, "filename": name, "filesize": len(body), "checksum": checksum}
            entries.append({"label": name, "dataFile": stored} | ({"directoryLabel": folder} if folder else {}))
        return entries

    @contextmanager
    def counting(self) -> Iterator[None]:
        with self.lock:
            self.active += 1
            self.most = max(self.most, self.active)
        yield
        with self.lock:
            self.active -= 1

    def handle_error(self, *arguments: Any) -> None:
        """Ignore clients that disconnect or are killed, as some tests do."""

    def times(self, path: str) -> int:
        return [name for name, _ in self.requests].count(path)


def send(handler: Handler, body: bytes, status: int = 200, length: int | None = None, **headers: str) -> None:
    handler.send(body, status, length, **{"Content_Type": "application/gzip"} | headers)


def respond_with(status: int, **headers: str) -> Fault:
    message = json.dumps({"status": "ERROR", "message": "the server's own words"}).encode()
    return lambda handler, _: send(handler, message, status, **headers)


def stall(handler: Handler, body: bytes) -> None:
    send(handler, body[: len(body) // 2], length=len(body))
    time.sleep(1)
    handler.close_connection = True


def end_early(handler: Handler, body: bytes) -> None:
    send(handler, body[: len(body) // 2], length=len(body))
    handler.close_connection = True


def drop_connection(handler: Handler, body: bytes) -> None:
    send(handler, body[: len(body) // 2], length=len(body))
    handler.wfile.flush()
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()
    handler.close_connection = True


def flip_bit(handler: Handler, body: bytes) -> None:
    send(handler, bytes([body[0] ^ 1]) + body[1:])


def send_page(handler: Handler, body: bytes) -> None:
    send(handler, b"<html>Please agree to our terms.</html>", Content_Type="text/html; charset=utf-8")


def redirect(handler: Handler, body: bytes) -> None:
    """Redirect as Dataverse does if its files are in another store: here to another address of this server."""
    handler.send_response(303)
    handler.send_header("Location", handler.path + "?from=store")
    handler.send_header("Content-Length", "0")
    handler.end_headers()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with Server().running(monkeypatch) as server:
        yield server


def settings(server: Server | None, **changes: Any) -> dict[str, Any]:
    """Return the keys of `datasets.wmh.download`."""
    return {
        "accept_licence": True,
        "licence": "CC BY-NC 4.0 (https://licence)",
        "server": server.url if server else "http://127.0.0.1:9",
        "doi": DOI,
        "version": "1.0",
        "files": "needed",
        "connections": 4,
    } | changes


def obtain(
    server: Server | None, folder: Path, part: str = "training", retry: RetryPolicy = QUICK_RETRY, **changes: Any
) -> dict[str, Any]:
    keys = DownloadSettings(**settings(server, **changes))
    return obtain_module.obtain(folder, keys, key="datasets.wmh", part=part, retry=retry)


def data_files(folder: Path) -> set[str]:
    """Return the dataset's files in a folder, without those that the program adds."""
    program_files = {"dataverse.json", "downloaded.json", "lock"}
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} - program_files


def has_exactly(folder: Path, paths: set[str]) -> bool:
    contents = published()
    return data_files(folder) == paths and all((folder / path).read_bytes() == contents[path] for path in paths)


def test_obtain_needed_files_are_downloaded_and_verified(server: Server, tmp_path: Path) -> None:
    record = obtain(server, tmp_path / "wmh")
    assert has_exactly(tmp_path / "wmh", NEEDED)
    assert record == {
        "doi": DOI,
        "version": "1.0",
        "licence": "CC BY-NC 4.0, https://licence",
        "from": server.url,
        "files": len(NEEDED),
        "bytes": sum(len(server.files[path]) for path in NEEDED),
        "verified_by": "size and checksum",
    }
    assert len(server.requests) == len(NEEDED) + 1
    (agent,) = server.agents
    assert agent.startswith("pd-ddpm/")
    assert "python-requests" not in agent


def test_obtain_all_files_keep_published_names(server: Server, tmp_path: Path) -> None:
    obtain(server, tmp_path, files="all")
    assert has_exactly(tmp_path, set(server.files))
    assert (tmp_path / "test" / "Amsterdam" / "Philips_VU .PETMR_01." / "160" / "wmh.nii.gz").is_file()


def test_obtain_held_out_part_downloads_only_its_cases(server: Server, tmp_path: Path) -> None:
    observer = f"additional_annotations/observer_o4/{PHILIPS}/result.nii.gz"
    server.files[observer] = gzip.compress(b"a third rater's mask", mtime=0)
    server.listing["files"] = server.entries()
    obtain(server, tmp_path / "both")
    assert data_files(tmp_path / "both") == NEEDED
    assert obtain(server, tmp_path / "held out", part="held_out")["files"] == 5
    assert data_files(tmp_path / "held out") == HELD_OUT | {observer}


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_obtain_held_out_part_from_local_copy(tmp_path: Path, kind: str) -> None:
    copy = make_copy(kind, tmp_path / "copy", published())
    obtain(None, tmp_path / "held out", source=str(copy), part="held_out")
    assert has_exactly(tmp_path / "held out", HELD_OUT)
    only = make_copy(kind, tmp_path / "only", {path: body for path, body in published().items() if path in NEEDED})
    with pytest.raises(ValueError, match=r"has no file test/\.\.\./wmh\.nii\.gz"):
        obtain(None, tmp_path / "nothing", source=str(only), part="held_out")


def test_obtain_complete_folder_sends_no_request(server: Server, tmp_path: Path) -> None:
    obtain(server, tmp_path)
    server.requests.clear()
    assert obtain(server, tmp_path)["files"] == len(NEEDED)
    assert server.requests == []


def test_obtain_downloads_only_missing_and_damaged_files_again(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    obtain(server, tmp_path)
    server.requests.clear()
    (tmp_path / FLAIR).unlink()
    (tmp_path / MASK).write_bytes(bytes([0, *(tmp_path / MASK).read_bytes()[1:]]))
    obtain(server, tmp_path)
    assert sorted(path for path, _ in server.requests) == sorted([FLAIR, MASK])
    assert has_exactly(tmp_path, NEEDED)
    assert f"{MASK}: its sha1 is" in caplog.text


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (respond_with(500), "the server answered 500 Internal Server Error"),
        (respond_with(503), "the server answered 503 Service Unavailable"),
        (respond_with(429), "the server answered 429 Too Many Requests"),
        (stall, "timeout: no data from the server for 0.3 s"),
        (end_early, "the connection was lost before the end of the file"),
        (drop_connection, "the connection was lost before the end of the file"),
        (lambda handler, body: send(handler, body[:-7]), "it has"),
        (lambda handler, body: send(handler, body + b"more"), "longer than its"),
        (flip_bit, "its sha1 is"),
    ],
    ids=["500", "503", "429", "time-out", "short body", "dropped connection", "shortened file", "too long", "wrong checksum"],
)
def test_obtain_retries_transient_errors_until_last_attempt(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture, fault: Fault, words: str
) -> None:
    caplog.set_level(logging.INFO)
    retry = replace(QUICK_RETRY, read_timeout=0.3 if fault is stall else QUICK_RETRY.read_timeout)
    server.faults[FLAIR] = [fault]
    obtain(server, tmp_path / "once", retry=retry)
    assert has_exactly(tmp_path / "once", NEEDED)
    assert server.times(FLAIR) == 2
    assert f"{FLAIR}: " in caplog.text
    assert f"{words}" in caplog.text
    assert "attempt 2 of 3" in caplog.text

    server.faults[FLAIR] = [fault] * 3
    with pytest.raises(DownloadError, match=r"1 of 9 files could not be obtained") as raised:
        obtain(server, tmp_path / "always", retry=retry)
    assert server.times(FLAIR) == 2 + 3
    assert words in str(raised.value)
    assert "(3 attempts)" in str(raised.value)
    assert has_exactly(tmp_path / "always", NEEDED - {FLAIR})  # and no partial file


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (respond_with(401), ["401 Unauthorized (the server's own words)", "requires a login"]),
        (respond_with(403), ["403 Forbidden (the server's own words)", "is restricted"]),
        (respond_with(404), ["404 Not Found (the server's own words)", "Check `doi`, `version` and `server`"]),
        (respond_with(400), ["400 Bad Request (the server's own words)", "guestbook"]),
        (send_page, ["a web page instead of the file", "in a browser"]),
        (respond_with(503, Retry_After="4000"), ["503 Service Unavailable", "requires a wait of 4000 s"]),
    ],
    ids=["401", "403", "404", "400", "page", "a wait too long"],
)
def test_obtain_does_not_retry_permanent_errors_and_gets_other_files(
    server: Server, tmp_path: Path, fault: Fault, words: list[str]
) -> None:
    server.faults[FLAIR] = [fault]
    with pytest.raises(DownloadError) as raised:
        obtain(server, tmp_path / "my data")
    assert server.times(FLAIR) == 1
    assert has_exactly(tmp_path / "my data", NEEDED - {FLAIR})
    number = 1000 + list(server.files).index(FLAIR)
    command = (
        f"curl --fail --location --create-dirs --output '{tmp_path}/my data/{FLAIR}' {server.url}/api/access/datafile/{number}"
    )
    for word in [f"{tmp_path}/my data: 1 of 9 files", FLAIR, *words, command]:
        assert word in str(raised.value)


def test_obtain_respects_retry_after(server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    server.faults[FLAIR] = [respond_with(429, Retry_After="1")]
    obtain(server, tmp_path)
    first, second = (moment for path, moment in server.requests if path == FLAIR)
    assert second - first >= 1
    assert "429 Too Many Requests; attempt 2 of 3 in 1 s" in caplog.text


def test_retry_after_accepts_seconds_and_dates() -> None:
    assert http._retry_after_seconds("Fri, 31 Dec 1999 23:59:59 GMT") == 0
    assert http._retry_after_seconds("Fri, 31 Dec 2999 23:59:59 GMT") > 1e9
    assert http._retry_after_seconds("17") == 17
    assert http._retry_after_seconds("soon") == 0


def test_with_retries_doubles_waits_up_to_longest() -> None:
    waits = []

    class Watch(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            waits.append(timeout)
            return False

    def attempt() -> None:
        raise verify.TransientError("no luck")

    with pytest.raises(ValueError, match=r"no luck \(8 attempts\)"):
        http.with_retries(attempt, RetryPolicy(attempts=8, first_wait=2, longest_wait=30), Watch(), "file")
    plain = np.array([2, 4, 8, 16, 30, 30, 30])
    assert (np.array(waits) >= 0.75 * plain).all()
    assert (np.array(waits) <= 1.25 * plain).all()


def test_obtain_stores_declared_compressed_transfer_undecoded(server: Server, tmp_path: Path) -> None:
    server.faults[FLAIR] = [lambda handler, body: send(handler, body, Content_Encoding="gzip")]
    obtain(server, tmp_path)
    assert has_exactly(tmp_path, NEEDED)
    assert server.times(FLAIR) == 1


def test_obtain_uses_at_most_the_configured_connections(server: Server, tmp_path: Path) -> None:
    def slowly(handler: Handler, body: bytes) -> None:
        time.sleep(0.05)
        send(handler, body)

    for path in server.files:
        server.faults[path] = [slowly]
    obtain(server, tmp_path, files="all")
    assert server.most == 4


def test_obtain_stops_requests_after_failures_in_a_row(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(obtain_module, "MAX_FAILURES_IN_A_ROW", 5)
    for path in server.files:
        server.faults[path] = [respond_with(403)]
    with pytest.raises(DownloadError, match="not requested, because 5 files in a row had failed") as raised:
        obtain(server, tmp_path, files="all", connections=1)
    assert len(server.requests) < len(server.files)
    assert str(raised.value).count("curl --fail") == len(server.files)


def test_obtain_continues_killed_download(server: Server, tmp_path: Path) -> None:
    reached = threading.Event()

    def halts(handler: Handler, body: bytes) -> None:
        send(handler, body[:100], length=len(body))
        handler.wfile.flush()
        reached.set()
        time.sleep(1)
        handler.close_connection = True

    server.faults[FLAIR] = [halts]
    program = (
        "import json, sys; from pathlib import Path;"
        "from pd_ddpm.data.download.obtain import DownloadSettings, obtain;"
        "obtain(Path(sys.argv[1]), DownloadSettings(**json.loads(sys.argv[2])), key='datasets.wmh')"
    )
    arguments = [str(tmp_path), json.dumps(settings(server, connections=1))]
    process = subprocess.Popen([sys.executable, "-c", program, *arguments])
    assert reached.wait(20)
    partial = tmp_path / FLAIR.replace("FLAIR", ".partial.FLAIR")
    deadline = time.monotonic() + 20
    while not partial.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert partial.exists()
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = {path for path in data_files(tmp_path) if ".partial." not in path}
    assert before
    assert FLAIR not in before
    server.requests.clear()
    obtain(server, tmp_path)
    assert {path for path, _ in server.requests} == NEEDED - before
    assert has_exactly(tmp_path, NEEDED)


def test_obtain_without_accepted_licence_sends_no_request(server: Server, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^datasets\.wmh\.download\.accept_licence: ") as raised:
        obtain(server, tmp_path / "wmh", accept_licence=False)
    for word in ("CC BY-NC 4.0 (https://licence)", f"https://doi.org/{DOI}", "set this key to true", "datasets.wmh.folder"):
        assert word in str(raised.value)
    assert server.requests == []
    assert not (tmp_path / "wmh").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda files: files[0].update(directoryLabel="../elsewhere"), ["leads out of the dataset's folder", "../elsewhere"]),
        (lambda files: files[0].update(directoryLabel="/etc"), ["leads out of the dataset's folder", "/etc"]),
        (lambda files: files[0]["dataFile"].pop("checksum"), ["not a listing of a Dataverse dataset", "checksum"]),
        (lambda files: files[0]["dataFile"]["checksum"].update(type="CRC"), ["unknown kind CRC"]),
        (lambda files: files.append(files[0]), ["more than once", "training/Utrecht/0/orig/FLAIR.nii.gz"]),
        (lambda files: files.clear(), ["none of its 0 files is a case of the WMH challenge"]),
    ],
    ids=["up", "absolute", "no checksum", "other checksum", "twice", "empty"],
)
def test_obtain_rejects_unsafe_or_invalid_listing(
    server: Server, tmp_path: Path, change: Callable[[list[dict[str, Any]]], Any], words: list[str]
) -> None:
    change(server.listing["files"])
    with pytest.raises(ValueError, match=r"/api/datasets/|doi:10") as raised:
        obtain(server, tmp_path)
    for word in words:
        assert word in str(raised.value)
    assert data_files(tmp_path) == set()


@pytest.mark.parametrize(
    ("faults", "words"),
    [
        ([respond_with(404)], ["404 Not Found", "Check `doi`, `version` and `server`"]),
        ([send_page], ["a web page instead"]),
        ([respond_with(500)] * 3, ["500 Internal Server Error", "3 attempts"]),
        ([lambda handler, _: send(handler, b"{}")], ["not a listing of a Dataverse dataset"]),
        ([stall] * 3, ["timeout: no data from the server", "3 attempts"]),
    ],
    ids=["404", "page", "500", "other JSON", "stall"],
)
def test_obtain_names_reason_of_missing_listing(server: Server, tmp_path: Path, faults: list[Fault], words: list[str]) -> None:
    server.faults["listing"] = list(faults)
    retry = replace(QUICK_RETRY, read_timeout=0.3 if stall in faults else QUICK_RETRY.read_timeout)
    with pytest.raises(ValueError, match="server") as raised:
        obtain(server, tmp_path, retry=retry)
    for word in words:
        assert word in str(raised.value)
    assert len(server.requests) == len(faults)


def test_obtain_follows_redirection(server: Server, tmp_path: Path) -> None:
    server.faults[FLAIR].append(redirect)
    assert obtain(server, tmp_path)["files"] == len(NEEDED)
    assert server.times(FLAIR) == 2
    assert (tmp_path / FLAIR).read_bytes() == server.files[FLAIR]


def test_obtain_stops_before_first_file_if_licence_changed(server: Server, tmp_path: Path) -> None:
    server.listing["license"] = {"name": "CC BY-NC-ND 4.0", "uri": "https://licence"}
    with pytest.raises(
        ValueError, match=r"datasets\.wmh\.download\.licence: you accepted CC BY-NC 4\.0 .* now states CC BY-NC-ND 4\.0"
    ):
        obtain(server, tmp_path)
    assert {path for path, _ in server.requests} == {"listing"}
    server.listing["license"] = {"name": "CC-BY-NC-4.0", "uri": "http://creativecommons.org/licenses/by-nc/4.0"}
    assert obtain(server, tmp_path)["licence"].startswith("CC-BY-NC-4.0")


def test_obtain_without_stated_licence_warns_and_downloads(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    del server.listing["license"]
    with caplog.at_level(logging.WARNING):
        assert obtain(server, tmp_path)["licence"] == "not stated"
    assert "the server states no licence; you accepted CC BY-NC 4.0" in caplog.text


def test_obtain_without_network_names_server_and_attempts(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no connection to http://127\.0\.0\.1:9/.*3 attempts"):
        obtain(None, tmp_path)


def test_obtain_checks_free_space_before_first_file(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10, 0, 10))
    with pytest.raises(ValueError, match=r"need \d\.\d\d GB, but only 0\.00 GB are free\. Free disk space"):
        obtain(server, tmp_path)
    assert [path for path, _ in server.requests] == ["listing"]


def test_obtain_rejects_locked_folder(server: Server, tmp_path: Path) -> None:
    with lock_folder(tmp_path), pytest.raises(BusyError, match="locked by another run"):
        obtain(server, tmp_path)


def make_copy(kind: str, place: Path, contents: dict[str, bytes], prefix: str = "dataverse_files/") -> Path:
    """Write a folder or zip file with these files below `prefix`."""
    if kind == "zip":
        with zipfile.ZipFile(place, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("MANIFEST.TXT", "as Dataverse puts it in")
            for path, body in contents.items():
                archive.writestr(prefix + path, body)
    else:
        for path, body in contents.items():
            (place / prefix / path).parent.mkdir(parents=True, exist_ok=True)
            (place / prefix / path).write_bytes(body)
    return place


@pytest.mark.parametrize("kind", ["folder", "zip"])
@pytest.mark.parametrize("prefix", ["", "dataverse_files/"])
def test_obtain_from_local_copy_sends_no_request(tmp_path: Path, kind: str, prefix: str) -> None:
    copy = make_copy(kind, tmp_path / "copy", published(), prefix)
    record = obtain(None, tmp_path / "wmh", source=str(copy))
    assert has_exactly(tmp_path / "wmh", NEEDED)
    assert (record["from"], record["verified_by"]) == (str(copy), "size and gzip")
    obtain(None, tmp_path / "all", source=str(copy), files="all")
    assert data_files(tmp_path / "all") >= set(published())


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_obtain_verifies_local_copy_with_stored_listing(server: Server, tmp_path: Path, kind: str) -> None:
    server.faults |= {FLAIR: [respond_with(404)], MASK: [respond_with(404)]}
    with pytest.raises(DownloadError):
        obtain(server, tmp_path / "wmh")
    server.requests.clear()
    contents = published()
    contents[FLAIR] = gzip.compress(b"another subject's scan")
    del contents[MASK]
    copy = make_copy(kind, tmp_path / "copy", contents)
    with pytest.raises(DownloadError) as raised:
        obtain(server, tmp_path / "wmh", source=str(copy))
    assert f"{FLAIR}: the content differs from the published file: it has" in str(raised.value)
    assert f"{MASK}: it is not in {copy}" in str(raised.value)
    assert str(raised.value).count("curl") == 2
    assert server.requests == []
    right = make_copy(kind, tmp_path / "right", published())
    assert obtain(None, tmp_path / "wmh", source=str(right))["verified_by"] == "size and checksum"
    assert has_exactly(tmp_path / "wmh", NEEDED)


def test_obtain_uses_listing_of_local_copy(server: Server, tmp_path: Path) -> None:
    obtain(server, tmp_path / "first")
    (tmp_path / "first" / FLAIR).write_bytes(gzip.compress(b"something else"))
    server.requests.clear()
    with pytest.raises(DownloadError, match="1 of 9 files"):
        obtain(server, tmp_path / "second", source=str(tmp_path / "first"))
    assert server.requests == []


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_obtain_finds_damaged_files_of_copy_without_listing(tmp_path: Path, kind: str) -> None:
    contents = published()
    contents[FLAIR] = contents[FLAIR][:-20]
    copy = make_copy(kind, tmp_path / "copy", contents)
    with pytest.raises(DownloadError, match="1 of 9 files") as raised:
        obtain(None, tmp_path / "wmh", source=str(copy))
    assert f"{FLAIR}: the content differs from the published file: it is not a complete gzip file" in str(raised.value)
    assert "curl" not in str(raised.value)  # without a listing its number is unknown
    assert has_exactly(tmp_path / "wmh", NEEDED - {FLAIR})


def test_obtain_finds_damage_inside_zip(tmp_path: Path) -> None:
    copy = make_copy("zip", tmp_path / "copy.zip", published())
    body = copy.read_bytes()
    where = body.index(FLAIR.encode()) + 1000
    copy.write_bytes(body[:where] + bytes([body[where] ^ 255]) + body[where + 1 :])
    with pytest.raises(DownloadError, match=rf"{FLAIR}: it is damaged in {copy}"):
        obtain(None, tmp_path / "wmh", source=str(copy))


@pytest.mark.parametrize(
    ("contents", "words"),
    [
        (None, "cannot be read as a folder or zip file"),
        ({"readme.txt": b""}, r"has no file training/\.\.\./wmh\.nii\.gz"),
        ({"a/training/0/wmh.nii.gz": b"", "b/training/0/wmh.nii.gz": b""}, "has several folders training/, below a/, b/"),
        ({"training/0/wmh.nii.gz": b"", "../../evil": b""}, "leads out of the dataset's folder"),
    ],
    ids=["no zip", "other data", "two copies", "leads out"],
)
def test_open_copy_rejects_other_data(tmp_path: Path, contents: dict[str, bytes] | None, words: str) -> None:
    copy = tmp_path / "copy.zip"
    if contents is None:
        copy.write_bytes(b"<html>no zip</html>")
    else:
        make_copy("zip", copy, contents, prefix="")
    with pytest.raises(ValueError, match=words):
        obtain(None, tmp_path / "wmh", source=str(copy), files="all")
    assert not (tmp_path / "evil").exists()


@pytest.mark.workflow
def test_workflow_downloads_missing_dataset_once(server: Server, tmp_path: Path) -> None:
    folder = copy_of_the_repository(tmp_path)
    target = ["results/wmh/cases.csv", "--config", "scale=paper", "--configfile", "own.yaml"]

    def configure(server: Server | None, **changes: Any) -> None:
        (folder / "own.yaml").write_text(json.dumps({"datasets": {"wmh": {"download": settings(server, **changes)}}}))

    configure(server)
    run = snakemake(folder, *target)
    assert run.returncode == 0, run.stdout + run.stderr
    assert has_exactly(folder / "data/wmh", NEEDED)
    assert (folder / "results/wmh/cases.csv").read_text(encoding="utf-8").count("\n") == 3

    # Neither a withdrawn acceptance nor an unreachable server makes the data stale.
    configure(None, accept_licence=False, connections=1)
    assert jobs(snakemake(folder, "-n", *target)) == {}

    # Scans without a record of ours belong to the user.
    for own in ("downloaded.json", "dataverse.json"):
        (folder / "data/wmh" / own).unlink()
    assert "download_wmh" not in jobs(snakemake(folder, "-n", *target))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"layout": "table", "table": "cases.csv"}, "`datasets.wmh.download`: it requires layout 'wmh_challenge'"),
        ({"download": settings(None, connections=5)}, "`datasets.wmh.download.connections`: 5"),
        ({"download": settings(None, accept_license=True)}, "Did you mean 'accept_licence'"),
        ({"download": settings(None, doi="doi:10.34894/AECRSD")}, "`datasets.wmh.download.doi`"),
    ],
    ids=["layout", "connections", "misspelt", "doi"],
)
def test_validate_rejects_invalid_download_settings(change: dict[str, Any], words: str) -> None:
    config = yaml.safe_load((ROOT / "config" / "config.yaml").read_text(encoding="utf-8"))
    config["datasets"]["wmh"] |= change
    with pytest.raises(ConfigError) as raised:
        validate(config)
    assert words in str(raised.value)


def test_validate_accepts_null_download() -> None:
    config = yaml.safe_load((ROOT / "config" / "config.yaml").read_text(encoding="utf-8"))
    validate(config)
    config["datasets"]["wmh"]["download"] = None
    validate(config)
