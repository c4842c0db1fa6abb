"""Data sets that are published as archives: a local server with the APIs of Zenodo and Mendeley Data, and unsafe archives."""

import hashlib
import io
import json
import re
import shutil
import stat
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from local_server import LocalHandler, LocalServer
from workflow_runs import ROOT

from pd_ddpm.config.errors import ConfigError
from pd_ddpm.config.validate import validate
from pd_ddpm.data.cases.origin import completion_files
from pd_ddpm.data.download import http, unpack
from pd_ddpm.data.download.obtain import DownloadError, obtain
from pd_ddpm.data.download.settings import DownloadSettings, RetryPolicy

QUICK_RETRY = RetryPolicy(attempts=3, first_wait=0.01, longest_wait=5, connect_timeout=5, read_timeout=5)
PELVIC = "10.5281/zenodo.7013610"
MUSCLE = "10.17632/3jykz7wz8d.1"


def zipped(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, body in members.items():
            archive.writestr(name, body)
    return buffer.getvalue()


def noise(seed: int, size: int = 3000) -> bytes:
    return np.random.default_rng(seed).bytes(size)


SCANS = {f"data/00000{number}_{part}.nii": noise(number) for number in range(2) for part in ("img", "mask")}
FILES = {
    "data.zip": zipped({"data/": b"", "__MACOSX/data/._000000_img.nii": b"x", **SCANS}),
    "institution.txt": b"000000 UCL\n000001 bergen\n",
    "paper.pdf": noise(9),
}


class Handler(LocalHandler):
    """The listings of both repositories, and files with ranges; `cut` ends the first responses early."""

    server: "Server"

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        self.server.requests.append((path, self.headers.get("Range")))
        if path == "/api/records/7013610":
            self.send(json.dumps(self.server.zenodo()).encode())
        elif path == "/public-api/datasets/3jykz7wz8d":
            assert query == "version=1"
            self.send(json.dumps(self.server.mendeley()).encode())
        else:
            self.send_file(self.server.files[path.removeprefix("/content/")])

    def send_file(self, body: bytes) -> None:
        start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").removesuffix("-"))
        status, headers = 200, {}
        if start and self.server.has_ranges:
            status, headers = 206, {"Content_Range": f"bytes {start}-{len(body) - 1}/{len(body)}"}
            body = body[start:]
        self.close_connection = bool(self.server.cut)
        end = self.server.cut.pop(0) if self.server.cut else len(body)
        self.send(body[:end], status, length=len(body), **headers)


class Server(LocalServer):
    def __init__(self) -> None:
        super().__init__(Handler)
        self.files = dict(FILES)
        self.requests: list[tuple[str, str | None]] = []
        self.cut: list[int] = []
        self.has_ranges = True
        self.version = 1

    def zenodo(self) -> dict[str, Any]:
        files = [
            {
                "key": name,
                "size": len(body),
                "checksum": f"md5:{hashlib.md5(body).hexdigest()}",
                "links": {"self": f"{self.url}/content/{name}"},
            }
            for name, body in self.files.items()
        ]
        return {"metadata": {"license": {"id": "cc-by-4.0"}}, "files": files}

    def mendeley(self) -> dict[str, Any]:
        files = [
            {
                "filename": name,
                "content_details": {
                    "size": len(body),
                    "sha256_hash": hashlib.sha256(body).hexdigest(),
                    "download_url": f"{self.url}/content/{name}",
                },
            }
            for name, body in self.files.items()
        ]
        return {"version": self.version, "data_licence": {"short_name": "CC BY 4.0"}, "files": files}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(http, "RESUMED_BYTES", 5000)
    with Server().running(monkeypatch) as server:
        yield server


def settings(url: str = "http://127.0.0.1:9", **changes: Any) -> dict[str, Any]:
    return {
        "repository": "zenodo",
        "accept_licence": True,
        "licence": "CC BY 4.0 (https://creativecommons.org/licenses/by/4.0/)",
        "server": url,
        "doi": PELVIC,
        "files": "needed",
        "connections": 2,
    } | changes


def get(folder: Path, url: str = "http://127.0.0.1:9", layout: str = "male_pelvic", **changes: Any) -> dict[str, Any]:
    keys = DownloadSettings(**settings(url, **changes))
    return obtain(folder, keys, key="datasets.pelvic", layout=layout, retry=QUICK_RETRY)


def contents(folder: Path) -> dict[str, bytes]:
    """Return the files in a folder, without those that the program adds."""
    own = {"zenodo.json", "mendeley.json", "lock"}
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in files.items() if name not in own}


def test_zenodo_files_are_verified_and_unpacked_once(server: Server, tmp_path: Path) -> None:
    expected = {name: FILES[name] for name in ("data.zip", "institution.txt")} | SCANS
    record = get(tmp_path, server.url)
    assert contents(tmp_path) == expected
    assert record == {
        "doi": PELVIC,
        "version": None,
        "licence": "cc-by-4.0",
        "from": server.url,
        "files": 2,
        "bytes": len(FILES["data.zip"]) + len(FILES["institution.txt"]),
        "verified_by": "size and checksum",
        "unpacked": 4,
    }
    # A repeated call, as after an interruption, restores what is missing or damaged and touches nothing else.
    server.requests.clear()
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.nii")}
    (missing, damaged), kept = (tmp_path / name for name in list(SCANS)[:2]), tmp_path / list(SCANS)[2]
    missing.unlink()
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"!")
    get(tmp_path, server.url)
    assert contents(tmp_path) == expected
    assert kept.stat().st_mtime_ns == times[kept]
    assert server.requests == []


def test_all_files_and_members_are_obtained_on_request(server: Server, tmp_path: Path) -> None:
    get(tmp_path, server.url, files="all")
    assert contents(tmp_path).keys() == FILES.keys() | SCANS.keys() | {"__MACOSX/data/._000000_img.nii"}


def test_mendeley_archive_of_any_name_is_unpacked(server: Server, tmp_path: Path) -> None:
    images = {f"Polito/data/MuscleCNN/{part}/BB_anon_1_1.png": noise(5) for part in ("train", "trainannot")}
    server.files = {"DATASET_10.1016.zip": zipped(images | {"Polito/code.m": b"%"}), "readme.txt": b"read me"}
    record = get(tmp_path, server.url, "muscle_us", repository="mendeley", doi=MUSCLE)
    assert contents(tmp_path) == images | {"DATASET_10.1016.zip": server.files["DATASET_10.1016.zip"]}
    assert (record["licence"], record["verified_by"], record["unpacked"]) == ("CC BY 4.0", "size and checksum", 2)
    source = {"layout": "muscle_us", "folder": str(tmp_path), "download": settings()}
    assert completion_files(source) == [f"{tmp_path}/downloaded.json"]
    server.version = 2
    with pytest.raises(ValueError, match=r"not a listing of a Mendeley Data dataset .*it describes version 2"):
        get(tmp_path / "new", server.url, "muscle_us", repository="mendeley", doi=MUSCLE)


@pytest.mark.parametrize("has_ranges", [True, False])
def test_large_file_resumes_where_the_connection_was_lost(server: Server, tmp_path: Path, has_ranges: bool) -> None:
    server.has_ranges, server.cut = has_ranges, [4000, 500]
    get(tmp_path, server.url, connections=1)
    assert contents(tmp_path)["data.zip"] == FILES["data.zip"]
    ranges = [start for path, start in server.requests if path == "/content/data.zip"]
    # A server without ranges sends everything again, and the second response ended after 500 bytes.
    assert ranges == [None, "bytes=4000-", "bytes=4500-" if has_ranges else "bytes=500-"]


def test_large_file_resumes_in_the_next_run(server: Server, tmp_path: Path) -> None:
    server.cut = [4000, 100, 100]
    with pytest.raises(DownloadError, match="the connection was lost before the end of the file") as raised:
        get(tmp_path, server.url, connections=1)
    assert f"--output {tmp_path}/data.zip {server.url}/content/data.zip" in str(raised.value)
    assert "data.zip" not in contents(tmp_path)
    server.requests.clear()
    get(tmp_path, server.url)
    assert server.requests == [("/content/data.zip", "bytes=4200-")]


def test_wrong_content_of_a_large_file_is_not_resumed(server: Server, tmp_path: Path) -> None:
    get(tmp_path, server.url)
    (tmp_path / "data.zip").rename(tmp_path / ".partial.data.zip")
    with (tmp_path / ".partial.data.zip").open("r+b") as partial:
        partial.write(b"!")
        partial.truncate(6000)
    server.requests.clear()
    get(tmp_path, server.url)
    assert [start for _, start in server.requests] == ["bytes=6000-", None]
    assert contents(tmp_path)["data.zip"] == FILES["data.zip"]


@pytest.mark.parametrize("source", ["folder", "archive"])
def test_local_copy_is_unpacked_without_a_request(tmp_path: Path, source: str) -> None:
    copy = tmp_path / "copy" / "sub"
    copy.mkdir(parents=True)
    (copy / "data.zip").write_bytes(FILES["data.zip"])
    record = get(tmp_path / "new", source=str(copy.parent if source == "folder" else copy / "data.zip"))
    assert contents(tmp_path / "new") == SCANS | {"data.zip": FILES["data.zip"]}
    assert record["unpacked"] == 4
    (copy / "data.zip").unlink()
    with pytest.raises(ValueError, match=r"has no file data\.zip\. Set it to the folder with the published files"):
        get(tmp_path / "none", source=str(copy))


def test_licence_is_checked_before_the_first_file(server: Server, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"accept_licence: the data are published under CC BY 4\.0") as raised:
        get(tmp_path, server.url, accept_licence=False)
    assert f"https://doi.org/{PELVIC}" in str(raised.value)
    with pytest.raises(ValueError, match=r"you accepted CC BY-NC 4\.0, but the server now states cc-by-4\.0"):
        get(tmp_path, server.url, licence="CC BY-NC 4.0")
    assert [path for path, _ in server.requests] == ["/api/records/7013610"]


def test_listing_without_the_archive_or_of_another_kind_is_refused(server: Server, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none of its 3 files is the file amos22\.zip"):
        get(tmp_path / "a", server.url, "amos")
    server.zenodo = lambda: {"metadata": {}, "files": [{"key": "../x", "size": 1, "checksum": "md5:0", "links": {"self": "x"}}]}
    with pytest.raises(ValueError, match="leads out of the dataset's folder"):
        get(tmp_path / "b", server.url)
    server.zenodo = lambda: {"metadata": {}, "files": [{"key": "x", "size": 1, "checksum": "crc:0", "links": {"self": "x"}}]}
    with pytest.raises(ValueError, match="of an unknown kind"):
        get(tmp_path / "c", server.url)


def link_entry(archive: zipfile.ZipFile) -> None:
    entry = zipfile.ZipInfo("data/1_img.nii")
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    archive.writestr(entry, "/etc/passwd")


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda archive: archive.writestr("data/../../evil", b"x"), "leads out of the dataset's folder"),
        (lambda archive: archive.writestr("/evil", b"x"), "leads out of the dataset's folder"),
        (link_entry, "is no regular file"),
        (lambda archive: archive.writestr("data/zeros", bytes(10**6), zipfile.ZIP_DEFLATED), "would expand from"),
        (lambda archive: None, "holds none of the files that are needed"),
    ],
    ids=["up", "absolute", "link", "bomb", "empty"],
)
def test_unpack_refuses_unsafe_archives_before_writing(
    tmp_path: Path, write: Callable[[zipfile.ZipFile], None], words: str
) -> None:
    folder = tmp_path / "inner" / "folder"
    folder.mkdir(parents=True)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("other/good", b"x") if words.startswith("holds") else archive.writestr("data/good", b"x")
        write(archive)
    pattern = "data/.*" if words.startswith("holds") else ".*"
    with pytest.raises(ValueError, match=words):
        unpack.unpack([tmp_path / "a.zip"], folder, pattern)
    assert not list(folder.rglob("*"))
    assert not (tmp_path / "inner" / "evil").exists()


def test_unpack_refuses_links_in_the_folder_damage_and_lack_of_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, outside = tmp_path / "folder", tmp_path / "outside"
    folder.mkdir()
    outside.mkdir()
    (folder / "data").symlink_to(outside)
    path = tmp_path / "a.zip"
    path.write_bytes(FILES["data.zip"])
    with pytest.raises(ValueError, match="would be written through a link"):
        unpack.unpack([path], folder, "data/.*")
    assert not list(outside.iterdir())
    (folder / "data").unlink()
    body = FILES["data.zip"]
    middle = body.index(b"data/000001_img.nii") + 1000
    path.write_bytes(body[:middle] + bytes([body[middle] ^ 255]) + body[middle + 1 :])
    with pytest.raises(ValueError, match="cannot be unpacked"):
        unpack.unpack([path], folder, "data/.*")
    assert not [file for file in folder.rglob("*") if "000001_img" in file.name]
    path.write_bytes(body)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10, 0, 10))
    with pytest.raises(ValueError, match=r"need 6\.0 kB, but only 0\.0 kB are free|need \d+\.\d kB, but only 0\.0 kB are free"):
        unpack.unpack([path], folder, "data/.*")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"version": "1.0"}, r"`datasets\.x\.download\.version`: the DOI names the version"),
        ({"doi": "10.34894/AECRSD"}, r"`datasets\.x\.download\.doi`: .* is no DOI of the repository"),
        ({"repository": "dataverse"}, r"`datasets\.x\.download\.version`: it is missing"),
        ({}, None),
    ],
    ids=["version", "doi", "no version", "valid"],
)
def test_download_keys_fit_the_repository(change: dict[str, Any], words: str | None) -> None:
    config = yaml.safe_load((ROOT / "config" / "config.yaml").read_text(encoding="utf-8"))
    download = settings("https://zenodo.org") | change
    source = {"layout": "male_pelvic", "folder": "data/x", "channels": ["T2"], "download": download}
    config["datasets"]["x"] = source
    if words is None:
        validate(config)
        config["datasets"]["x"] = source | {"layout": "brats", "channels": ["T2"]}
        words = r"`datasets\.x\.download`: BraTS needs an account .* synapse\.org \(syn25829067\)"
    with pytest.raises(ConfigError) as raised:
        validate(config)
    assert re.search(words, str(raised.value))
