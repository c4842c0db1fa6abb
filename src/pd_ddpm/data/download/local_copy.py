"""Files from a local copy of the dataset: a zip file or a folder."""

import re
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pd_ddpm.data.download.needed import Marker
from pd_ddpm.data.download.published import LISTING_NAMES, RECORD_NAME, PublishedFile, check_path
from pd_ddpm.data.download.verify import read_chunks
from pd_ddpm.runtime.problem import Problem, ProblemError

Reader = Callable[[str], Iterator[bytes]]


class LocalCopy:
    """A folder or zip file that holds the dataset at its top or in a subfolder.

    Args:
        path: the folder or zip file.
        sizes: bytes of every file in it, by path.
        read: path in the copy -> content in chunks.
        key: key of the copy in the configuration, for errors.
        marker: files by which the dataset is recognised.

    Attributes:
        sizes: bytes of the dataset's files, by published path.

    Raises:
        ProblemError: unless the dataset is there exactly once.
    """

    def __init__(self, path: Path, sizes: dict[str, int], read: Reader, key: str, marker: Marker) -> None:
        matches = [re.match(marker.pattern, name) for name in sizes]
        prefixes = sorted({match[1] for match in matches if match})
        if len(prefixes) != 1:
            problem = (
                f"{path} has several folders {marker.folder}, below {', '.join(prefixes)}"
                if prefixes
                else f"{path} has no file {marker.name}"
            )
            raise ProblemError(Problem(key, problem, marker.remedy))
        (self._prefix,) = prefixes
        self._read = read
        self.path = path
        program_files = {*LISTING_NAMES.values(), RECORD_NAME, "lock"}
        below = {name.removeprefix(self._prefix): size for name, size in sizes.items() if name.startswith(self._prefix)}
        self.sizes = {
            check_path(name): size for name, size in below.items() if name not in program_files and "/.partial." not in name
        }

    def read(self, file: PublishedFile) -> Iterator[bytes]:
        """Yield the content of a file in chunks; raise ValueError if the file is missing or damaged."""
        if file.path not in self.sizes:
            raise ValueError(f"it is not in {self.path}")
        try:
            yield from self._read(self._prefix + file.path)
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
            raise ValueError(f"it is damaged in {self.path} ({error})") from error


@contextmanager
def open_copy(source: str | None, key: str, marker: Marker, is_archive_published: bool = False) -> Iterator[LocalCopy | None]:
    """Open the local copy of the data.

    Args:
        source: folder or zip file; None if there is no copy.
        key: key of `source` in the configuration, for errors.
        marker: files by which the dataset is recognised.
        is_archive_published: whether a zip file is a published file itself, and not a copy of the published files.

    Yields:
        The copy, or None.

    Raises:
        ProblemError: if `source` is not a copy of the dataset.
    """
    if source is None:
        yield None
        return
    path = Path(source).expanduser()
    if path.is_dir():
        sizes = {file.relative_to(path).as_posix(): file.stat().st_size for file in path.rglob("*") if file.is_file()}
        yield LocalCopy(path, sizes, lambda name: read_chunks((path / name).open("rb")), key, marker)
        return
    if is_archive_published and path.is_file():
        yield LocalCopy(path.parent, {path.name: path.stat().st_size}, lambda _: read_chunks(path.open("rb")), key, marker)
        return
    try:
        archive = zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as error:
        problem = f"{path} cannot be read as a folder or zip file ({error})"
        raise ProblemError(Problem(key, problem, "Correct the path")) from error
    with archive:
        sizes = {entry.filename: entry.file_size for entry in archive.infolist() if not entry.is_dir()}
        yield LocalCopy(path, sizes, lambda name: read_chunks(archive.open(name)), key, marker)
