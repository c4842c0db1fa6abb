"""Read NIfTI images, and refuse damaged files and unusable geometry."""

from __future__ import annotations

import gzip
import io
import struct
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.affines import voxel_sizes

from pd_ddpm.data.nifti.geometry import ImageError
from pd_ddpm.runtime.problem import Problem

LABELS = (0, 1, 2)


def read_image(path: str | Path, *, mask: bool = False, allow_4d: bool = False) -> nib.Nifti1Image:
    """Read a NIfTI image after checking every byte of the file and its geometry.

    The gzip checksum is verified over the whole stream, which neither nibabel nor SimpleITK does in every case.

    Args:
        path: file ending in .nii or .nii.gz.
        mask: whether the image is a mask. A mask may be constant, since a patient may have no lesion. A scan may not.
        allow_4d: whether several channels are allowed. A trailing dimension of size one is dropped in any case.

    Returns:
        The image, (X, Y, Z) or (X, Y, Z, C).

    Raises:
        ImageError: the file is missing, empty, damaged or not what its name says, holds NaN or infinite values, or has no
            usable geometry.
    """
    path = Path(path)
    content = _read_bytes(path)
    image_class = _image_class(path, content)
    # Without nibabel's header repair, which would turn a missing spacing into 1 mm.
    header = image_class.header_class.from_fileobj(io.BytesIO(content), check=False)
    _check_size(path, header, len(content))
    _check_header_geometry(path, header)
    stored = image_class.from_bytes(content)
    data = np.asanyarray(stored.dataobj)
    if data.dtype.kind not in "biuf":
        raise ImageError(Problem(path, f"its voxels are of type {data.dtype}", "Convert the image to integers or real numbers"))
    image = nib.squeeze_image(image_class(data, stored.affine, stored.header))
    if image.ndim != 3 and not (allow_4d and image.ndim == 4):
        raise ImageError(
            Problem(path, f"has the shape {image.shape}, but a 3D image is needed", "Extract one 3D volume from it")
        )
    _check_values(path, data, mask)
    return image


def read_array(
    path: str | Path, *, mask: bool = False, allow_4d: bool = False, dtype: np.dtype | type = np.float32
) -> np.ndarray:
    """Read the voxels of an image with the checks of `read_image`.

    Args:
        path: file ending in .nii or .nii.gz.
        mask: whether the image is a mask, which may be constant.
        allow_4d: whether several channels are allowed.
        dtype: type of the result.

    Returns:
        The voxels, (X, Y, Z) or (X, Y, Z, C).

    Raises:
        ImageError: see `read_image`.
    """
    return np.asarray(read_image(path, mask=mask, allow_4d=allow_4d).dataobj).astype(dtype, copy=False)


def read_labels(path: str | Path) -> tuple[np.ndarray, nib.Nifti1Image]:
    """Read a label map: uint8 array (X, Y, Z) of 0 background, 1 lesion, 2 other pathology, and its image.

    Values within 1e-3 of a label are rounded, since masks are often stored as floating point.

    Raises:
        ImageError: the mask holds other values, or `read_image` refuses the file.
    """
    image = read_image(path, mask=True)
    data = np.asarray(image.dataobj)
    rounded = np.rint(data)
    invalid = (np.abs(data - rounded) > 1e-3) | ~np.isin(rounded, LABELS)
    if invalid.any():
        values = np.unique(data[invalid])
        listed = ", ".join(f"{value:g}" for value in values[:10]) + (", ..." if len(values) > 10 else "")
        raise ImageError(
            Problem(
                path,
                f"{int(invalid.sum())} voxels hold {listed}, but a mask may hold only 0 (background), 1 (lesion) and 2 (other "
                "pathology, ignored)",
                "Recode the mask. If it was resampled, do so again without interpolation",
            )
        )
    return rounded.astype(np.uint8), image


def _read_bytes(path: Path) -> bytes:
    if not path.name.endswith((".nii", ".nii.gz")):
        raise ImageError(Problem(path, "its name ends in neither .nii nor .nii.gz", "Convert it to NIfTI"))
    if not path.is_file():
        raise ImageError(Problem(path, "the file does not exist", "Correct the path or fetch the file"))
    twin = path.with_suffix("") if path.suffix == ".gz" else path.with_name(path.name + ".gz")
    if twin.exists():
        raise ImageError(
            Problem(
                path, f"{twin.name} lies next to it, and programs differ in which of the two they read", "Remove one of them"
            )
        )
    content = path.read_bytes()
    if not content:
        raise ImageError(Problem(path, "the file is empty", "Delete it and fetch it again"))
    is_compressed = content.startswith(b"\x1f\x8b")
    if path.suffix == ".gz" and not is_compressed:
        raise ImageError(_foreign_content(path, content))
    if path.suffix == ".nii" and is_compressed:
        raise ImageError(Problem(path, "the file is compressed with gzip", f"Rename it to {path.name}.gz"))
    if not is_compressed:
        return content
    try:
        return gzip.decompress(content)
    except EOFError as error:
        raise ImageError(
            Problem(path, "the gzip stream ends early, so the file is truncated", "Fetch or copy it again")
        ) from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise ImageError(Problem(path, f"the gzip stream is damaged ({error})", "Fetch or copy it again")) from error


def _foreign_content(path: Path, content: bytes) -> Problem:
    """Describe what a file named .gz holds instead of a gzip stream."""
    start = content[:200].lstrip().lower()
    if start.startswith(b"<"):
        return Problem(path, "is a web page, not an image, so its download has failed", "Delete it and fetch it again")
    if start.startswith(b"version https://git-lfs"):
        return Problem(path, "is a Git LFS pointer, not an image", "Run `git lfs pull`")
    if _header_size(content) in (348, 540):
        return Problem(path, "is NIfTI without compression", f"Rename it to {path.name.removesuffix('.gz')}")
    return Problem(path, "is not compressed with gzip, although its name says so", "Delete it and fetch it again")


def _header_size(content: bytes) -> int:
    sizes = [struct.unpack(order + "i", content[:4])[0] for order in "<>"] if len(content) >= 4 else []
    return next((size for size in sizes if size in (348, 540)), 0)


def _image_class(path: Path, content: bytes) -> type[nib.Nifti1Image]:
    size = _header_size(content)
    image_class = {348: nib.Nifti1Image, 540: nib.Nifti2Image}.get(size)
    magic = content[344:347] if size == 348 else content[4:7]
    if image_class is None or len(content) < size or magic != b"n+" + (b"1" if size == 348 else b"2"):
        raise ImageError(Problem(path, "has no NIfTI header of a single-file image", "Convert it to NIfTI, or fetch it again"))
    return image_class


def _check_size(path: Path, header: nib.Nifti1Header, size: int) -> None:
    dimensions = np.asarray(header["dim"])
    remedy = "Fetch or convert it again"
    if not 1 <= dimensions[0] <= 7 or (dimensions[1 : dimensions[0] + 1] < 1).any():
        raise ImageError(Problem(path, f"its header has the invalid dimensions {dimensions.tolist()}", remedy))
    try:
        header.get_data_dtype()
    except KeyError:
        voxel_type = int(header["datatype"])
        raise ImageError(
            Problem(path, f"its header names a voxel type ({voxel_type}) that NIfTI does not have", remedy)
        ) from None
    expected = int(header["vox_offset"]) + int(np.prod(header.get_data_shape())) * header.get_data_dtype().itemsize
    if size != expected:
        raise ImageError(
            Problem(
                path,
                f"holds {size} bytes, but its header (shape {header.get_data_shape()}, type {header.get_data_dtype()}) "
                f"requires {expected}",
                remedy,
            )
        )


def _check_header_geometry(path: Path, header: nib.Nifti1Header) -> None:
    sizes = np.asarray(header["pixdim"])[1:4].astype(float)
    from_dicom = "Convert it again from DICOM"
    if not (np.isfinite(sizes).all() and (sizes > 0).all()):
        raise ImageError(Problem(path, f"has no spacing (voxel sizes {sizes.tolist()})", from_dicom))
    if header.get_xyzt_units()[0] not in ("mm", "unknown"):
        raise ImageError(Problem(path, f"its unit of length is {header.get_xyzt_units()[0]}", "Convert it to millimetres"))
    forms = {}
    if header["qform_code"] > 0:
        forms["qform"] = header.get_qform()
    if header["sform_code"] > 0:
        forms["sform"] = header.get_sform()
    if not forms:
        raise ImageError(
            Problem(
                path,
                "has no spacing and orientation (qform and sform codes are 0)",
                f"{from_dicom}, or set the codes if its affine is known to be right",
            )
        )
    for name, form in forms.items():
        if not (np.isfinite(form).all() and abs(np.linalg.det(form[:3, :3])) > 1e-9):
            raise ImageError(Problem(path, f"its {name} is not an invertible affine", from_dicom))
    if len(forms) == 2 and (difference := np.abs(forms["qform"] - forms["sform"]).max()) > 1e-3:
        raise ImageError(
            Problem(
                path,
                f"qform and sform differ by up to {difference:.3g} mm, and programs differ in which of the two they use",
                "Set the wrong one to the right one",
            )
        )
    affine = forms.get("sform", forms.get("qform"))
    if (difference := np.abs(voxel_sizes(affine) - sizes).max()) > 1e-3:
        raise ImageError(
            Problem(path, f"voxel sizes {sizes.tolist()} and affine differ by up to {difference:.3g} mm", "Correct the header")
        )
    axes = affine[:3, :3] / voxel_sizes(affine)
    if (skew := np.abs(axes.T @ axes - np.eye(3)).max()) > 1e-3:
        raise ImageError(
            Problem(
                path,
                f"its voxel axes are not perpendicular (cosine {skew:.3g}), and ITK does not read such images",
                "Resample it to a grid without shear",
            )
        )


def _check_values(path: Path, data: np.ndarray, mask: bool) -> None:
    finite = np.isfinite(data)
    if not finite.all():
        first = tuple(int(i) for i in np.unravel_index(np.argmin(finite), data.shape))
        raise ImageError(
            Problem(
                path,
                f"{int((~finite).sum())} voxels are NaN or infinite, the first at {first}",
                "Replace them by numbers, or export the image again",
            )
        )
    if not mask and data.min() == data.max():
        raise ImageError(Problem(path, f"every voxel is {data.flat[0]:g}", "Export the image again"))
