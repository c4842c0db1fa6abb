"""Ask the server for the list of published files and check the licence."""

import json
import re
from pathlib import Path
from typing import Any

import requests

from pd_ddpm.data.download.http import Patience, log, request_file
from pd_ddpm.data.download.local_copy import LocalCopy
from pd_ddpm.data.download.published import CHECKSUMS, LISTING, Listing, PublishedFile, safe_path


def server_address(server: str, file: PublishedFile) -> str:
    return f"{server.rstrip('/')}/api/access/datafile/{file.number}"


def stored_listing(folder: Path, doi: str, version: str, copy: LocalCopy | None) -> Listing | None:
    """The listing of an earlier download of this version, here or in the copy; a published version never changes."""
    for place in [folder, *([copy.place] if copy and copy.place.is_dir() else [])]:
        try:
            content = json.loads((place / LISTING).read_text(encoding="utf-8"))
            files = tuple(PublishedFile(**{**file, "path": safe_path(file["path"])}) for file in content.pop("files"))
            listing = Listing(**content, files=files)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
        if (listing.doi, listing.version) == (doi, version) and files and all(file.checksum for file in files):
            return listing
    return None


def request_listing(session: requests.Session, server: str, doi: str, version: str, patience: Patience) -> Listing:
    """The listing, from the server."""
    url = f"{server.rstrip('/')}/api/datasets/:persistentId/versions/{version}"
    with request_file(session, url, patience, {"persistentId": f"doi:{doi}"}) as response:
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
    path = safe_path(f"{folder}/{stored['filename']}" if folder else stored["filename"])
    return PublishedFile(
        path, int(stored["filesize"]), f"{CHECKSUMS[kind]}:{stored['checksum']['value'].lower()}", stored["id"]
    )


def check_licence(listing: Listing, accepted: str, key: str) -> None:
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
