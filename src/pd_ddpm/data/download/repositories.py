"""What the APIs of research data repositories state about a dataset: its files, their checksums and its licence."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pd_ddpm.data.download.published import CHECKSUMS, PublishedFile, check_path
from pd_ddpm.data.download.settings import DownloadSettings

Contents = tuple[str, tuple[PublishedFile, ...]]


@dataclass(frozen=True)
class Repository:
    """A kind of repository.

    Attributes:
        title: its name in messages.
        request: address and query parameters of the listing.
        parse: licence and files that a response states, an object of JSON. It raises ValueError, KeyError, TypeError or
            AttributeError if the response is no listing.
    """

    title: str
    request: Callable[[DownloadSettings], tuple[str, dict[str, str]]]
    parse: Callable[[Any, DownloadSettings], Contents]


def _dataverse_request(settings: DownloadSettings) -> tuple[str, dict[str, str]]:
    url = f"{settings.server.rstrip('/')}/api/datasets/:persistentId/versions/{settings.version}"
    return url, {"persistentId": f"doi:{settings.doi}"}


def _parse_dataverse(body: Any, settings: DownloadSettings) -> Contents:
    data = body["data"]
    files = tuple(_dataverse_file(entry, settings.server) for entry in data["files"])
    licence = data.get("license") or ""
    if isinstance(licence, dict):
        licence = ", ".join(str(licence[name]) for name in ("name", "uri") if licence.get(name))
    return str(licence), files


def _dataverse_file(entry: dict[str, Any], server: str) -> PublishedFile:
    file = entry["dataFile"]
    algorithm = file["checksum"]["type"]
    if algorithm not in CHECKSUMS:
        raise ValueError(f"{file['filename']} has a checksum of the unknown kind {algorithm}")
    folder = entry.get("directoryLabel") or ""
    path = check_path(f"{folder}/{file['filename']}" if folder else file["filename"])
    checksum = f"{CHECKSUMS[algorithm]}:{file['checksum']['value'].lower()}"
    return PublishedFile(path, int(file["filesize"]), checksum, int(file["id"]))


def _zenodo_request(settings: DownloadSettings) -> tuple[str, dict[str, str]]:
    return f"{settings.server.rstrip('/')}/api/records/{settings.doi.rpartition('.')[2]}", {}


def _parse_zenodo(body: Any, settings: DownloadSettings) -> Contents:
    licence = (body["metadata"].get("license") or {}).get("id", "")
    files = tuple(
        PublishedFile(check_path(file["key"]), int(file["size"]), _known(file["checksum"]), url=_address(file["links"]["self"]))
        for file in body["files"]
    )
    return licence, files


def _mendeley_request(settings: DownloadSettings) -> tuple[str, dict[str, str]]:
    dataset, _, version = settings.doi.rpartition("/")[2].rpartition(".")
    return f"{settings.server.rstrip('/')}/public-api/datasets/{dataset}", {"version": version}


def _parse_mendeley(body: Any, settings: DownloadSettings) -> Contents:
    if str(body["version"]) != settings.doi.rpartition(".")[2]:
        raise ValueError(f"it describes version {body['version']}")
    licence = (body.get("data_licence") or {}).get("short_name", "")
    files = tuple(
        PublishedFile(
            check_path(file["filename"]),
            int(file["content_details"]["size"]),
            f"sha256:{file['content_details']['sha256_hash'].lower()}",
            url=_address(file["content_details"]["download_url"]),
        )
        for file in body["files"]
    )
    return licence, files


def _known(checksum: str) -> str:
    """Return a checksum such as md5:0123; raise ValueError if its kind is unknown."""
    if not re.fullmatch(rf"(?:{'|'.join(CHECKSUMS.values())}):[0-9a-f]+", checksum):
        raise ValueError(f"the checksum {checksum} is of an unknown kind")
    return checksum


def _address(url: str) -> str:
    if not url.startswith(("https://", "http://")):
        raise ValueError(f"{url} is no address of a file")
    return url


REPOSITORIES = {
    "dataverse": Repository("Dataverse", _dataverse_request, _parse_dataverse),
    "zenodo": Repository("Zenodo", _zenodo_request, _parse_zenodo),
    "mendeley": Repository("Mendeley Data", _mendeley_request, _parse_mendeley),
}
