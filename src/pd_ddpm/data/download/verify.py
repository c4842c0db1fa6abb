"""Verify downloaded files by size and checksum, and store them atomically."""

import gzip
import hashlib
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pd_ddpm.data.download.published import PublishedFile
from pd_ddpm.runtime.files import atomic_write

CHUNK_BYTES = 2**16


class PassingFault(ValueError):
    """A fault that may be gone at the next attempt, before which the server wants `wait` seconds to pass."""

    def __init__(self, message: str, wait: float = 0.0) -> None:
        super().__init__(message)
        self.wait = wait


def store_verified(chunks: Iterator[bytes], target: Path, file: PublishedFile) -> None:
    """Write a file that equals the published one, or none; raises PassingFault if it does not equal it."""
    with atomic_write(target) as temporary:
        with temporary.open("wb") as output:
            for chunk in chunks:
                output.write(chunk)
                if output.tell() > file.size:
                    raise PassingFault(f"more than its {file.size} bytes came")
        if difference := find_mismatch(temporary, file):
            raise PassingFault(f"what came is not the published file: {difference}")


def find_mismatch(path: Path, file: PublishedFile) -> str:
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


def read_chunks(stream: Any) -> Iterator[bytes]:
    with stream:
        while chunk := stream.read(CHUNK_BYTES):
            yield chunk
