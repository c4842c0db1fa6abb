"""Obtain a published Dataverse dataset: list its files, download or copy them, verify size and checksum.

pooch is not used. It repeats a download after every response, including 403 and 404, and ignores Retry-After. Its Dataverse
mode fails on servers that publish SHA-1, and drops the folders of files with equal names.
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
from pd_ddpm.data.cases.wmh import PARTS, t1_version
from pd_ddpm.data.download.http import download_file, log, open_session, with_retries
from pd_ddpm.data.download.listing import check_licence, file_url, request_listing, stored_listing
from pd_ddpm.data.download.local_copy import open_copy
from pd_ddpm.data.download.published import LISTING_NAME, Listing, PublishedFile
from pd_ddpm.data.download.settings import DownloadSettings, RetryPolicy, licence_problem
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
    part: str = "training",
    retry: RetryPolicy = DEFAULT_RETRY,
) -> dict[str, Any]:
    """Download a dataset's files into a folder, or copy them from a local copy, and verify them.

    Files that are in the folder and equal the published ones are kept.

    Args:
        folder: folder of the dataset; made if it does not exist.
        settings: server, version, files and source of the dataset.
        key: the dataset's key in the configuration, for messages.
        part: part of the WMH challenge whose cases are needed, "training" or "held_out" (its folder `test/`).
        retry: attempts, waits and timeouts.

    Returns:
        The record of the download: DOI, version, licence, origin, number and bytes of the files, kind of verification.

    Raises:
        ProblemError: if the licence is not accepted or has changed, `source` is not a copy, or the listing is invalid.
        ValueError: if the listing cannot be requested, or has no case of the part.
        BusyError: if another run uses the folder.
        DownloadError: if files could not be obtained; all others have been obtained by then.
    """
    if problem := licence_problem(settings, folder, key):
        raise ProblemError(problem)
    with (
        open_copy(settings.source, f"{key}.download.source", PARTS[part]) as copy,
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
        files = _select_files(listing, settings.files, PARTS[part])
        _check_free_space(folder, files)
        # Written before the first scan: it marks the folder as an unfinished download, which a later run continues.
        write_json(folder / LISTING_NAME, asdict(listing))

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
    return {
        "doi": settings.doi,
        "version": settings.version,
        "licence": listing.licence,
        "from": str(settings.source or settings.server),
        "files": len(files),
        "bytes": sum(file.size for file in files),
        "verified_by": "size and checksum" if all(file.checksum for file in files) else "size and gzip",
    }


def _select_files(listing: Listing, selection: str, part: str) -> list[PublishedFile]:
    by_path = {file.path: file for file in listing.files}
    files = list(listing.files) if selection == "all" else [by_path[path] for path in _paths_needed_for_wmh(by_path, part)]
    if not files:
        raise ProblemError(
            Problem(
                f"doi:{listing.doi}, version {listing.version}",
                f"none of its {len(listing.files)} files is a case of the WMH challenge's {part}/ ({part}/.../wmh.nii.gz)",
                "Check `doi` and `version` in the configuration, or set `files` to all",
            )
        )
    return files


def _paths_needed_for_wmh(paths: Collection[str], part: str) -> list[str]:
    """Return the paths that the layout `wmh_challenge` reads, see `pd_ddpm.data.cases.wmh.find_wmh_cases`.

    These are neither cases of the other part, nor further versions of a scan.

    Args:
        paths: all published paths.
        part: "training" or "test".
    """
    published = set(paths)
    needed = []
    for mask in sorted(path for path in published if path.startswith(f"{part}/") and path.endswith("/wmh.nii.gz")):
        case = mask.removesuffix("/wmh.nii.gz")
        t1 = [f"{case}/{name}" for name in t1_version(lambda name, case=case: f"{case}/{name}" in published) if name]
        observers = [f"additional_annotations/observer_{name}/{case}/result.nii.gz" for name in OBSERVERS.values()]
        needed += [f"{case}/pre/FLAIR.nii.gz", *t1, mask, *observers]
    return [path for path in needed if path in published]


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
        if file.number is not None:
            target = shlex.quote(str(folder / file.path))
            url = shlex.quote(file_url(server, file))
            lines.append(f"    curl --fail --location --create-dirs --output {target} {url}")
    return "\n".join(lines)
