"""Ways to store a scan as a NIfTI file, drawn at random: type, scaling, byte order, orientation and more."""

import gzip
import itertools
import os
from pathlib import Path

import nibabel as nib
import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from nibabel.orientations import inv_ornt_aff

INPUTS = int(os.environ.get("RANDOM_INPUTS", "0"))
HEAD_SHAPE, HEAD_SPACING = (41, 57, 13), (3.25, 3.0, 5.0)

# All 48 ways to store three axes: their order and their directions.
ORIENTATIONS = [
    np.column_stack([order, signs])
    for order in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=3)
]
INTEGERS = (np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64)
FLOATS = (np.float32, np.float64)


def inputs(share: float):
    """Return the settings of a property that gets a share of the inputs: some 40 in the fast tests, always the same."""
    return settings(
        max_examples=max(1, round(share * (INPUTS or 40))),
        derandomize=not INPUTS,
        database=None,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )


@st.composite
def encodings(draw: st.DrawFn) -> dict:
    """Draw a way to store an image: type, scaling, byte order, version, compression, orientation, form codes and qfac."""
    dtype = draw(st.sampled_from(INTEGERS + FLOATS))
    # Powers of two are exact in float32, so that every encoding holds the same values.
    factor = 1 if dtype is np.uint8 else 2 ** draw(st.integers(0, 6))
    return {
        "dtype": np.dtype(dtype),
        "byte_order": draw(st.sampled_from("<>")),
        "factor": factor,
        "offset": 0 if dtype is np.uint8 else draw(st.integers(0, 3000)),
        "image_class": draw(st.sampled_from((nib.Nifti1Image, nib.Nifti2Image))),
        "ending": draw(st.sampled_from((".nii", ".nii.gz", ".NII.GZ"))),
        "orientation": draw(st.sampled_from(ORIENTATIONS)),
        "codes": draw(st.sampled_from([(1, 1), (0, 1), (1, 0), (2, 4)])),
        "positive_qfac": draw(st.sampled_from((0, 1))),
    }


def store(folder: Path, array: np.ndarray, affine: np.ndarray, encoding: dict) -> Path:
    """Write an array of whole numbers in RAS order with an encoding; nibabel neither scales nor turns anything."""
    change = encoding["orientation"]
    turned = nib.orientations.apply_orientation(array, change)
    stored_affine = affine @ inv_ornt_aff(change, array.shape)
    header = encoding["image_class"].header_class(endianness=encoding["byte_order"])
    header.set_data_dtype(encoding["dtype"])
    header.set_data_shape(turned.shape)
    header.set_xyzt_units("mm")
    header.set_qform(stored_affine, encoding["codes"][0])
    header.set_sform(stored_affine, encoding["codes"][1])
    header.set_slope_inter(1 / encoding["factor"], -encoding["offset"] / encoding["factor"])
    if header["pixdim"][0] == 1:
        header["pixdim"][0] = encoding["positive_qfac"]
    values = (turned * encoding["factor"] + encoding["offset"]).astype(encoding["dtype"].newbyteorder(encoding["byte_order"]))
    header["vox_offset"] = header.single_vox_offset
    content = header.binaryblock + bytes(header.single_vox_offset - len(header.binaryblock)) + values.tobytes(order="F")
    path = folder / f"{len(list(folder.iterdir()))}{encoding['ending']}"
    path.write_bytes(gzip.compress(content, 1) if path.name.lower().endswith(".gz") else content)
    return path


def make_head() -> np.ndarray:
    """A head of 200 on air of about 0, with noise and brighter spots, in whole numbers."""
    random = np.random.default_rng(5)
    centre, radii = np.array([20, 28, 6]).reshape(3, 1, 1, 1), np.array([17, 25, 6]).reshape(3, 1, 1, 1)
    distance = np.linalg.norm((np.indices(HEAD_SHAPE) - centre) / radii, axis=0)
    head = 120 * (distance < 1) + random.normal(0, 3, HEAD_SHAPE)
    for x, y, z in random.integers((10, 14, 3), (31, 43, 10), (6, 3)):
        head[x - 2 : x + 3, y - 1 : y + 3, z : z + 2] += 40
    return np.rint(head).clip(0, 255).astype(int)
