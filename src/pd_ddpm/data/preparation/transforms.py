"""Read spatial transforms of elastix and ITK."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from pd_ddpm.data.nifti.geometry import ImageError

_NO_INITIAL_TRANSFORM = "NoInitialTransform"


def read_elastix_transform(path: str | Path) -> sitk.Transform:
    """Read a 3D Euler, affine or translation transform from an elastix parameter file.

    It maps points of the fixed to the moving image, in mm in ITK's LPS frame: T(x) = A (x - c) + c + t (elastix
    manual, on transforms). Without UseDirectionCosines the file is taken to be of elastix 4.8 or later, where it is "true".

    Raises ImageError for other transforms, chained transforms, and files that lack a parameter.
    """
    path = Path(path)
    entries = _elastix_entries(path)

    def one(name: str, default: str) -> str:
        return entries.get(name, [default])[0]

    kind = one("Transform", "")
    counts = {"EulerTransform": 6, "AffineTransform": 12, "TranslationTransform": 3}
    if kind not in counts:
        raise ImageError(f"{path}: elastix transform {kind!r} is not read; use one of {', '.join(counts)}.")
    # The name was spelt with a plural s before elastix 5.1.
    for name in ("InitialTransformParameterFileName", "InitialTransformParametersFileName"):
        if one(name, _NO_INITIAL_TRANSFORM) != _NO_INITIAL_TRANSFORM:
            raise ImageError(
                f"{path}: builds on an initial transform ({one(name, '')}), and chains are not read; combine them into one "
                "transform, or resample the image beforehand."
            )
    if {one("FixedImageDimension", "3"), one("MovingImageDimension", "3")} != {"3"}:
        raise ImageError(f"{path}: is not a transform between 3D images; register the 3D images.")
    if one("UseDirectionCosines", "true") != "true":
        raise ImageError(f"{path}: was made without direction cosines; register again with UseDirectionCosines true.")
    parameters = _numbers(path, entries, "TransformParameters", counts[kind])
    if kind == "TranslationTransform":
        return sitk.TranslationTransform(3, parameters)
    centre = _numbers(path, entries, "CenterOfRotationPoint", 3)
    if kind == "EulerTransform":
        transform = sitk.Euler3DTransform()
        transform.SetComputeZYX(one("ComputeZYX", "false") == "true")
    else:
        transform = sitk.AffineTransform(3)
    transform.SetCenter(centre)
    transform.SetParameters(parameters)
    return transform


def read_transform(path: str | Path) -> sitk.Transform:
    """Read a transform from fixed to moving image, from an elastix parameter file or any file that ITK reads.

    Raises ImageError if it is neither.
    """
    path = Path(path)
    if not path.is_file():
        raise ImageError(f"{path}: there is no such transform; correct the path.")
    if re.search(rb"^\s*\(Transform\s", path.read_bytes(), re.MULTILINE):
        return read_elastix_transform(path)
    try:
        transform = sitk.ReadTransform(str(path))
    except RuntimeError as error:
        raise ImageError(
            f"{path}: is a transform neither of elastix nor of ITK; convert it to an ITK transform (.tfm or .mat)."
        ) from error
    if transform.GetDimension() != 3:
        raise ImageError(f"{path}: is not a transform between 3D images; register the 3D images.")
    return transform


def _elastix_entries(path: Path) -> dict[str, list[str]]:
    entries = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        if match := re.match(r"\s*\(\s*(\w+)\s+(.*?)\s*\)\s*(//.*)?$", line):
            entries[match[1]] = [quoted or bare for quoted, bare in re.findall(r'"([^"]*)"|(\S+)', match[2])]
    return entries


def _numbers(path: Path, entries: dict[str, list[str]], name: str, count: int) -> list[float]:
    texts = entries.get(name, [])
    try:
        numbers = [float(text) for text in texts]
    except ValueError:
        numbers = []
    if len(numbers) != count or not np.isfinite(numbers).all():
        raise ImageError(f"{path}: {name} should be {count} numbers but is {' '.join(texts) or 'missing'}; register again.")
    return numbers
