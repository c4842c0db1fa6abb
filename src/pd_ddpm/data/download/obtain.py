"""Obtain a published dataset: list its files, download or copy them, verify size and checksum, unpack archives.

pooch is not used. It repeats a download after every response, including 403 and 404, and ignores Retry-After. Its Dataverse
mode fails on servers that publish SHA-1, and drops the folders of files with equal names.
"""

import shlex
import shutil
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pd_ddpm.data.download.http import download_file, log, open_session, with_retries
from pd_ddpm.data.download.listing import check_licence, file_url, request_listing, stored_listing
from pd_ddpm.data.download.local_copy import open_copy
from pd_ddpm.data.download.needed import ARCHIVED, marker_of, members_of_archives, select_files
from pd_ddpm.data.download.published import LISTING_NAMES, Listing, PublishedFile
from pd_ddpm.data.download.settings import DownloadSettings, RetryPolicy, licence_problem
from pd_ddpm.data.download.unpack import unpack
from pd_ddpm.data.download.verify import find_mismatch, store_verified
from pd_ddpm.runtime.files import lock_folder, write_json
from pd_ddpm.runtime.problem import Problem, ProblemError
from pd_ddpm.runtime.progress import progress

MAX_FAILURES_IN_A_ROW = 20  # after these the server gets no further requests
DEFAULT_RETRY = RetryPolicy()


class DownloadError(ValueError):
    """Some files could not be obtained; the message lists each with the reason and a command to download it by hand."""


def obtain(
    folder: Path,
    settings: DownloadSettings,
    *,
    key: str,
    layout: str = "wmh_challenge",
    part: str = "training",
    retry: RetryPolicy = DEFAULT_RETRY,
) -> dict[str, Any]:
    """Download a dataset's files into a folder, or copy them from a local copy, and verify them.

    Files that are in the folder and equal the published ones are kept. Zip archives are unpacked next to them.

    Args:
        folder: folder of the dataset; made if it does not exist.
        settings: server, version, files and source of the dataset.
        key: the dataset's key in the configuration, for messages.
        layout: layout of the dataset, which decides what is needed.
        part: part of the WMH challenge whose cases are needed, "training" or "held_out" (its folder `test/`).
        retry: attempts, waits and timeouts.

    Returns:
        The record of the download: DOI, version, licence, origin, number and bytes of the files, kind of verification, and the
        number of unpacked files if there are archives.

    Raises:
        ProblemError: if the licence is not accepted or has changed, `source` is not a copy, the listing is invalid, or an
            archive cannot be unpacked safely.
        ValueError: if the listing cannot be requested, or has none of the needed files.
        BusyError: if another run uses the folder.
        DownloadError: if files could not be obtained; all others have been obtained by then.
    """
    if problem := licence_problem(settings, folder, key):
        raise ProblemError(problem)
    with (
        open_copy(settings.source, f"{key}.download.source", marker_of(layout, part), layout in ARCHIVED) as copy,
        lock_folder(folder),
        open_session() as session,
    ):
        stop = threading.Event()
        listing = stored_listing(folder, settings, copy)
        if listing is None and copy is None:
            listing = with_retries(lambda: request_listing(session, settings, retry), retry, stop, f"doi:{settings.doi}")
        elif listing is None:
            copied_files = tuple(PublishedFile(path, size) for path, size in sorted(copy.sizes.items()))
            listing = Listing(settings.doi, settings.version, settings.licence, copied_files)
        log.info("%s: %d published files, licence %s", key, len(listing.files), listing.licence)
        check_licence(listing, settings.licence, key)
        files = select_files(listing, settings.files, layout, part)
        _check_free_space(folder, files)
        # Written before the first scan: it marks the folder as an unfinished download, which a later run continues.
        write_json(folder / LISTING_NAMES[settings.repository], asdict(listing))

        def obtain_file(file: PublishedFile) -> None:
            target = folder / file.path
            if target.is_file():
                mismatch = find_mismatch(target, file)
                if not mismatch:
                    return
                log.info("%s: %s; it is obtained again", target, mismatch)
            if copy is not None:
                store_verified(copy.read(file), target, file)
                return
            url = file_url(settings.server, file)
            with_retries(lambda: download_file(session, url, target, file, retry), retry, stop, file.path)

        failures = _obtain_all(obtain_file, files, settings.connections, stop, key)
        if failures:
            raise DownloadError(_failure_message(folder, settings.server, failures, len(files)))
        archives, members = members_of_archives(files, settings.files, layout)
        num_unpacked = unpack([folder / archive for archive in archives], folder, members)
    record = {
        "doi": settings.doi,
        "version": settings.version,
        "licence": listing.licence,
        "from": str(settings.source or settings.server),
        "files": len(files),
        "bytes": sum(file.size for file in files),
        "verified_by": "size and checksum" if all(file.checksum for file in files) else "size and gzip",
    }
    return record | ({"unpacked": num_unpacked} if archives else {})


def _check_free_space(folder: Path, files: Sequence[PublishedFile]) -> None:
    targets = [folder / file.path for file in files]
    missing = sum(
        file.size for file, path in zip(files, targets, strict=True) if not path.is_file() or path.stat().st_size != file.size
    )
    free = shutil.disk_usage(folder).free
    if missing > free:
        problem = f"the files need {missing / 1e9:.2f} GB, but only {free / 1e9:.2f} GB are free"
        raise ProblemError(Problem(str(folder), problem, "Free disk space"))


def _obtain_all(
    obtain_file: Callable[[PublishedFile], None],
    files: Sequence[PublishedFile],
    connections: int,
    stop: threading.Event,
    key: str,
) -> dict[PublishedFile, str]:
    """Obtain every file with several threads.

    Args:
        obtain_file: obtains one file, or raises an exception.
        files: files to obtain.
        connections: number of threads.
        stop: event that is set after too many failures in a row, and in the end.
        key: the dataset's key in the configuration, for the progress bar.

    Returns:
        The files that failed, with the reason.
    """
    failures: dict[PublishedFile, str] = {}
    failures_in_a_row = 0

    def obtain_unless_stopped(file: PublishedFile) -> None:
        if stop.is_set():
            raise ValueError(f"not requested, because {MAX_FAILURES_IN_A_ROW} files in a row had failed")
        obtain_file(file)

    with ThreadPoolExecutor(connections) as pool:
        futures = {pool.submit(obtain_unless_stopped, file): file for file in files}
        try:
            for future in progress(as_completed(futures), f"{key}: files", len(futures)):
                error = future.exception()
                failures_in_a_row = failures_in_a_row + 1 if error else 0
                if error:
                    reason = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
                    failures[futures[future]] = reason
                    log.info("%s: %s", futures[future].path, reason)
                if failures_in_a_row == MAX_FAILURES_IN_A_ROW:
                    stop.set()
        finally:
            # After Ctrl-C, neither files that have not begun nor waits between attempts delay the end.
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
    return failures


def _failure_message(folder: Path, server: str, failures: dict[PublishedFile, str], num_files: int) -> str:
    lines = [
        f"{folder}: {len(failures)} of {num_files} files could not be obtained. The others are present and verified. "
        "Run again to retry. Or download them by hand and run again to verify them:"
    ]
    for file, reason in sorted(failures.items(), key=lambda item: item[0].path):
        lines.append(f"  {file.path}: {reason}")
        if file.url or file.number is not None:
            target = shlex.quote(str(folder / file.path))
            url = shlex.quote(file_url(server, file))
            lines.append(f"    curl --fail --location --create-dirs --output {target} {url}")
    return "\n".join(lines)
