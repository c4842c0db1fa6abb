"""A data set's download, against a local server that speaks Dataverse's API and misbehaves; about fifteen seconds."""

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
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
import yaml
from workflow_runs import ROOT, copy_of_the_repository, jobs, snakemake

from pd_ddpm.config.errors import ConfigError
from pd_ddpm.config.validate import validate
from pd_ddpm.data.download import http, verify
from pd_ddpm.data.download import obtain as obtaining
from pd_ddpm.data.download.http import Patience
from pd_ddpm.data.download.obtain import DownloadError
from pd_ddpm.runtime.files import BusyError, lock_folder

DOI = "10.34894/AECRSD"
HASTY = Patience(attempts=3, first_wait=0.01, longest_wait=5, connect_timeout=5, read_timeout=5)
HELD_OUT = {
    *(f"test/Amsterdam/Philips_VU .PETMR_01./160/{name}" for name in ("pre/FLAIR.nii.gz", "wmh.nii.gz")),
    *(f"test/Amsterdam/Philips_VU .PETMR_01./160/orig/{name}" for name in ("3DT1.nii.gz", "reg_3DT1_to_FLAIR.txt")),
}
PHILIPS = "test/Amsterdam/Philips_VU .PETMR_01./160"
FLAIR = "training/Utrecht/0/pre/FLAIR.nii.gz"
MASK = "training/Amsterdam/GE3T/100/wmh.nii.gz"
NEEDED = {
    *(f"training/{case}/{name}" for case in ("Utrecht/0", "Amsterdam/GE3T/100") for name in ("pre/FLAIR.nii.gz", "wmh.nii.gz")),
    *(f"training/Utrecht/0/orig/{name}" for name in ("3DT1.nii.gz", "reg_3DT1_to_FLAIR.txt")),
    "training/Amsterdam/GE3T/100/pre/T1.nii.gz",  # its 3D T1 has no transform
    "additional_annotations/observer_o3/training/Utrecht/0/result.nii.gz",
    "additional_annotations/observer_o4/training/Utrecht/0/result.nii.gz",
}

Fault = Callable[["Handler", bytes], None]


def published() -> dict[str, bytes]:
    """A small data set in the challenge's layout: path -> content."""
    random = np.random.default_rng(0)
    names = ["orig/FLAIR.nii.gz", "orig/3DT1.nii.gz", "orig/reg_3DT1_to_FLAIR.txt", "wmh.nii.gz"]
    names += [f"pre/{channel}.nii.gz" for channel in ("FLAIR", "T1", "3DT1")]
    paths = [f"{case}/{name}" for case in ("training/Utrecht/0", "training/Amsterdam/GE3T/100", PHILIPS) for name in names]
    paths += [f"additional_annotations/observer_{name}/training/Utrecht/0/result.nii.gz" for name in ("o3", "o4")]
    paths.remove("training/Amsterdam/GE3T/100/orig/reg_3DT1_to_FLAIR.txt")
    contents = {path: random.bytes(3000) for path in [*paths, "readme.txt"]}
    return {path: gzip.compress(body, mtime=0) if path.endswith(".gz") else body for path, body in contents.items()}


class Handler(BaseHTTPRequestHandler):
    """Dataverse's listing and file access; before a file is sent, the faults that were set for its path are played."""

    server: "Server"
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: Any) -> None:
        pass

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


class Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
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
        """A client that went away, or was killed, is what some tests are about."""

    def times(self, path: str) -> int:
        return [name for name, _ in self.requests].count(path)


def send(handler: Handler, body: bytes, status: int = 200, length: int | None = None, **headers: str) -> None:
    handler.send_response(status)
    for name, value in ({"Content_Type": "application/gzip"} | headers).items():
        handler.send_header(name.replace("_", "-"), value)
    handler.send_header("Content-Length", str(len(body) if length is None else length))
    handler.end_headers()
    handler.wfile.write(body)


def says(status: int, **headers: str) -> Fault:
    message = json.dumps({"status": "ERROR", "message": "the server's own words"}).encode()
    return lambda handler, _: send(handler, message, status, **headers)


def stalls(handler: Handler, body: bytes) -> None:
    send(handler, body[: len(body) // 2], length=len(body))
    time.sleep(1)
    handler.close_connection = True


def ends_early(handler: Handler, body: bytes) -> None:
    send(handler, body[: len(body) // 2], length=len(body))
    handler.close_connection = True


def drops(handler: Handler, body: bytes) -> None:
    send(handler, body[: len(body) // 2], length=len(body))
    handler.wfile.flush()
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()
    handler.close_connection = True


def flips_a_bit(handler: Handler, body: bytes) -> None:
    send(handler, bytes([body[0] ^ 1]) + body[1:])


def sends_a_page(handler: Handler, body: bytes) -> None:
    send(handler, b"<html>Please agree to our terms.</html>", Content_Type="text/html; charset=utf-8")


def redirects(handler: Handler, body: bytes) -> None:
    """As Dataverse does where its files lie in another store: elsewhere on this server the same file is sent."""
    handler.send_response(303)
    handler.send_header("Location", handler.path + "?from=store")
    handler.send_header("Content-Length", "0")
    handler.end_headers()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def settings(server: Server | None, **changes: Any) -> dict[str, Any]:
    """The keys of datasets.wmh.download."""
    return {
        "accept_licence": True,
        "licence": "CC BY-NC 4.0 (https://licence)",
        "server": server.url if server else "http://127.0.0.1:9",
        "doi": DOI,
        "version": "1.0",
        "files": "needed",
        "connections": 4,
    } | changes


def obtain(server: Server | None, folder: Path, **changes: Any) -> dict[str, Any]:
    return obtaining.obtain(folder, key="datasets.wmh", **{"patience": HASTY} | settings(server, **changes))


def there(folder: Path) -> set[str]:
    """The data's files in a folder, without the program's own."""
    own = {"dataverse.json", "downloaded.json", "lock"}
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} - own


def whole(folder: Path, paths: set[str]) -> bool:
    contents = published()
    return there(folder) == paths and all((folder / path).read_bytes() == contents[path] for path in paths)


def test_what_the_layout_reads_is_fetched_and_verified(server: Server, tmp_path: Path) -> None:
    record = obtain(server, tmp_path / "wmh")
    assert whole(tmp_path / "wmh", NEEDED)
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


def test_all_files_keep_their_published_names(server: Server, tmp_path: Path) -> None:
    obtain(server, tmp_path, files="all")
    assert whole(tmp_path, set(server.files))
    assert (tmp_path / "test" / "Amsterdam" / "Philips_VU .PETMR_01." / "160" / "wmh.nii.gz").is_file()


def test_the_held_out_part_is_fetched_for_itself(server: Server, tmp_path: Path) -> None:
    observer = f"additional_annotations/observer_o4/{PHILIPS}/result.nii.gz"
    server.files[observer] = gzip.compress(b"a third rater's mask", mtime=0)
    server.listing["files"] = server.entries()
    obtain(server, tmp_path / "both")
    assert there(tmp_path / "both") == NEEDED
    assert obtain(server, tmp_path / "held out", part="held_out")["files"] == 5
    assert there(tmp_path / "held out") == HELD_OUT | {observer}


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_the_held_out_part_of_a_copy(tmp_path: Path, kind: str) -> None:
    copy = copy_of_the_data(kind, tmp_path / "copy", published())
    obtain(None, tmp_path / "held out", source=str(copy), part="held_out")
    assert whole(tmp_path / "held out", HELD_OUT)
    only = copy_of_the_data(kind, tmp_path / "only", {path: body for path, body in published().items() if path in NEEDED})
    with pytest.raises(ValueError, match=r"no test/\.\.\./wmh\.nii\.gz is in it"):
        obtain(None, tmp_path / "nothing", source=str(only), part="held_out")


def test_nothing_is_requested_when_all_is_there(server: Server, tmp_path: Path) -> None:
    obtain(server, tmp_path)
    server.requests.clear()
    assert obtain(server, tmp_path)["files"] == len(NEEDED)
    assert server.requests == []


def test_only_lost_and_damaged_files_are_fetched_again(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    obtain(server, tmp_path)
    server.requests.clear()
    (tmp_path / FLAIR).unlink()
    (tmp_path / MASK).write_bytes(bytes([0, *(tmp_path / MASK).read_bytes()[1:]]))
    obtain(server, tmp_path)
    assert sorted(path for path, _ in server.requests) == sorted([FLAIR, MASK])
    assert whole(tmp_path, NEEDED)
    assert f"{MASK}: its sha1 is" in caplog.text


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (says(500), "the server answered 500 Internal Server Error"),
        (says(503), "the server answered 503 Service Unavailable"),
        (says(429), "the server answered 429 Too Many Requests"),
        (stalls, "time-out: nothing came from the server for 0.3 s"),
        (ends_early, "the connection broke off before the end of the file"),
        (drops, "the connection broke off before the end of the file"),
        (lambda handler, body: send(handler, body[:-7]), "it has"),
        (lambda handler, body: send(handler, body + b"more"), "more than its"),
        (flips_a_bit, "its sha1 is"),
    ],
    ids=["500", "503", "429", "time-out", "short body", "dropped connection", "shortened file", "too long", "wrong checksum"],
)
def test_passing_faults_are_tried_again_until_patience_ends(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture, fault: Fault, words: str
) -> None:
    caplog.set_level(logging.INFO)
    patience = replace(HASTY, read_timeout=0.3 if fault is stalls else HASTY.read_timeout)
    server.faults[FLAIR] = [fault]
    obtain(server, tmp_path / "once", patience=patience)
    assert whole(tmp_path / "once", NEEDED)
    assert server.times(FLAIR) == 2
    assert f"{FLAIR}: " in caplog.text
    assert f"{words}" in caplog.text
    assert "attempt 2 of 3" in caplog.text

    server.faults[FLAIR] = [fault] * 3
    with pytest.raises(DownloadError, match=r"1 of 9 files could not be obtained") as raised:
        obtain(server, tmp_path / "always", patience=patience)
    assert server.times(FLAIR) == 2 + 3
    assert words in str(raised.value)
    assert "(tried 3 times)" in str(raised.value)
    assert whole(tmp_path / "always", NEEDED - {FLAIR})  # no partial file is left either


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (says(401), ["401 Unauthorized (the server's own words)", "asks for a login"]),
        (says(403), ["403 Forbidden (the server's own words)", "is restricted"]),
        (says(404), ["404 Not Found (the server's own words)", "Check doi, version and server"]),
        (says(400), ["400 Bad Request (the server's own words)", "guestbook"]),
        (sends_a_page, ["a web page instead of the file", "in a browser"]),
        (says(503, Retry_After="4000"), ["503 Service Unavailable", "left alone for 4000 s"]),
    ],
    ids=["401", "403", "404", "400", "page", "a wait too long"],
)
def test_lasting_faults_are_not_tried_again_and_stop_no_other_file(
    server: Server, tmp_path: Path, fault: Fault, words: list[str]
) -> None:
    server.faults[FLAIR] = [fault]
    with pytest.raises(DownloadError) as raised:
        obtain(server, tmp_path / "my data")
    assert server.times(FLAIR) == 1
    assert whole(tmp_path / "my data", NEEDED - {FLAIR})
    number = 1000 + list(server.files).index(FLAIR)
    command = (
        f"curl --fail --location --create-dirs --output '{tmp_path}/my data/{FLAIR}' {server.url}/api/access/datafile/{number}"
    )
    for word in [f"{tmp_path}/my data: 1 of 9 files", FLAIR, *words, command]:
        assert word in str(raised.value)


def test_the_wait_that_the_server_asks_for_is_kept(server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    server.faults[FLAIR] = [says(429, Retry_After="1")]
    obtain(server, tmp_path)
    first, second = (moment for path, moment in server.requests if path == FLAIR)
    assert second - first >= 1
    assert "429 Too Many Requests; attempt 2 of 3 in 1 s" in caplog.text


def test_a_date_to_wait_for_is_understood() -> None:
    assert http._seconds("Fri, 31 Dec 1999 23:59:59 GMT") == 0
    assert http._seconds("Fri, 31 Dec 2999 23:59:59 GMT") > 1e9
    assert http._seconds("17") == 17
    assert http._seconds("soon") == 0


def test_waits_double() -> None:
    waits = []

    class Watch(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            waits.append(timeout)
            return False

    def attempt() -> None:
        raise verify.PassingFault("no luck")

    with pytest.raises(ValueError, match=r"no luck \(tried 8 times\)"):
        http.with_retries(attempt, Patience(attempts=8, first_wait=2, longest_wait=30), Watch(), "file")
    plain = np.array([2, 4, 8, 16, 30, 30, 30])
    assert (np.array(waits) >= 0.75 * plain).all()
    assert (np.array(waits) <= 1.25 * plain).all()


def test_a_file_that_is_declared_as_compressed_transfer_is_stored_as_it_is(server: Server, tmp_path: Path) -> None:
    server.faults[FLAIR] = [lambda handler, body: send(handler, body, Content_Encoding="gzip")]
    obtain(server, tmp_path)
    assert whole(tmp_path, NEEDED)
    assert server.times(FLAIR) == 1


def test_at_most_four_files_come_at_a_time(server: Server, tmp_path: Path) -> None:
    def slowly(handler: Handler, body: bytes) -> None:
        time.sleep(0.05)
        send(handler, body)

    for path in server.files:
        server.faults[path] = [slowly]
    obtain(server, tmp_path, files="all")
    assert server.most == 4


def test_a_server_that_refuses_everything_is_left_alone(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(obtaining, "FAILURES_IN_A_ROW", 5)
    for path in server.files:
        server.faults[path] = [says(403)]
    with pytest.raises(DownloadError, match="not tried, because 5 files in a row had failed") as raised:
        obtain(server, tmp_path, files="all", connections=1)
    assert len(server.requests) < len(server.files)
    assert str(raised.value).count("curl --fail") == len(server.files)


def test_a_killed_download_goes_on_where_it_was(server: Server, tmp_path: Path) -> None:
    reached = threading.Event()

    def halts(handler: Handler, body: bytes) -> None:
        send(handler, body[:100], length=len(body))
        handler.wfile.flush()
        reached.set()
        time.sleep(1)
        handler.close_connection = True

    server.faults[FLAIR] = [halts]
    program = (
        "import json, sys; from pd_ddpm.data.download.obtain import obtain;"
        "obtain(sys.argv[1], key='datasets.wmh', **json.loads(sys.argv[2]))"
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
    before = {path for path in there(tmp_path) if ".partial." not in path}
    assert before
    assert FLAIR not in before
    server.requests.clear()
    obtain(server, tmp_path)
    assert {path for path, _ in server.requests} == NEEDED - before
    assert whole(tmp_path, NEEDED)


def test_without_the_licence_nothing_is_requested(server: Server, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^datasets\.wmh\.download\.accept_licence: ") as raised:
        obtain(server, tmp_path / "wmh", accept_licence=False)
    for word in ("CC BY-NC 4.0 (https://licence)", f"https://doi.org/{DOI}", "set this key to true", "datasets.wmh.folder"):
        assert word in str(raised.value)
    assert server.requests == []
    assert not (tmp_path / "wmh").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda files: files[0].update(directoryLabel="../elsewhere"), ["leads out of the data set's folder", "../elsewhere"]),
        (lambda files: files[0].update(directoryLabel="/etc"), ["leads out of the data set's folder", "/etc"]),
        (lambda files: files[0]["dataFile"].pop("checksum"), ["no listing of a Dataverse data set", "checksum"]),
        (lambda files: files[0]["dataFile"]["checksum"].update(type="CRC"), ["unknown kind CRC"]),
        (lambda files: files.append(files[0]), ["more than once", "training/Utrecht/0/orig/FLAIR.nii.gz"]),
        (lambda files: files.clear(), ["none of its 0 files is a case of the WMH challenge"]),
    ],
    ids=["up", "absolute", "no checksum", "other checksum", "twice", "empty"],
)
def test_a_listing_that_cannot_be_trusted_is_refused(
    server: Server, tmp_path: Path, change: Callable[[list[dict[str, Any]]], Any], words: list[str]
) -> None:
    change(server.listing["files"])
    with pytest.raises(ValueError, match=r"/api/datasets/|doi:10") as raised:
        obtain(server, tmp_path)
    for word in words:
        assert word in str(raised.value)
    assert there(tmp_path) == set()


@pytest.mark.parametrize(
    ("faults", "words"),
    [
        ([says(404)], ["404 Not Found", "Check doi, version and server"]),
        ([sends_a_page], ["a web page instead"]),
        ([says(500)] * 3, ["500 Internal Server Error", "tried 3 times"]),
        ([lambda handler, _: send(handler, b"{}")], ["no listing of a Dataverse data set"]),
        ([stalls] * 3, ["time-out: nothing came from the server", "tried 3 times"]),
    ],
    ids=["404", "page", "500", "other JSON", "stalls"],
)
def test_a_listing_that_does_not_come_says_why(server: Server, tmp_path: Path, faults: list[Fault], words: list[str]) -> None:
    server.faults["listing"] = list(faults)
    patience = replace(HASTY, read_timeout=0.3 if stalls in faults else HASTY.read_timeout)
    with pytest.raises(ValueError, match="server") as raised:
        obtain(server, tmp_path, patience=patience)
    for word in words:
        assert word in str(raised.value)
    assert len(server.requests) == len(faults)


def test_a_redirection_to_a_store_is_followed(server: Server, tmp_path: Path) -> None:
    server.faults[FLAIR].append(redirects)
    assert obtain(server, tmp_path)["files"] == len(NEEDED)
    assert server.times(FLAIR) == 2
    assert (tmp_path / FLAIR).read_bytes() == server.files[FLAIR]


def test_another_licence_than_the_accepted_one_stops_before_the_first_file(server: Server, tmp_path: Path) -> None:
    server.listing["license"] = {"name": "CC BY-NC-ND 4.0", "uri": "https://licence"}
    with pytest.raises(
        ValueError, match=r"datasets\.wmh\.download\.licence: CC BY-NC 4\.0 .* server now says CC BY-NC-ND 4\.0"
    ):
        obtain(server, tmp_path)
    assert {path for path, _ in server.requests} == {"listing"}
    server.listing["license"] = {"name": "CC-BY-NC-4.0", "uri": "http://creativecommons.org/licenses/by-nc/4.0"}
    assert obtain(server, tmp_path)["licence"].startswith("CC-BY-NC-4.0")


def test_without_a_stated_licence_the_files_come_and_it_is_said(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    del server.listing["license"]
    with caplog.at_level(logging.WARNING):
        assert obtain(server, tmp_path)["licence"] == "not stated"
    assert "the server states no licence; CC BY-NC 4.0" in caplog.text


def test_no_network_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no connection to http://127\.0\.0\.1:9/.*tried 3 times"):
        obtain(None, tmp_path)


def test_a_full_disk_is_seen_before(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10, 0, 10))
    with pytest.raises(ValueError, match=r"GB are to come and 0\.00 GB are free; make room first"):
        obtain(server, tmp_path)
    assert [path for path, _ in server.requests] == ["listing"]


def test_one_download_at_a_time_uses_a_folder(server: Server, tmp_path: Path) -> None:
    with lock_folder(tmp_path), pytest.raises(BusyError, match="locked by another run"):
        obtain(server, tmp_path)


def copy_of_the_data(kind: str, place: Path, contents: dict[str, bytes], prefix: str = "dataverse_files/") -> Path:
    """A folder or zip with these files below `prefix`."""
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
def test_a_copy_is_taken_without_any_request(tmp_path: Path, kind: str, prefix: str) -> None:
    copy = copy_of_the_data(kind, tmp_path / "copy", published(), prefix)
    record = obtain(None, tmp_path / "wmh", source=str(copy))
    assert whole(tmp_path / "wmh", NEEDED)
    assert (record["from"], record["verified_by"]) == (str(copy), "size and gzip")
    obtain(None, tmp_path / "all", source=str(copy), files="all")
    assert there(tmp_path / "all") >= set(published())


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_a_copy_is_verified_by_the_listing_where_one_is_at_hand(server: Server, tmp_path: Path, kind: str) -> None:
    server.faults |= {FLAIR: [says(404)], MASK: [says(404)]}
    with pytest.raises(DownloadError):
        obtain(server, tmp_path / "wmh")
    server.requests.clear()
    contents = published()
    contents[FLAIR] = gzip.compress(b"another subject's scan")
    del contents[MASK]
    copy = copy_of_the_data(kind, tmp_path / "copy", contents)
    with pytest.raises(DownloadError) as raised:
        obtain(server, tmp_path / "wmh", source=str(copy))
    assert f"{FLAIR}: what came is not the published file: it has" in str(raised.value)
    assert f"{MASK}: it is not in {copy}" in str(raised.value)
    assert str(raised.value).count("curl") == 2
    assert server.requests == []
    right = copy_of_the_data(kind, tmp_path / "right", published())
    assert obtain(None, tmp_path / "wmh", source=str(right))["verified_by"] == "size and checksum"
    assert whole(tmp_path / "wmh", NEEDED)


def test_a_folder_of_another_download_brings_its_listing(server: Server, tmp_path: Path) -> None:
    obtain(server, tmp_path / "first")
    (tmp_path / "first" / FLAIR).write_bytes(gzip.compress(b"something else"))
    server.requests.clear()
    with pytest.raises(DownloadError, match="1 of 9 files"):
        obtain(server, tmp_path / "second", source=str(tmp_path / "first"))
    assert server.requests == []


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_damaged_files_of_a_copy_are_found_without_a_listing(tmp_path: Path, kind: str) -> None:
    contents = published()
    contents[FLAIR] = contents[FLAIR][:-20]
    copy = copy_of_the_data(kind, tmp_path / "copy", contents)
    with pytest.raises(DownloadError, match="1 of 9 files") as raised:
        obtain(None, tmp_path / "wmh", source=str(copy))
    assert f"{FLAIR}: what came is not the published file: it is no whole gzip file" in str(raised.value)
    assert "curl" not in str(raised.value)  # nobody knows its number
    assert whole(tmp_path / "wmh", NEEDED - {FLAIR})


def test_a_zip_that_is_damaged_inside_is_found(tmp_path: Path) -> None:
    copy = copy_of_the_data("zip", tmp_path / "copy.zip", published())
    body = copy.read_bytes()
    where = body.index(FLAIR.encode()) + 1000
    copy.write_bytes(body[:where] + bytes([body[where] ^ 255]) + body[where + 1 :])
    with pytest.raises(DownloadError, match=rf"{FLAIR}: it is damaged in {copy}"):
        obtain(None, tmp_path / "wmh", source=str(copy))


@pytest.mark.parametrize(
    ("contents", "words"),
    [
        (None, "cannot be read as a folder or zip"),
        ({"readme.txt": b""}, r"no training/\.\.\./wmh\.nii\.gz is in it"),
        ({"a/training/0/wmh.nii.gz": b"", "b/training/0/wmh.nii.gz": b""}, "several training/ lie in it, below a/, b/"),
        ({"training/0/wmh.nii.gz": b"", "../../evil": b""}, "leads out of the data set's folder"),
    ],
    ids=["no zip", "other data", "two copies", "leads out"],
)
def test_what_is_no_copy_is_refused(tmp_path: Path, contents: dict[str, bytes] | None, words: str) -> None:
    copy = tmp_path / "copy.zip"
    if contents is None:
        copy.write_bytes(b"<html>no zip</html>")
    else:
        copy_of_the_data("zip", copy, contents, prefix="")
    with pytest.raises(ValueError, match=words):
        obtain(None, tmp_path / "wmh", source=str(copy), files="all")
    assert not (tmp_path / "evil").exists()


@pytest.mark.workflow
def test_the_workflow_fetches_what_is_not_there(server: Server, tmp_path: Path) -> None:
    folder = copy_of_the_repository(tmp_path)
    target = ["results/wmh/cases.csv", "--config", "scale=paper", "--configfile", "own.yaml"]

    def configure(server: Server | None, **changes: Any) -> None:
        (folder / "own.yaml").write_text(json.dumps({"datasets": {"wmh": {"download": settings(server, **changes)}}}))

    configure(server)
    run = snakemake(folder, *target)
    assert run.returncode == 0, run.stdout + run.stderr
    assert whole(folder / "data/wmh", NEEDED)
    assert (folder / "results/wmh/cases.csv").read_text(encoding="utf-8").count("\n") == 3

    # Neither a withdrawn consent nor a lost server makes the data stale.
    configure(None, accept_licence=False, connections=1)
    assert jobs(snakemake(folder, "-n", *target)) == {}

    # Scans that lie there without our record are somebody's own.
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
def test_settings_that_cannot_be_are_refused(change: dict[str, Any], words: str) -> None:
    config = yaml.safe_load((ROOT / "config" / "config.yaml").read_text(encoding="utf-8"))
    config["datasets"]["wmh"] |= change
    with pytest.raises(ConfigError) as raised:
        validate(config)
    assert words in str(raised.value)


def test_null_says_that_nothing_is_fetched() -> None:
    config = yaml.safe_load((ROOT / "config" / "config.yaml").read_text(encoding="utf-8"))
    validate(config)
    config["datasets"]["wmh"]["download"] = None
    validate(config)
