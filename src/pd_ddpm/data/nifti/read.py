"""Read NIfTI images, and refuse damaged files and unusable geometry."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.volumeutils import apply_read_scaling

from pd_ddpm.data.nifti.content import MAX_VOXELS, Content, read_content
from pd_ddpm.data.nifti.geometry import ImageError
from pd_ddpm.data.nifti.header import checked_affine, header_with_geometry
from pd_ddpm.data.nifti.png import is_png, read_png
from pd_ddpm.runtime.problem import Problem

LABELS = {0: 0, 1: 1, 2: 2}  # the labels of this pipeline, unchanged
_MEANINGS = {0: " (background)", 1: " (lesion)", 2: " (other pathology, ignored)"}


def read_image(path: str | Path, *, mask: bool = False, allow_4d: bool = False) -> nib.Nifti1Image:
    """Read a NIfTI image after checking every byte of the file and its geometry.

    Numbers and geometry follow the NIfTI standard where programs are careless: a sign of qfac other than -1 is 1, a quaternion
    a little longer than 1 is normalised, and a slope of 0 scales nothing.

    Args:
        path: file ending in .nii or .nii.gz, or in .png, see `read_png`.
        mask: whether the image is a mask. A mask may be constant, since a patient may have no lesion. A scan may not.
        allow_4d: whether several channels are allowed. A trailing dimension of size one is dropped in any case.

    Returns:
        The image, (X, Y, Z) or (X, Y, Z, C).

    Raises:
        ImageError: the file is missing, empty, damaged or not what its name says, holds NaN or infinite values, or has no
            usable geometry.
    """
    path = Path(path)
    if is_png(path):
        image = read_png(path, mask)
        _check_values(path, np.asarray(image.dataobj), mask)
        return image
    content = read_content(path, math.inf if allow_4d else MAX_VOXELS)
    affine = checked_affine(path, content.header)
    data = _scaled_values(path, content)
    header = header_with_geometry(content.image_class.header_class, content.header, data.shape, data.dtype)
    image = nib.squeeze_image(content.image_class(data, affine, header))
    if image.ndim != 3 and not (allow_4d and image.ndim == 4):
        remedy = "Extract one 3D volume from it" if image.ndim > 3 else "Use the 3D scan that this slice is part of"
        raise ImageError(Problem(path, f"has the shape {image.shape}, but a 3D image is needed", remedy))
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


def read_labels(path: str | Path, recoding: Mapping[int, int] = LABELS) -> tuple[np.ndarray, nib.Nifti1Image]:
    """Read a label map: uint8 array (X, Y, Z) of 0 background, 1 lesion, 2 other pathology or of classes, and its image.

    Values within 1e-3 of a label are rounded, since masks are often stored as floating point.

    Args:
        path: file ending in .nii or .nii.gz.
        recoding: the label that each label in the file stands for.

    Returns:
        The labels, and the image that they come from.

    Raises:
        ImageError: the mask holds other values, or `read_image` refuses the file.
    """
    image = read_image(path, mask=True)
    data = np.asarray(image.dataobj)
    rounded = np.rint(data)
    invalid = (np.abs(data - rounded) > 1e-3) | ~np.isin(rounded, list(recoding))
    if invalid.any():
        values = np.unique(data[invalid])
        listed = ", ".join(f"{value:g}" for value in values[:10]) + (", ..." if len(values) > 10 else "")
        raise ImageError(
            Problem(
                path,
                f"{int(invalid.sum())} voxels hold {listed}, but a mask may hold only {_listed(recoding)}",
                "Recode the mask, or name its labels in `classes` of the dataset. If it was resampled, do so again without "
                "interpolation",
            )
        )
    labels = rounded.astype(np.uint8)
    if recoding == LABELS:
        return labels, image
    meanings = np.zeros(max(recoding) + 1, np.uint8)
    meanings[list(recoding)] = list(recoding.values())
    return meanings[labels], image


def _listed(recoding: Mapping[int, int]) -> str:
    """Return the labels that a mask may hold, with their meanings if they are those of this pipeline."""
    *labels, last = (f"{label}{_MEANINGS[label] if recoding is LABELS else ''}" for label in recoding)
    return f"{', '.join(labels)} and {last}"


def _scaled_values(path: Path, content: Content) -> np.ndarray:
    """Return the voxels with the header's slope and intercept applied, in the byte order of this machine."""
    header = content.header
    dtype = header.get_data_dtype()
    stored = np.ndarray(header.get_data_shape(), dtype, content.data, int(header["vox_offset"]), order="F")
    stored = stored.astype(dtype.newbyteorder("="), copy=False)
    slope, intercept = (float(header[field]) for field in ("scl_slope", "scl_inter"))
    # The standard reads a slope of 0 as no scaling, and many programs leave NaN there.
    if slope == 0 or not np.isfinite(slope):
        return stored
    if not np.isfinite(intercept):
        problem = f"its header scales the voxels by {slope:g} and adds {intercept:g}"
        raise ImageError(Problem(path, problem, "Set scl_inter to 0 if that is right, or convert the image again"))
    with np.errstate(over="ignore", invalid="ignore"):
        return apply_read_scaling(stored, np.float64(slope), np.float64(intercept))


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
    if mask:
        return
    low, high = data.min(), data.max()
    if low == high:
        raise ImageError(Problem(path, f"every voxel is {low:g}", "Export the image again"))
    between = data[(data != low) & (data != high)]
    if not between.size or (between == between[0]).all():
        values = ", ".join(f"{value:g}" for value in sorted({low, *between[:1], high}))
        problem = f"holds no other values than {values}, so it is a mask and not a scan"
        raise ImageError(Problem(path, problem, "Enter the scan here. Check whether two files are exchanged"))
