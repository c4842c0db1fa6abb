"""Scans from a published Dataverse data set: listed, fetched or taken from a copy, verified by size and checksum.

pooch is not used: it repeats a download whatever the server answered, 403 and 404 included, knows no Retry-After, and
its Dataverse mode fails on servers that publish SHA-1 and loses the folders of files that share a name.
"""

import gzip
import hashlib
import json
import logging
import random
import re
import shlex
import shutil
import threading
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from importlib.metadata import version as version_of
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import requests
import urllib3

from pd_ddpm.cohort import OBSERVERS, PARTS
from pd_ddpm.console import progress
from pd_ddpm.files import held, replacing, write_json

Result = TypeVar("Result")
log = logging.getLogger(__name__)

LISTING = "dataverse.json"  # the published files, beside the data that were fetched by it
RECORD = "downloaded.json"  # written last
CHECKSUMS = {"SHA-1": "sha1", "MD5": "md5", "SHA-256": "sha256", "SHA-512": "sha512"}
FAILURES_IN_A_ROW = 20  # after so many the server is left alone
CHUNK_BYTES = 2**16

REMEDIES = {
    400: "The server may ask for its guestbook or for its terms to be agreed to: open the data set's page in a browser.",
    401: "The file asks for a login: open the data set's page in a browser.",
    403: "The file is restricted, or the server turns programs away: open the data set's page in a browser.",
    404: "Check doi, version and server in the configuration, and the data set's page in a browser.",
}


@dataclass(frozen=True)
class PublishedFile:
    """A file of a data set: `path` as published, with its folders; `checksum` as algorithm:hex, empty if unknown.

    `number` is the file's id in the server's API, None if unknown.
    """

    path: str
    size: int
    checksum: str = ""
    number: int | None = None


@dataclass(frozen=True)
class Listing:
    """The files of one version of a data set, and under which licence they are published."""

    doi: str
    version: str
    licence: str
    files: tuple[PublishedFile, ...]


@dataclass(frozen=True)
class Patience:
    """How long to bear with a server: attempts of each file, and seconds.

    The wait doubles with each attempt and is `longest_wait` at most; a server that asks for more is not asked again.
    """

    attempts: int = 6
    first_wait: float = 2.0
    longest_wait: float = 600.0
    connect_timeout: float = 15.0
    read_timeout: float = 120.0


class PassingFault(ValueError):
    """A fault that may be gone at the next attempt, before which the server wants `wait` seconds to pass."""

    def __init__(self, message: str, wait: float = 0.0) -> None:
        super().__init__(message)
        self.wait = wait


class DownloadError(ValueError):
    """Some files could not be obtained; the message lists each, why, and the command to get it by hand."""


def obtain(
    folder: str | Path,
    *,
    key: str,
    server: str,
    doi: str,
    version: str,
    licence: str,
    accept_licence: bool,
    files: str,
    connections: int,
    part: str = "training",
    source: str | None = None,
    patience: Patience | None = None,
) -> dict[str, Any]:
    """Bring a data set's files into `folder`, and return the record of what is there.

    files: "needed", those of one `part` of the WMH challenge, "training" or "held_out" (its `test/`), or "all" of both.
    They come from the Dataverse server, at most `connections` at a time, or, without any request, from the folder or zip
    `source`. Files that are there and equal the published ones are left alone. `key` is the data set's key in the
    configuration, for messages.

    Raises ValueError if the licence has not been accepted or nothing can be listed, BusyError if another run is using the
    folder, and DownloadError, after all other files have been obtained, for those that could not be.
    """
    if not accept_licence:
        raise ValueError(
            f"{key}.download.accept_licence: the data are published under {licence}. Read it there and at "
            f"https://doi.org/{doi}; if you agree, set this key to true, in the configuration or in a file of your own for "
            f"--configfile. Data that you have already can lie in {key}.folder ({folder}) instead."
        )
    folder, patience = Path(folder), patience or Patience()
    with _opened(source, f"{key}.download.source", PARTS[part]) as copy, held(folder), _session() as session:
        stop = threading.Event()
        listing = _listing_at_hand(folder, doi, version, copy)
        if listing is None and copy is None:
            listing = _patiently(lambda: _ask(session, server, doi, version, patience), patience, stop, f"doi:{doi}")
        elif listing is None:
            files_there = tuple(PublishedFile(path, size) for path, size in sorted(copy.sizes.items()))
            listing = Listing(doi, version, licence, files_there)
        log.info("%s: %d files are published, licence %s", key, len(listing.files), listing.licence)
        _check_licence(listing, licence, key)
        wanted = _wanted(listing, files, PARTS[part])
        _check_space(folder, wanted)
        # Before the first scan: a folder with this file in it is one that a download goes on with.
        write_json(folder / LISTING, asdict(listing))

        def get(file: PublishedFile) -> None:
            target = folder / file.path
            if target.is_file():
                difference = _difference(target, file)
                if not difference:
                    return
                log.info("%s: %s; it is obtained anew", target, difference)
            if copy is not None:
                _store(copy.read(file), target, file)
                return
            _patiently(lambda: _fetch(session, _address(server, file), target, file, patience), patience, stop, file.path)

        failures = _each(get, wanted, connections, stop, key)
    if failures:
        raise DownloadError(_failure_text(folder, server, failures, len(wanted)))
    return {
        "doi": doi,
        "version": version,
        "licence": listing.licence,
        "from": str(source or server),
        "files": len(wanted),
        "bytes": sum(file.size for file in wanted),
        "verified_by": "size and checksum" if all(file.checksum for file in wanted) else "size and gzip",
    }


def _session() -> requests.Session:
    session = requests.Session()
    # A name of its own, since some servers turn away the default ones; no compression, since the files are what they are.
    session.headers["User-Agent"] = f"pd-ddpm/{version_of('pd-ddpm')} (research data download)"
    session.headers["Accept-Encoding"] = "identity"
    return session


def _address(server: str, file: PublishedFile) -> str:
    return f"{server.rstrip('/')}/api/access/datafile/{file.number}"


def _listing_at_hand(folder: Path, doi: str, version: str, copy: "_Copy | None") -> Listing | None:
    """The listing of an earlier download of this version, here or in the copy; a published version never changes."""
    for place in [folder, *([copy.place] if copy and copy.place.is_dir() else [])]:
        try:
            content = json.loads((place / LISTING).read_text(encoding="utf-8"))
            files = tuple(PublishedFile(**{**file, "path": _safe(file["path"])}) for file in content.pop("files"))
            listing = Listing(**content, files=files)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
        if (listing.doi, listing.version) == (doi, version) and files and all(file.checksum for file in files):
            return listing
    return None


def _ask(session: requests.Session, server: str, doi: str, version: str, patience: Patience) -> Listing:
    """The listing, from the server."""
    url = f"{server.rstrip('/')}/api/datasets/:persistentId/versions/{version}"
    with _answer(session, url, patience, {"persistentId": f"doi:{doi}"}) as response:
        body = response.content
    try:
        data = json.loads(body)["data"]
        files = tuple(_published_file(entry) for entry in data["files"])
        licence = data.get("license") or "not stated"
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{url}: the answer is no listing of a Dataverse data set ({type(error).__name__}: {error}); check server, doi and "
            f"version in the configuration, or name a copy of the data under `source`."
        ) from error
    paths = [file.path for file in files]
    if twice := sorted({path for path in paths if paths.count(path) > 1}):
        raise ValueError(f"{url}: the listing has {', '.join(twice)} more than once; this cannot be stored.")
    if isinstance(licence, dict):
        licence = ", ".join(str(licence[name]) for name in ("name", "uri") if licence.get(name))
    return Listing(doi, version, str(licence), files)


def _published_file(entry: dict[str, Any]) -> PublishedFile:
    stored = entry["dataFile"]
    kind = stored["checksum"]["type"]
    if kind not in CHECKSUMS:
        raise ValueError(f"{stored['filename']} has a checksum of the unknown kind {kind}")
    folder = entry.get("directoryLabel") or ""
    path = _safe(f"{folder}/{stored['filename']}" if folder else stored["filename"])
    return PublishedFile(
        path, int(stored["filesize"]), f"{CHECKSUMS[kind]}:{stored['checksum']['value'].lower()}", stored["id"]
    )


def _safe(path: str) -> str:
    """The path as it is, if it stays below the folder that it is relative to; raises ValueError otherwise."""
    if not path or path.startswith("/") or ".." in PurePosixPath(path).parts:
        raise ValueError(f"the path {path!r} leads out of the data set's folder and is refused")
    return path


def _check_licence(listing: Listing, accepted: str, key: str) -> None:
    """Raise ValueError if the data are published under another licence than the one that was accepted."""

    def letters(text: str) -> str:
        return re.sub(r"[^a-z0-9]", "", text.lower())

    name = letters(listing.licence.split(", http")[0])
    if listing.licence == "not stated":
        log.warning("%s: the server states no licence; %s was accepted", key, accepted)
    elif name not in letters(accepted):
        raise ValueError(
            f"{key}.download.licence: {accepted} was accepted, but the server now says {listing.licence}. Read that at "
            f"https://doi.org/{listing.doi}; if you agree to it, write its name into this key."
        )


def _wanted(listing: Listing, files: str, part: str) -> list[PublishedFile]:
    by_path = {file.path: file for file in listing.files}
    wanted = list(listing.files) if files == "all" else [by_path[path] for path in _needed_for_wmh(by_path, part)]
    if not wanted:
        raise ValueError(
            f"doi:{listing.doi}, version {listing.version}: none of its {len(listing.files)} files is a case of the WMH "
            f"challenge's {part}/ ({part}/.../wmh.nii.gz); check doi and version in the configuration, or set files to all."
        )
    return wanted


def _needed_for_wmh(paths: Collection[str], part: str) -> list[str]:
    """Of the WMH challenge's published paths, what the layout `wmh_challenge` reads: `pd_ddpm.cohort.find_wmh_cases`.

    Neither the cases of the other part (`part` is training or test) nor the scans that are there in several forms.
    """
    there = set(paths)
    needed = []
    for mask in sorted(path for path in there if path.startswith(f"{part}/") and path.endswith("/wmh.nii.gz")):
        case = mask.removesuffix("/wmh.nii.gz")
        whole_t1 = [f"{case}/orig/3DT1.nii.gz", f"{case}/orig/reg_3DT1_to_FLAIR.txt"]
        t1 = whole_t1 if there.issuperset(whole_t1) else [f"{case}/pre/T1.nii.gz"]
        observers = [f"additional_annotations/observer_{name}/{case}/result.nii.gz" for name in OBSERVERS.values()]
        needed += [f"{case}/pre/FLAIR.nii.gz", *t1, mask, *observers]
    return [path for path in needed if path in there]


def _check_space(folder: Path, wanted: Sequence[PublishedFile]) -> None:
    there = [folder / file.path for file in wanted]
    missing = sum(
        file.size for file, path in zip(wanted, there, strict=True) if not path.is_file() or path.stat().st_size != file.size
    )
    free = shutil.disk_usage(folder).free
    if missing > free:
        raise ValueError(f"{folder}: {missing / 1e9:.2f} GB are to come and {free / 1e9:.2f} GB are free; make room first.")


def _each(
    get: Callable[[PublishedFile], None],
    wanted: Sequence[PublishedFile],
    connections: int,
    stop: threading.Event,
    key: str,
) -> dict[PublishedFile, str]:
    """Call `get` with every file, `connections` at a time; the files that failed, and why."""
    failures: dict[PublishedFile, str] = {}
    in_a_row = 0

    def unless_stopped(file: PublishedFile) -> None:
        if stop.is_set():
            raise ValueError(f"not tried, because {FAILURES_IN_A_ROW} files in a row had failed")
        get(file)

    with ThreadPoolExecutor(connections) as pool:
        futures = {pool.submit(unless_stopped, file): file for file in wanted}
        try:
            for future in progress(as_completed(futures), f"{key}: files", len(futures)):
                error = future.exception()
                in_a_row = in_a_row + 1 if error else 0
                if error:
                    reason = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
                    failures[futures[future]] = reason
                    log.info("%s: %s", futures[future].path, reason)
                if in_a_row == FAILURES_IN_A_ROW:
                    stop.set()
        finally:
            # On Ctrl-C nobody waits for files that have not begun, nor for a server that asked to be left alone.
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
    return failures


def _failure_text(folder: Path, server: str, failures: dict[PublishedFile, str], count: int) -> str:
    lines = [
        f"{folder}: {len(failures)} of {count} files could not be obtained; the others are there and verified. "
        "Start again to try once more, or get them by hand and start again, which verifies them:"
    ]
    for file, reason in sorted(failures.items(), key=lambda item: item[0].path):
        lines.append(f"  {file.path}: {reason}")
        if file.number is not None:
            target = shlex.quote(str(folder / file.path))
            lines.append(f"    curl --fail --location --create-dirs --output {target} {shlex.quote(_address(server, file))}")
    return "\n".join(lines)


def _patiently(attempt: Callable[[], Result], patience: Patience, stop: threading.Event, what: str) -> Result:
    """Call until there is no passing fault any more; raises ValueError with the last fault when patience ends."""
    for tried in range(1, patience.attempts + 1):
        try:
            return attempt()
        except PassingFault as fault:
            if tried == patience.attempts:
                raise ValueError(f"{fault} (tried {tried} times)") from fault
            if fault.wait > patience.longest_wait:
                raise ValueError(f"{fault}; it asks to be left alone for {fault.wait:.0f} s: start again then") from fault
            # Scattered, so that several connections do not come back in the same moment.
            wait = min(patience.first_wait * 2 ** (tried - 1), patience.longest_wait) * random.uniform(0.75, 1.25)
            wait = max(wait, fault.wait)
            log.info("%s: %s; attempt %d of %d in %.0f s", what, fault, tried + 1, patience.attempts, wait)
            if stop.wait(wait):
                raise ValueError(f"{fault} (given up, because the download was stopped)") from fault
    raise AssertionError("attempts is at least 1")


def _fetch(session: requests.Session, url: str, target: Path, file: PublishedFile, patience: Patience) -> None:
    with _answer(session, url, patience, page_expected=file.path.endswith((".html", ".htm"))) as response:
        # As sent: a server that declares .nii.gz as a compressed transfer would otherwise have it unpacked here.
        _store(response.raw.stream(CHUNK_BYTES, decode_content=False), target, file)


@contextmanager
def _answer(
    session: requests.Session,
    url: str,
    patience: Patience,
    parameters: dict[str, str] | None = None,
    page_expected: bool = False,
) -> Iterator[requests.Response]:
    """The server's answer, if it is one; PassingFault or ValueError otherwise, also while its body is read."""
    timeout = (patience.connect_timeout, patience.read_timeout)
    try:
        with session.get(url, params=parameters, stream=True, timeout=timeout) as response:
            _check_answer(response, page_expected)
            yield response
    except (requests.Timeout, urllib3.exceptions.TimeoutError) as error:
        raise PassingFault(f"time-out: nothing came from the server for {timeout[1]:g} s") from error
    except (requests.exceptions.ChunkedEncodingError, urllib3.exceptions.ProtocolError) as error:
        raise PassingFault("the connection broke off before the end of the file") from error
    except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
        # Where the whole body is read at once, requests calls a time-out a lost connection.
        if any(isinstance(cause, urllib3.exceptions.TimeoutError) for cause in error.args):
            raise PassingFault(f"time-out: nothing came from the server for {timeout[1]:g} s") from error
        raise PassingFault(f"no connection to {url} ({error})") from error


def _check_answer(response: requests.Response, page_expected: bool) -> None:
    status = response.status_code
    said = f"the server answered {status} {response.reason}"
    if status in (408, 429) or status >= 500:
        raise PassingFault(said, _seconds(response.headers.get("Retry-After", "")))
    if status != 200:
        try:
            message = f" ({str(response.json()['message'])[:200]})"
        except (ValueError, KeyError, TypeError):
            message = ""
        raise ValueError(" ".join(filter(None, [f"{said}{message}.", REMEDIES.get(status)])))
    if response.headers.get("Content-Type", "").startswith("text/html") and not page_expected:
        raise ValueError(
            "the server sent a web page instead of the file. Open the data set's page in a browser to see what it wants."
        )


def _seconds(retry_after: str) -> float:
    """The header Retry-After, a number of seconds or a date, in seconds from now; 0 if it is neither."""
    if retry_after.strip().isdigit():
        return float(retry_after)
    try:
        return max(0.0, (parsedate_to_datetime(retry_after) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return 0.0


def _store(chunks: Iterator[bytes], target: Path, file: PublishedFile) -> None:
    """Write a file that equals the published one, or none; raises PassingFault if it does not equal it."""
    with replacing(target) as temporary:
        with temporary.open("wb") as output:
            for chunk in chunks:
                output.write(chunk)
                if output.tell() > file.size:
                    raise PassingFault(f"more than its {file.size} bytes came")
        if difference := _difference(temporary, file):
            raise PassingFault(f"what came is not the published file: {difference}")


def _difference(path: Path, file: PublishedFile) -> str:
    """In what a file on disk differs from the published one; empty if in nothing that can be told."""
    size = path.stat().st_size
    if size != file.size:
        return f"it has {size} of {file.size} bytes" if size < file.size else f"it has {size} bytes instead of {file.size}"
    if file.checksum:
        algorithm, expected = file.checksum.split(":")
        with path.open("rb") as content:
            found = hashlib.file_digest(content, algorithm).hexdigest()
        return "" if found == expected else f"its {algorithm} is {found} instead of {expected}"
    if path.suffix == ".gz":
        try:
            with gzip.open(path) as content:
                while content.read(2**20):
                    pass
        except (OSError, EOFError, zlib.error) as error:
            return f"it is no whole gzip file ({error})"
    return ""


class _Copy:
    """A folder or zip with the data set somewhere in it, of which `part` is wanted; `sizes` by path as published."""

    def __init__(self, place: Path, sizes: dict[str, int], read: Callable[[str], Iterator[bytes]], key: str, part: str) -> None:
        names = [re.match(rf"((?:[^/]+/)*?){part}/(?:.+/)?wmh\.nii\.gz$", name) for name in sizes]
        prefixes = sorted({name[1] for name in names if name})
        if len(prefixes) != 1:
            found = (
                f"several {part}/ lie in it, below {', '.join(prefixes)}" if prefixes else f"no {part}/.../wmh.nii.gz is in it"
            )
            raise ValueError(f"{key}: {place}: {found}; name the folder or zip of the WMH challenge's data.")
        (self._prefix,) = prefixes
        self._read = read
        self.place = place
        own = {LISTING, RECORD, "lock"}
        below = {name.removeprefix(self._prefix): size for name, size in sizes.items() if name.startswith(self._prefix)}
        self.sizes = {_safe(path): size for path, size in below.items() if path not in own and "/.partial." not in path}

    def read(self, file: PublishedFile) -> Iterator[bytes]:
        """The bytes of a file; raises ValueError if it is not there or damaged."""
        if file.path not in self.sizes:
            raise ValueError(f"it is not in {self.place}")
        try:
            yield from self._read(self._prefix + file.path)
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
            raise ValueError(f"it is damaged in {self.place} ({error})") from error


@contextmanager
def _opened(source: str | None, key: str, part: str) -> Iterator[_Copy | None]:
    """The copy of the data at `source`, if one is named; raises ValueError, naming the configuration's `key`, if it is none."""
    if source is None:
        yield None
        return
    place = Path(source).expanduser()
    if place.is_dir():
        sizes = {path.relative_to(place).as_posix(): path.stat().st_size for path in place.rglob("*") if path.is_file()}
        yield _Copy(place, sizes, lambda name: _chunks((place / name).open("rb")), key, part)
        return
    try:
        archive = zipfile.ZipFile(place)
    except (OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"{key}: {place}: cannot be read as a folder or zip ({error}); correct the path.") from error
    with archive:
        sizes = {entry.filename: entry.file_size for entry in archive.infolist() if not entry.is_dir()}
        yield _Copy(place, sizes, lambda name: _chunks(archive.open(name)), key, part)


def _chunks(stream: Any) -> Iterator[bytes]:
    with stream:
        while chunk := stream.read(CHUNK_BYTES):
            yield chunk
