"""Scans from a published Dataverse data set: listed, fetched or taken from a copy, verified by size and checksum.

pooch is not used: it repeats a download whatever the server answered, 403 and 404 included, knows no Retry-After, and
its Dataverse mode fails on servers that publish SHA-1 and loses the folders of files that share a name.
"""

import shlex
import shutil
import threading
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pd_ddpm.data.cases.table import OBSERVERS
from pd_ddpm.data.cases.wmh import PARTS
from pd_ddpm.data.download.http import Patience, fetch, log, open_session, with_retries
from pd_ddpm.data.download.listing import check_licence, request_listing, server_address, stored_listing
from pd_ddpm.data.download.local_copy import open_copy
from pd_ddpm.data.download.published import LISTING, Listing, PublishedFile
from pd_ddpm.data.download.verify import find_mismatch, store_verified
from pd_ddpm.runtime.files import lock_folder, write_json
from pd_ddpm.runtime.progress import progress

FAILURES_IN_A_ROW = 20  # after so many the server is left alone


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
    with open_copy(source, f"{key}.download.source", PARTS[part]) as copy, lock_folder(folder), open_session() as session:
        stop = threading.Event()
        listing = stored_listing(folder, doi, version, copy)
        if listing is None and copy is None:
            listing = with_retries(
                lambda: request_listing(session, server, doi, version, patience), patience, stop, f"doi:{doi}"
            )
        elif listing is None:
            files_there = tuple(PublishedFile(path, size) for path, size in sorted(copy.sizes.items()))
            listing = Listing(doi, version, licence, files_there)
        log.info("%s: %d files are published, licence %s", key, len(listing.files), listing.licence)
        check_licence(listing, licence, key)
        wanted = _wanted(listing, files, PARTS[part])
        _check_space(folder, wanted)
        # Before the first scan: a folder with this file in it is one that a download goes on with.
        write_json(folder / LISTING, asdict(listing))

        def get(file: PublishedFile) -> None:
            target = folder / file.path
            if target.is_file():
                difference = find_mismatch(target, file)
                if not difference:
                    return
                log.info("%s: %s; it is obtained anew", target, difference)
            if copy is not None:
                store_verified(copy.read(file), target, file)
                return
            with_retries(
                lambda: fetch(session, server_address(server, file), target, file, patience), patience, stop, file.path
            )

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
    """Of the WMH challenge's published paths, what the layout `wmh_challenge` reads: `pd_ddpm.data.cases.wmh.find_wmh_cases`.

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
            lines.append(
                f"    curl --fail --location --create-dirs --output {target} {shlex.quote(server_address(server, file))}"
            )
    return "\n".join(lines)
