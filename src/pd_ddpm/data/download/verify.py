"""Verify downloaded files by size and checksum, and store them atomically."""

import gzip
import hashlib
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from pd_ddpm.data.download.published import PublishedFile
from pd_ddpm.runtime.files import atomic_write

CHUNK_BYTES = 2**16


class TransientError(ValueError):
    """A failure that a later attempt may not have.

    Attributes:
        wait: seconds that the server requires before the next attempt.
    """

    def __init__(self, message: str, wait: float = 0.0) -> None:
        super().__init__(message)
        self.wait = wait


def store_verified(chunks: Iterator[bytes], target: Path, file: PublishedFile) -> None:
    """Write a file atomically if it equals the published one.

    Args:
        chunks: content of the file.
        target: path to write.
        file: the published file.

    Raises:
        TransientError: if the content differs; nothing is written then.
    """
    with atomic_write(target) as temporary:
        with temporary.open("wb") as output:
            for chunk in chunks:
                output.write(chunk)
                if output.tell() > file.size:
                    raise TransientError(f"the content is longer than its {file.size} bytes")
        if mismatch := find_mismatch(temporary, file):
            raise TransientError(f"the content differs from the published file: {mismatch}")


def find_mismatch(path: Path, file: PublishedFile) -> str:
    """Return how a file on disk differs from the published one; empty if no difference is found.

    Without a checksum, a gzip file is read to its end and other files are compared by size only.
    """
    size = path.stat().st_size
    if size != file.size:
        return f"it has {size} of {file.size} bytes" if size < file.size else f"it has {size} bytes instead of {file.size}"
    if file.checksum:
        algorithm, expected = file.checksum.split(":")
        with path.open("rb") as content:
            digest = hashlib.file_digest(content, algorithm).hexdigest()
        return "" if digest == expected else f"its {algorithm} is {digest} instead of {expected}"
    if path.suffix == ".gz":
        try:
            with gzip.open(path) as content:
                while content.read(2**20):
                    pass
        except (OSError, EOFError, zlib.error) as error:
            return f"it is not a complete gzip file ({error})"
    return ""


def read_chunks(stream: IO[bytes]) -> Iterator[bytes]:
    """Yield the content of a stream in chunks, and close it."""
    with stream:
        while chunk := stream.read(CHUNK_BYTES):
            yield chunk
