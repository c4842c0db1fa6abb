"""Files from a local copy of the dataset: a zip archive or a folder."""

import re
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pd_ddpm.data.download.published import LISTING, RECORD, PublishedFile, safe_path
from pd_ddpm.data.download.verify import read_chunks


class LocalCopy:
    """A folder or zip with the data set somewhere in it, of which `part` is wanted; `sizes` by path as published."""

    def __init__(self, place: Path, sizes: dict[str, int], read: Callable[[str], Iterator[bytes]], key: str, part: str) -> None:
        names = [re.match(rf"((?:[^/]+/)*?){part}/(?:.+/)?wmh\.nii\.gz$", name) for name in sizes]
        prefixes = sorted({name[1] for name in names if name})
        if len(prefixes) != 1:
            found = (
                f"several {part}/ lie in it, below {', '.join(prefixes)}" if prefixes else f"no {part}/.../wmh.nii.gz is in it"
            )
            raise ValueError(f"{key}: {place}: {found}; name the folder or zip of the WMH challenge's data.")
        (self._prefix,) = prefixes
        self._read = read
        self.place = place
        own = {LISTING, RECORD, "lock"}
        below = {name.removeprefix(self._prefix): size for name, size in sizes.items() if name.startswith(self._prefix)}
        self.sizes = {safe_path(path): size for path, size in below.items() if path not in own and "/.partial." not in path}

    def read(self, file: PublishedFile) -> Iterator[bytes]:
        """The bytes of a file; raises ValueError if it is not there or damaged."""
        if file.path not in self.sizes:
            raise ValueError(f"it is not in {self.place}")
        try:
            yield from self._read(self._prefix + file.path)
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
            raise ValueError(f"it is damaged in {self.place} ({error})") from error


@contextmanager
def open_copy(source: str | None, key: str, part: str) -> Iterator[LocalCopy | None]:
    """The copy of the data at `source`, if one is named; raises ValueError, naming the configuration's `key`, if it is none."""
    if source is None:
        yield None
        return
    place = Path(source).expanduser()
    if place.is_dir():
        sizes = {path.relative_to(place).as_posix(): path.stat().st_size for path in place.rglob("*") if path.is_file()}
        yield LocalCopy(place, sizes, lambda name: read_chunks((place / name).open("rb")), key, part)
        return
    try:
        archive = zipfile.ZipFile(place)
    except (OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"{key}: {place}: cannot be read as a folder or zip ({error}); correct the path.") from error
    with archive:
        sizes = {entry.filename: entry.file_size for entry in archive.infolist() if not entry.is_dir()}
        yield LocalCopy(place, sizes, lambda name: read_chunks(archive.open(name)), key, part)
