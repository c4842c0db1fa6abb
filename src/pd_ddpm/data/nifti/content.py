"""Read header and bytes of NIfTI files, with memory bounded by what the header implies."""

from __future__ import annotations

import gzip
import io
import math
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import nibabel as nib
import numpy as np

from pd_ddpm.data.nifti.geometry import ImageError
from pd_ddpm.runtime.missing_file import missing_file_problem, pointer_problem
from pd_ddpm.runtime.problem import Problem

# Half a billion voxels, 2 GB as float32: far beyond any scan of a head. A few MB of gzip can expand to such an image.
MAX_VOXELS = 2**29

_HEADER_CLASSES = {348: nib.Nifti1Image, 540: nib.Nifti2Image}
_LONGEST_HEADER = max(_HEADER_CLASSES)
_CHUNK = 1 << 20
_GZIP = b"\x1f\x8b"
_REMEDY = "Fetch or convert it again"

# Start of a file -> the kind of file.
_FOREIGN_STARTS = {
    b"PK\x03\x04": "a zip archive",
    b"BZh": "compressed with bzip2",
    b"\xfd7zXZ": "compressed with xz",
    b"7z\xbc\xaf": "a 7-Zip archive",
    b"\x28\xb5\x2f\xfd": "compressed with Zstandard",
}


@dataclass(frozen=True)
class Content:
    """The uncompressed content of a NIfTI file.

    Attributes:
        image_class: nibabel's class for this version of NIfTI.
        header: the header, without nibabel's repairs.
        data: all bytes, including the header.
    """

    image_class: type[nib.Nifti1Image]
    header: nib.Nifti1Header
    data: bytearray


def read_content(path: Path, max_voxels: float = MAX_VOXELS) -> Content:
    """Read a NIfTI file and check that it is complete.

    The gzip checksum is verified over the whole stream, which neither nibabel nor SimpleITK does in every case. Reading stops
    as soon as the file holds more than its header implies.

    Raises:
        ImageError: the file is missing, empty, damaged, or not what its name says.
    """
    name = path.name.lower()
    if not name.endswith((".nii", ".nii.gz")):
        raise ImageError(
            Problem(path, "its name ends in neither .nii nor .nii.gz", "Convert it to NIfTI; for DICOM, use `dcm2niix -z y`")
        )
    if not path.is_file():
        raise ImageError(missing_file_problem(path))
    twin = path.with_suffix("") if name.endswith(".gz") else path.with_name(path.name + ".gz")
    if twin.exists():
        raise ImageError(
            Problem(
                path, f"{twin.name} lies next to it, and programs differ in which of the two they read", "Remove one of them"
            )
        )
    try:
        with path.open("rb") as file:
            start = file.read(_LONGEST_HEADER)
            _check_kind(path, start)
            file.seek(0)
            if start.startswith(_GZIP):
                with gzip.GzipFile(fileobj=file) as stream:
                    return _read_stream(path, stream, max_voxels)
            return _read_stream(path, file, max_voxels)
    except EOFError as error:
        raise ImageError(
            Problem(path, "the gzip stream ends early, so the file is truncated", "Fetch or copy it again")
        ) from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise ImageError(Problem(path, f"the gzip stream is damaged ({error})", "Fetch or copy it again")) from error
    except OSError as error:
        remedy = "Check the disk and the permissions of the file"
        raise ImageError(Problem(path, f"cannot be read ({error.strerror or error})", remedy)) from error


def _read_stream(path: Path, stream: BinaryIO, max_voxels: float) -> Content:
    """Read an uncompressed stream: first the header, then as many bytes as it implies."""
    content = bytearray(stream.read(_LONGEST_HEADER))
    try:
        image_class = _image_class(path, content)
        # Without nibabel's header repair, which would turn a missing spacing into 1 mm.
        header = image_class.header_class.from_fileobj(io.BytesIO(content), check=False)
        expected = _expected_size(path, header, max_voxels)
    except ImageError:
        stream.read(_CHUNK)  # see below
        raise
    while len(content) <= expected and (chunk := stream.read(min(_CHUNK, expected + 1 - len(content)))):
        content += chunk
    if len(content) != expected:
        # Raises if the stream is damaged, which explains the size. One chunk bounds the time.
        stream.read(_CHUNK)
        size = f"more than {expected}" if len(content) > expected else len(content)
        raise ImageError(
            Problem(
                path,
                f"holds {size} bytes, but its header (shape {header.get_data_shape()}, type {header.get_data_dtype()}) "
                f"requires {expected}",
                _REMEDY,
            )
        )
    return Content(image_class, header, content)


def _check_kind(path: Path, start: bytes) -> None:
    """Check that the content of a file is of the kind that its name says."""
    is_named_gz = path.name.lower().endswith(".gz")
    if not start:
        raise ImageError(Problem(path, "the file is empty", "Delete it and fetch it again"))
    if start.startswith(_GZIP):
        if not is_named_gz:
            raise ImageError(Problem(path, "the file is compressed with gzip", f"Rename it to {path.name}.gz"))
        return
    if _header_size(start):
        if is_named_gz:
            problem = "is NIfTI without compression"
            raise ImageError(Problem(path, problem, f"Rename it to {path.name[: -len('.gz')]}"))
        return
    if problem := pointer_problem(path, start):
        raise ImageError(problem)
    if start.lstrip().startswith(b"<"):
        problem = "is a web page, not an image, so its download has failed"
        raise ImageError(Problem(path, problem, "Delete it and fetch it again"))
    for magic, kind in _FOREIGN_STARTS.items():
        if start.startswith(magic):
            raise ImageError(Problem(path, f"is {kind}, not NIfTI", "Unpack it, and compress it with gzip if you like"))
    if start[128:132] == b"DICM":
        raise ImageError(Problem(path, "is a DICOM file, not NIfTI", "Convert the series with `dcm2niix -z y`"))
    if is_named_gz:
        problem = "is not compressed with gzip, although its name says so"
        raise ImageError(Problem(path, problem, "Delete it and fetch it again"))


def _header_size(content: bytes | bytearray) -> int:
    """Return the size of the header that a file begins with, or 0 if it is not NIfTI's."""
    sizes = [struct.unpack(order + "i", content[:4])[0] for order in "<>"] if len(content) >= 4 else []
    return next((size for size in sizes if size in _HEADER_CLASSES), 0)


def _image_class(path: Path, content: bytearray) -> type[nib.Nifti1Image]:
    size = _header_size(content)
    magic = content[344:347] if size == 348 else content[4:7]
    if size and len(content) >= size and magic == (b"n+1" if size == 348 else b"n+2"):
        return _HEADER_CLASSES[size]
    if content.startswith(_GZIP):
        raise ImageError(Problem(path, "is compressed with gzip twice", "Decompress it once with `gunzip`"))
    raise ImageError(Problem(path, "has no NIfTI header of a single-file image", "Convert it to NIfTI, or fetch it again"))


def _expected_size(path: Path, header: nib.Nifti1Header, max_voxels: float) -> int:
    """Return the size of the uncompressed file that a header implies, in bytes."""
    dimensions = np.asarray(header["dim"]).astype(int)
    rank = dimensions[0]
    if not 1 <= rank <= 7 or (dimensions[1 : rank + 1] < 1).any():
        raise ImageError(Problem(path, f"its header has the invalid dimensions {dimensions.tolist()}", _REMEDY))
    try:
        dtype = header.get_data_dtype()
    except KeyError:
        voxel_type = int(header["datatype"])
        problem = f"its header names a voxel type ({voxel_type}) that NIfTI does not have"
        raise ImageError(Problem(path, problem, _REMEDY)) from None
    if dtype.kind not in "biuf" or not dtype.itemsize:
        raise ImageError(Problem(path, f"its voxels are of type {dtype}", "Convert the image to integers or real numbers"))
    voxels = math.prod(map(int, dimensions[1 : rank + 1]))
    if voxels > max_voxels:
        shape = tuple(map(int, dimensions[1 : rank + 1]))
        problem = f"its shape {shape} has {voxels:.3g} voxels, more than any scan of a head"
        raise ImageError(Problem(path, problem, "Extract one 3D volume, or resample it to a coarser grid"))
    offset = float(header["vox_offset"])
    if not int(header["sizeof_hdr"]) <= offset < 2**26:
        raise ImageError(Problem(path, f"its header places the voxels at byte {offset:g}", _REMEDY))
    return int(offset) + voxels * dtype.itemsize
