"""The list of published files: request it or read it from disk, and check the licence."""

import json
import re
from pathlib import Path

import requests

from pd_ddpm.data.download.http import log, open_response
from pd_ddpm.data.download.local_copy import LocalCopy
from pd_ddpm.data.download.published import LISTING_NAMES, Listing, PublishedFile, check_path
from pd_ddpm.data.download.repositories import REPOSITORIES
from pd_ddpm.data.download.settings import DownloadSettings, RetryPolicy
from pd_ddpm.runtime.problem import Problem, ProblemError


def file_url(server: str, file: PublishedFile) -> str:
    """Return the address of a published file on the server."""
    return file.url or f"{server.rstrip('/')}/api/access/datafile/{file.number}"


def stored_listing(folder: Path, settings: DownloadSettings, copy: LocalCopy | None) -> Listing | None:
    """Return the listing of an earlier download of this version; a published version never changes.

    Args:
        folder: folder of the dataset, searched first.
        settings: DOI and version.
        copy: local copy of the data, searched next if it is a folder.

    Returns:
        The listing, or None if there is none with a checksum for every file.
    """
    for candidate in [folder, *([copy.path] if copy and copy.path.is_dir() else [])]:
        try:
            content = json.loads((candidate / LISTING_NAMES[settings.repository]).read_text(encoding="utf-8"))
            files = tuple(PublishedFile(**{**file, "path": check_path(file["path"])}) for file in content.pop("files"))
            listing = Listing(**content, files=files)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
        is_same_version = (listing.doi, listing.version) == (settings.doi, settings.version)
        if is_same_version and files and all(file.checksum for file in files):
            return listing
    return None


def request_listing(session: requests.Session, settings: DownloadSettings, retry: RetryPolicy) -> Listing:
    """Request the listing from the server.

    Args:
        session: from `open_session`.
        settings: server, DOI and version.
        retry: timeouts.

    Raises:
        TransientError: if another attempt may succeed.
        ValueError: if the response is not a listing that can be stored safely.
    """
    repository = REPOSITORIES[settings.repository]
    url, parameters = repository.request(settings)
    with open_response(session, url, retry, parameters) as response:
        body = response.content
    try:
        licence, files = repository.parse(json.loads(body), settings)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        problem = f"the response is not a listing of a {repository.title} dataset ({type(error).__name__}: {error})"
        remedy = "Check `server`, `doi` and `version` in the configuration, or set `source` to a copy of the data"
        raise ProblemError(Problem(url, problem, remedy)) from error
    paths = [file.path for file in files]
    if repeated := sorted({path for path in paths if paths.count(path) > 1}):
        problem = f"the listing has {', '.join(repeated)} more than once, which cannot be stored"
        raise ProblemError(Problem(url, problem, "Set `source` to a copy of the data"))
    return Listing(settings.doi, settings.version, licence or "not stated", files)


def check_licence(listing: Listing, accepted: str, key: str) -> None:
    """Check that the data are published under the accepted licence.

    Args:
        listing: the published files and their licence.
        accepted: the licence that the user accepted.
        key: the dataset's key in the configuration, for errors.

    Raises:
        ProblemError: if the server states another licence.
    """

    def normalise(text: str) -> str:
        return re.sub(r"[^a-z0-9]", "", text.lower())

    name = normalise(listing.licence.split(", http")[0])
    if listing.licence == "not stated":
        log.warning("%s: the server states no licence; you accepted %s", key, accepted)
    elif name not in normalise(accepted):
        raise ProblemError(
            Problem(
                f"{key}.download.licence",
                f"you accepted {accepted}, but the server now states {listing.licence}",
                f"Read it at https://doi.org/{listing.doi}. If you agree, write its name into this key",
            )
        )
