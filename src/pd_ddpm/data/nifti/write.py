"""Write NIfTI images on the grid of a reference image."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np

from pd_ddpm.data.nifti.geometry import ImageError
from pd_ddpm.data.nifti.header import header_with_geometry
from pd_ddpm.runtime.files import atomic_write
from pd_ddpm.runtime.problem import Problem

# The largest float32 not above 1/255, so that no stored value reads as more than 1.
PROBABILITY_SLOPE = float(np.nextafter(np.float32(1 / 255), np.float32(0)))


def write_image(
    path: str | Path,
    array: np.ndarray,
    reference: nib.Nifti1Image,
    dtype: np.dtype | type = np.float32,
    slope: float = 1.0,
) -> None:
    """Write an array as .nii.gz on the grid of a reference image, atomically.

    The header takes only its geometry from the reference: affine, qform and sform with their codes, voxel sizes and units.
    Descriptions and extensions, which may name a patient, are not copied. The bytes depend on the arguments alone.

    Args:
        path: file to write, ending in .nii.gz.
        array: (X, Y, Z) or (X, Y, Z, C).
        reference: image that has the grid.
        dtype: type of the stored numbers.
        slope: factor from stored numbers to values. With `dtype=np.uint8, slope=PROBABILITY_SLOPE`, a probability takes
            one byte.

    Raises:
        ImageError: the name does not end in .nii.gz, the shapes differ, or the values do not fit the type.
    """
    path = Path(path)
    array = np.asarray(array)
    if not path.name.endswith(".nii.gz"):
        raise ImageError(Problem(path, "images are written compressed", "Use a name that ends in .nii.gz"))
    if array.ndim not in (3, 4) or array.shape[:3] != reference.shape[:3]:
        raise ImageError(
            Problem(
                path,
                f"an array of shape {array.shape} does not fit the grid {reference.shape[:3]} of the reference image",
                "Resample it to that grid",
            )
        )
    header = header_with_geometry(nib.Nifti1Header, reference.header, array.shape, np.dtype(dtype))
    image = nib.Nifti1Image(_stored_values(path, array, np.dtype(dtype), slope), None, header)
    # Set the slope after construction, which would reset it. nibabel then stores the numbers unchanged.
    image.header.set_slope_inter(slope, 0)
    content = gzip.compress(image.to_bytes(), compresslevel=1, mtime=0)
    with atomic_write(path, len(content)) as temporary:
        temporary.write_bytes(content)


def _stored_values(path: Path, array: np.ndarray, dtype: np.dtype, slope: float) -> np.ndarray:
    scaled = array if slope == 1 else array / slope
    if dtype.kind == "f":
        if not np.isfinite(scaled).all():
            raise ImageError(Problem(path, "the array holds NaN or infinite values", "Replace them by numbers"))
        return scaled.astype(dtype, copy=False)
    stored = np.rint(scaled) if scaled.dtype.kind == "f" else scaled
    limits = np.iinfo(dtype)
    if array.size and not (limits.min <= stored.min() and stored.max() <= limits.max):
        raise ImageError(
            Problem(
                path,
                f"values from {array.min():g} to {array.max():g} do not fit {dtype} with slope {slope:g}",
                "Choose another type",
            )
        )
    if slope == 1 and not np.array_equal(stored, scaled):
        raise ImageError(Problem(path, f"fractions cannot be stored as {dtype}", "Round them first, or set a slope"))
    return stored.astype(dtype, copy=False)
