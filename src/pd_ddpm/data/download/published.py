"""What a repository publishes of a dataset: its files, their checksums and its licence."""

from dataclasses import dataclass
from pathlib import PurePosixPath

# Kind of repository -> the list of published files, stored next to the data.
LISTING_NAMES = {kind: f"{kind}.json" for kind in ("dataverse", "zenodo", "mendeley")}
RECORD_NAME = "downloaded.json"  # the record of a finished download, written last

# Names of hash algorithms in the Dataverse API, and in hashlib and the other APIs.
CHECKSUMS = {"SHA-1": "sha1", "MD5": "md5", "SHA-256": "sha256", "SHA-512": "sha512"}


@dataclass(frozen=True)
class PublishedFile:
    """A file of a dataset.

    Attributes:
        path: published path, including its folders.
        size: bytes.
        checksum: "algorithm:hexadecimal digest"; empty if unknown.
        number: id of the file in Dataverse's API; None if unknown.
        url: address of the file in other repositories; empty if unknown.
    """

    path: str
    size: int
    checksum: str = ""
    number: int | None = None
    url: str = ""


@dataclass(frozen=True)
class Listing:
    """The files of one version of a dataset, and the licence of their publication. Only Dataverse's DOIs have versions."""

    doi: str
    version: str | None
    licence: str
    files: tuple[PublishedFile, ...]


def check_path(path: str) -> str:
    """Return a relative path unchanged; raise ValueError if it leads out of its folder."""
    if not path or path.startswith("/") or ".." in PurePosixPath(path).parts:
        raise ValueError(f"the path {path!r} leads out of the dataset's folder and is refused")
    return path
