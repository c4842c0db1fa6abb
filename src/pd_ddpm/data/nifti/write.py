"""Write NIfTI images on the grid of a reference image."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np

from pd_ddpm.data.nifti.geometry import ImageError
from pd_ddpm.runtime.files import atomic_write

# The largest float32 not above 1/255, so that a stored 255 never reads as more than 1.
PROBABILITY_SLOPE = float(np.nextafter(np.float32(1 / 255), np.float32(0)))

_GEOMETRY_FIELDS = (
    *("pixdim", "xyzt_units", "qform_code", "sform_code"),
    *("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"),
    *("srow_x", "srow_y", "srow_z"),
)


def write_image(
    path: str | Path,
    array: np.ndarray,
    reference: nib.Nifti1Image,
    dtype: np.dtype | type = np.float32,
    slope: float = 1.0,
) -> None:
    """Write `array`, (H, W, D) or (H, W, D, C), as .nii.gz on the grid of the image `reference`.

    Affine, qform and sform with their codes, voxel sizes and units come from `reference`; nothing else of its header does,
    so that no description or extension (which may name a patient) is carried along. Integer types store
    `array / slope`; with `dtype=np.uint8, slope=PROBABILITY_SLOPE` probabilities take one byte and every viewer shows
    0..1. The file appears under its name only when complete, and writing the same twice gives the same bytes.

    Raises ImageError if the name does not end in .nii.gz, the shapes differ or the values do not fit the type.
    """
    path = Path(path)
    array = np.asarray(array)
    if not path.name.endswith(".nii.gz"):
        raise ImageError(f"{path}: images are written compressed; give it a name that ends in .nii.gz.")
    if array.ndim not in (3, 4) or array.shape[:3] != reference.shape[:3]:
        raise ImageError(
            f"{path}: an array of shape {array.shape} does not fit the grid {reference.shape[:3]} of its template; "
            "resample it to that grid."
        )
    header = nib.Nifti1Header()
    header.set_data_dtype(dtype)
    header.set_data_shape(array.shape)
    for field in _GEOMETRY_FIELDS:
        header[field] = reference.header[field]
    header["pixdim"][4:] = 1
    image = nib.Nifti1Image(_stored_values(path, array, np.dtype(dtype), slope), None, header)
    # Set after construction, which forgets it; then nibabel stores the numbers as they are, with this slope beside them.
    image.header.set_slope_inter(slope, 0)
    content = gzip.compress(image.to_bytes(), compresslevel=1, mtime=0)
    with atomic_write(path, len(content)) as temporary:
        temporary.write_bytes(content)


def _stored_values(path: Path, array: np.ndarray, dtype: np.dtype, slope: float) -> np.ndarray:
    scaled = array if slope == 1 else array / slope
    if dtype.kind == "f":
        if not np.isfinite(scaled).all():
            raise ImageError(f"{path}: NaN or Inf would be written; replace them by numbers first.")
        return scaled.astype(dtype, copy=False)
    stored = np.rint(scaled) if scaled.dtype.kind == "f" else scaled
    limits = np.iinfo(dtype)
    if array.size and not (limits.min <= stored.min() and stored.max() <= limits.max):
        raise ImageError(
            f"{path}: values from {array.min():g} to {array.max():g} do not fit {dtype} with slope {slope:g}; "
            "choose another type."
        )
    if slope == 1 and not np.array_equal(stored, scaled):
        raise ImageError(f"{path}: fractions cannot be stored as {dtype}; round them first, or give a slope.")
    return stored.astype(dtype, copy=False)
