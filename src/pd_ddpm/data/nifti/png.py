"""Read PNG images as scans of one slice."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
from PIL import Image, UnidentifiedImageError

from pd_ddpm.data.nifti.geometry import ImageError
from pd_ddpm.runtime.missing_file import missing_file_problem, pointer_problem
from pd_ddpm.runtime.problem import Problem

# Pixels have no size in mm: distances are in pixels. Columns run to the left and rows down, so pages show images upright.
_AFFINE = np.diag([-1.0, -1.0, 1.0, 1.0])
_WHITE = 255


def is_png(path: str | Path) -> bool:
    """Return whether a file is named as a PNG image."""
    return str(path).lower().endswith(".png")


def read_png(path: Path, mask: bool = False) -> nib.Nifti1Image:
    """Read a grey PNG image as a scan of one slice with pixels of 1 mm.

    Args:
        path: the file.
        mask: whether the image is a mask. In a mask of black and white, white becomes 1.

    Returns:
        The image: (columns, rows, 1), unsigned integers.

    Raises:
        ImageError: the file is missing, damaged, no PNG image, or coloured.
    """
    if not path.is_file():
        raise ImageError(missing_file_problem(path))
    try:
        with Image.open(path, formats=["PNG"]) as image:
            pixels = _grey(path, image)
    except UnidentifiedImageError as error:
        with path.open("rb") as file:
            problem = pointer_problem(path, file.read(200))
        raise ImageError(problem or Problem(path, "is not a PNG image", "Fetch it again, or correct its name")) from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ImageError(Problem(path, f"cannot be read ({error})", "Fetch or copy it again")) from error
    if mask and np.isin(pixels, (0, _WHITE)).all():
        pixels = pixels // _WHITE
    image = nib.Nifti1Image(np.ascontiguousarray(pixels.T[..., None]), _AFFINE)
    image.header.set_xyzt_units("mm")
    image.set_qform(_AFFINE, code=1)
    image.set_sform(_AFFINE, code=1)
    return image


def _grey(path: Path, image: Image.Image) -> np.ndarray:
    """Return the grey values of an image, (rows, columns). Colours must be grey."""
    if image.mode in ("L", "1"):
        return np.asarray(image.convert("L"))
    if image.mode.startswith("I"):
        return np.asarray(image).astype(np.uint16)
    colours = np.asarray(image.convert("RGB"))
    if (colours != colours[..., :1]).any():
        raise ImageError(Problem(path, "is coloured", "Convert it to grey values"))
    return colours[..., 0]
