"""Check and repair the geometry in a NIfTI header."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.affines import voxel_sizes

from pd_ddpm.data.nifti.geometry import GRID_TOLERANCE_VOXELS, ImageError, corner_distance_mm
from pd_ddpm.runtime.problem import Problem

_FROM_DICOM = "Convert it again from DICOM"

# Outside of this range, a voxel size in mm is a mistake of the unit. Scans of heads have 0.2 to 10 mm.
_PLAUSIBLE_VOXEL_MM = (0.01, 100.0)

# No scanner places a head further from its centre.
_MAX_ORIGIN_MM = 1e5

# Rounding to float32 and careless arithmetic lengthen a quaternion by less than this.
_MAX_QUATERNION_EXCESS = 1e-3

_GEOMETRY_FIELDS = (
    *("pixdim", "xyzt_units", "qform_code", "sform_code"),
    *("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"),
    *("srow_x", "srow_y", "srow_z"),
)

_LAST_FORM_CODE = 5  # "template other", see nifti1.h

_UNITS = {0: "unknown", 1: "metre", 2: "mm", 3: "micrometre"}


def checked_affine(path: Path, header: nib.Nifti1Header) -> np.ndarray:
    """Return the affine of a header, (4, 4) from voxels to mm, after checking that it is unambiguous and plausible.

    The sform counts if its code is set, otherwise the qform. Fields that programs often write carelessly are repaired in the
    header itself as the NIfTI standard reads them: qfac, and a quaternion that is a little longer than 1.

    Args:
        path: the file, for messages.
        header: its header, which is changed in place.

    Raises:
        ImageError: the geometry is missing, contradictory or implausible.

    Reference: nifti1.h, sections "3D image orientation" (method 2 and 3) and "units of spatial and temporal dimensions".
    """
    sizes = _voxel_sizes(path, header)
    _check_unit(path, sizes)
    forms = _forms(path, header)
    if not forms:
        raise ImageError(
            Problem(
                path,
                "has no spacing and orientation (qform and sform codes are 0)",
                f"{_FROM_DICOM}, or set the codes if its affine is known to be right",
            )
        )
    for name, form in forms.items():
        if (distance := np.abs(form).max()) > _MAX_ORIGIN_MM:
            problem = f"its {name} places voxels {distance:.3g} mm from the origin"
            raise ImageError(Problem(path, problem, "Correct it, or convert the image again from DICOM"))
        if not (np.isfinite(form).all() and abs(np.linalg.det(form[:3, :3])) > 1e-9):
            raise ImageError(Problem(path, f"its {name} is not an invertible affine", _FROM_DICOM))
    affine = forms.get("sform", forms.get("qform"))
    if len(forms) == 2:
        distance = corner_distance_mm(forms["qform"], forms["sform"], header.get_data_shape())
        if distance > GRID_TOLERANCE_VOXELS * min(sizes):
            raise ImageError(
                Problem(
                    path,
                    f"qform and sform differ by up to {distance:.3g} mm, and programs differ in which of the two they use",
                    "Set the wrong one to the right one, for instance with `fslorient -copysform2qform`",
                )
            )
    if (difference := np.abs(voxel_sizes(affine) - sizes).max()) > 1e-3:
        raise ImageError(
            Problem(path, f"voxel sizes {_listed(sizes)} and affine differ by up to {difference:.3g} mm", "Correct the header")
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
    return affine


def header_with_geometry(
    header_class: type[nib.Nifti1Header], reference: nib.Nifti1Header, shape: Sequence[int], dtype: np.dtype
) -> nib.Nifti1Header:
    """Return a header that takes only its geometry from another one.

    Descriptions and extensions may name a patient. Other fields may be damaged, and nibabel repairs or refuses some of them.

    Args:
        header_class: class of the result.
        reference: header with the geometry: voxel sizes, unit, qform and sform with their codes.
        shape: shape of the result.
        dtype: type of the voxels.
    """
    header = header_class()
    header.set_data_dtype(dtype)
    header.set_data_shape(shape)
    for field in _GEOMETRY_FIELDS:
        header[field] = reference[field]
    header["pixdim"][4:] = 1
    return header


def _voxel_sizes(path: Path, header: nib.Nifti1Header) -> np.ndarray:
    """Return the voxel sizes in mm, after checking their sign and unit."""
    sizes = np.asarray(header["pixdim"])[1:4].astype(float)
    if np.isfinite(sizes).all() and (sizes < 0).any():
        problem = f"its voxel sizes {_listed(sizes)} are negative, which NIfTI does not allow"
        raise ImageError(Problem(path, problem, "Set pixdim to the absolute values; the affine holds the directions"))
    if not (np.isfinite(sizes).all() and (sizes > 0).all()):
        raise ImageError(Problem(path, f"has no spacing (voxel sizes {_listed(sizes)})", _FROM_DICOM))
    code = int(header["xyzt_units"]) & 7
    if code not in _UNITS:
        problem = f"its header names a unit of length (code {code}) that NIfTI does not have"
        raise ImageError(Problem(path, problem, "Set xyzt_units to 2 if its voxel sizes are in millimetres"))
    if _UNITS[code] not in ("mm", "unknown"):
        raise ImageError(Problem(path, f"its unit of length is the {_UNITS[code]}", "Convert it to millimetres"))
    return sizes


def _forms(path: Path, header: nib.Nifti1Header) -> dict[str, np.ndarray]:
    """Return the affines whose codes are set. Repairs qfac and the quaternion of the header before."""
    # Only the sign of qfac counts, and most programs write 0 for 1.
    header["pixdim"][0] = -1 if header["pixdim"][0] < 0 else 1
    forms = {}
    for field in ("qform_code", "sform_code"):
        if not 0 <= (code := int(header[field])) <= _LAST_FORM_CODE:
            problem = f"its {field} is {code}, which NIfTI does not have"
            raise ImageError(Problem(path, problem, "Set it to 1 if its affine is known to be right, otherwise to 0"))
    if header["qform_code"] > 0:
        _normalise_quaternion(path, header)
        forms["qform"] = header.get_qform()
    if header["sform_code"] > 0:
        forms["sform"] = header.get_sform()
    return forms


def _normalise_quaternion(path: Path, header: nib.Nifti1Header) -> None:
    fields = ("quatern_b", "quatern_c", "quatern_d")
    vector = np.array([float(header[field]) for field in fields])
    if not np.isfinite(vector).all():
        raise ImageError(Problem(path, "its qform is not an invertible affine (its quaternion is not finite)", _FROM_DICOM))
    length = math.hypot(*vector)
    if length > 1 + _MAX_QUATERNION_EXCESS:
        remedy = "Set the qform to the sform if that is right, for instance with `fslorient -copysform2qform`"
        raise ImageError(Problem(path, f"its quaternion has the length {length:.6g}, so it is not a rotation", remedy))
    if length > 1:
        # Rounded towards 0, so that float32 does not lengthen it again.
        for field, value in zip(fields, vector / length, strict=True):
            rounded = np.float32(value)
            header[field] = np.nextafter(rounded, np.float32(0)) if abs(float(rounded)) > abs(value) else rounded


def _check_unit(path: Path, sizes: np.ndarray) -> None:
    """Check that voxel sizes in mm can be those of a scan of a head."""
    smallest, largest = _PLAUSIBLE_VOXEL_MM
    if sizes.min() < smallest:
        problem = f"its voxel sizes {_listed(sizes)} are given in mm, but seem to be metres"
        raise ImageError(Problem(path, problem, "Multiply voxel sizes and affine by 1000, or convert it again from DICOM"))
    if sizes.max() > largest:
        problem = f"its voxel sizes {_listed(sizes)} are given in mm, but seem to be micrometres"
        raise ImageError(Problem(path, problem, "Divide voxel sizes and affine by 1000, or convert it again from DICOM"))


def _listed(sizes: np.ndarray) -> str:
    return f"[{', '.join(f'{size:.6g}' for size in sizes)}]"
