"""Read NIfTI images and refuse damaged files and unusable geometry."""

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

LABELS = (0, 1, 2)


def read_image(path: str | Path, *, mask: bool = False, allow_4d: bool = False) -> nib.Nifti1Image:
    """Read a NIfTI image, (H, W, D) or (H, W, D, C), after checking every byte of the file and its geometry.

    The gzip checksum is verified over the whole stream, which neither nibabel nor SimpleITK does in every case.
    A trailing dimension of size one is dropped; other 4D images need `allow_4d`. A constant image is refused
    unless `mask`, because an empty mask is a legitimate finding and a constant scan is not.

    Raises ImageError if the file is missing, empty, damaged or not what its name says, holds NaN or Inf, or has no
    usable geometry.
    """
    path = Path(path)
    content = _read_bytes(path)
    image_class = _image_class(path, content)
    # Without nibabel's header repair: it would turn a missing spacing into 1 mm.
    header = image_class.header_class.from_fileobj(io.BytesIO(content), check=False)
    _check_size(path, header, len(content))
    _check_header_geometry(path, header)
    stored = image_class.from_bytes(content)
    data = np.asanyarray(stored.dataobj)
    if data.dtype.kind not in "biuf":
        raise ImageError(f"{path}: voxels are of type {data.dtype}; convert the image to integers or real numbers.")
    image = nib.squeeze_image(image_class(data, stored.affine, stored.header))
    if image.ndim != 3 and not (allow_4d and image.ndim == 4):
        raise ImageError(f"{path}: has the shape {image.shape}, but a 3D image is needed; extract one 3D volume from it.")
    _check_values(path, data, mask)
    return image


def read_array(
    path: str | Path, *, mask: bool = False, allow_4d: bool = False, dtype: np.dtype | type = np.float32
) -> np.ndarray:
    """Read the voxels of an image, (H, W, D) or (H, W, D, C), with the checks of `read_image`."""
    return np.asarray(read_image(path, mask=mask, allow_4d=allow_4d).dataobj).astype(dtype, copy=False)


def read_labels(path: str | Path) -> tuple[np.ndarray, nib.Nifti1Image]:
    """Read a label map: uint8 array (H, W, D) of 0 background, 1 lesion, 2 other pathology, and its image.

    Values within 1e-3 of a label are rounded, because masks are often stored as floating point.
    Raises ImageError listing the values that are no labels, besides what `read_image` raises.
    """
    image = read_image(path, mask=True)
    data = np.asarray(image.dataobj)
    rounded = np.rint(data)
    wrong = (np.abs(data - rounded) > 1e-3) | ~np.isin(rounded, LABELS)
    if wrong.any():
        values = np.unique(data[wrong])
        listed = ", ".join(f"{value:g}" for value in values[:10]) + (", ..." if len(values) > 10 else "")
        raise ImageError(
            f"{path}: {int(wrong.sum())} voxels hold {listed}, but a mask may hold only 0 (background), 1 (lesion) and "
            "2 (other pathology, ignored); recode the mask, without interpolation if it was resampled."
        )
    return rounded.astype(np.uint8), image


def _read_bytes(path: Path) -> bytes:
    if not path.name.endswith((".nii", ".nii.gz")):
        raise ImageError(f"{path}: is not named .nii or .nii.gz; convert it to NIfTI.")
    if not path.is_file():
        raise ImageError(f"{path}: there is no such file; correct the path or fetch the file.")
    twin = path.with_suffix("") if path.suffix == ".gz" else path.with_name(path.name + ".gz")
    if twin.exists():
        raise ImageError(f"{path}: {twin.name} lies beside it, and programs differ in which they read; remove one of them.")
    content = path.read_bytes()
    if not content:
        raise ImageError(f"{path}: the file is empty; delete it and fetch it again.")
    compressed = content.startswith(b"\x1f\x8b")
    if path.suffix == ".gz" and not compressed:
        raise ImageError(f"{path}: {_describe_foreign(content, path)}")
    if path.suffix == ".nii" and compressed:
        raise ImageError(f"{path}: is compressed with gzip; rename it to {path.name}.gz.")
    if not compressed:
        return content
    try:
        return gzip.decompress(content)
    except EOFError as error:
        raise ImageError(f"{path}: the gzip stream ends early, the file is truncated; fetch or copy it again.") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise ImageError(f"{path}: the gzip stream is damaged ({error}); fetch or copy it again.") from error


def _describe_foreign(content: bytes, path: Path) -> str:
    start = content[:200].lstrip().lower()
    if start.startswith(b"<"):
        return "is a web page, not an image: a download that failed; delete it and fetch it again."
    if start.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not an image; run `git lfs pull`."
    if _header_size(content) in (348, 540):
        return f"is NIfTI without compression; rename it to {path.name.removesuffix('.gz')}."
    return "is not compressed with gzip although its name says so; delete it and fetch it again."


def _header_size(content: bytes) -> int:
    sizes = [struct.unpack(order + "i", content[:4])[0] for order in "<>"] if len(content) >= 4 else []
    return next((size for size in sizes if size in (348, 540)), 0)


def _image_class(path: Path, content: bytes) -> type[nib.Nifti1Image]:
    size = _header_size(content)
    image_class = {348: nib.Nifti1Image, 540: nib.Nifti2Image}.get(size)
    magic = content[344:347] if size == 348 else content[4:7]
    if image_class is None or len(content) < size or magic != b"n+" + (b"1" if size == 348 else b"2"):
        raise ImageError(f"{path}: holds no NIfTI header of a single-file image; convert it to NIfTI, or fetch it again.")
    return image_class


def _check_size(path: Path, header: nib.Nifti1Header, size: int) -> None:
    dimensions = np.asarray(header["dim"])
    if not 1 <= dimensions[0] <= 7 or (dimensions[1 : dimensions[0] + 1] < 1).any():
        raise ImageError(f"{path}: its header gives the dimensions {dimensions.tolist()}; fetch or convert it again.")
    try:
        header.get_data_dtype()
    except KeyError:
        raise ImageError(
            f"{path}: its header names a type of voxels ({int(header['datatype'])}) that NIfTI does not have; fetch or convert "
            "it again."
        ) from None
    expected = int(header["vox_offset"]) + int(np.prod(header.get_data_shape())) * header.get_data_dtype().itemsize
    if size != expected:
        raise ImageError(
            f"{path}: holds {size} bytes, but its header (shape {header.get_data_shape()}, type "
            f"{header.get_data_dtype()}) means {expected}; fetch or convert it again."
        )


def _check_header_geometry(path: Path, header: nib.Nifti1Header) -> None:
    sizes = np.asarray(header["pixdim"])[1:4].astype(float)
    if not (np.isfinite(sizes).all() and (sizes > 0).all()):
        raise ImageError(f"{path}: has no spacing (voxel sizes {sizes.tolist()}); convert it again from DICOM.")
    if header.get_xyzt_units()[0] not in ("mm", "unknown"):
        raise ImageError(f"{path}: its unit of length is {header.get_xyzt_units()[0]}; convert it to millimetres.")
    forms = {}
    if header["qform_code"] > 0:
        forms["qform"] = header.get_qform()
    if header["sform_code"] > 0:
        forms["sform"] = header.get_sform()
    if not forms:
        raise ImageError(
            f"{path}: has no spacing and orientation (qform and sform codes are 0); convert it again from DICOM, or "
            "set the codes if its affine is known to be right."
        )
    for name, form in forms.items():
        if not (np.isfinite(form).all() and abs(np.linalg.det(form[:3, :3])) > 1e-9):
            raise ImageError(f"{path}: its {name} is no invertible affine; convert it again from DICOM.")
    if len(forms) == 2 and (difference := np.abs(forms["qform"] - forms["sform"]).max()) > 1e-3:
        raise ImageError(
            f"{path}: qform and sform differ by up to {difference:.3g} mm, and programs differ in which they use; "
            "set the wrong one to the right one."
        )
    affine = forms.get("sform", forms.get("qform"))
    if (difference := np.abs(voxel_sizes(affine) - sizes).max()) > 1e-3:
        raise ImageError(
            f"{path}: voxel sizes {sizes.tolist()} and affine differ by up to {difference:.3g} mm; correct the header."
        )
    axes = affine[:3, :3] / voxel_sizes(affine)
    if (skew := np.abs(axes.T @ axes - np.eye(3)).max()) > 1e-3:
        raise ImageError(
            f"{path}: its voxel axes are not perpendicular (cosine {skew:.3g}), which ITK does not read; resample it "
            "to a grid without shear."
        )


def _check_values(path: Path, data: np.ndarray, mask: bool) -> None:
    finite = np.isfinite(data)
    if not finite.all():
        first = tuple(int(i) for i in np.unravel_index(np.argmin(finite), data.shape))
        raise ImageError(
            f"{path}: {int((~finite).sum())} voxels are NaN or Inf, the first at {first}; replace them by numbers, "
            "or export the image again."
        )
    if not mask and data.min() == data.max():
        raise ImageError(f"{path}: every voxel is {data.flat[0]:g}; export the image again.")
