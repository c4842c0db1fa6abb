"""What a Dataverse dataset publishes: its files and their checksums."""

from dataclasses import dataclass
from pathlib import PurePosixPath

LISTING = "dataverse.json"  # the published files, beside the data that were fetched by it

RECORD = "downloaded.json"  # written last

CHECKSUMS = {"SHA-1": "sha1", "MD5": "md5", "SHA-256": "sha256", "SHA-512": "sha512"}


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


def safe_path(path: str) -> str:
    """The path as it is, if it stays below the folder that it is relative to; raises ValueError otherwise."""
    if not path or path.startswith("/") or ".." in PurePosixPath(path).parts:
        raise ValueError(f"the path {path!r} leads out of the data set's folder and is refused")
    return path
