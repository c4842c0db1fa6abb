"""Read spatial transforms of elastix and ITK."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from pd_ddpm.data.nifti.geometry import ImageError
from pd_ddpm.runtime.missing_file import missing_file_problem, pointer_problem
from pd_ddpm.runtime.problem import Problem

_NO_INITIAL_TRANSFORM = "NoInitialTransform"


def read_elastix_transform(path: str | Path) -> sitk.Transform:
    """Read a 3D Euler, affine or translation transform from an elastix parameter file.

    It maps points of the fixed to the moving image, in mm in ITK's LPS frame: T(x) = A (x - c) + c + t. A file without
    UseDirectionCosines is read as "true", the default since elastix 4.8.

    Raises:
        ImageError: the file holds another transform or a chain of transforms, or a parameter is missing.

    Reference: elastix manual, section on transforms.
    """
    path = Path(path)
    entries = _elastix_entries(path)

    def value(name: str, default: str) -> str:
        return entries.get(name, [default])[0]

    kind = value("Transform", "")
    counts = {"EulerTransform": 6, "AffineTransform": 12, "TranslationTransform": 3}
    if kind not in counts:
        raise ImageError(Problem(path, f"elastix transform {kind!r} is not supported", f"Use one of {', '.join(counts)}"))
    # Before elastix 5.1, the name had a plural s.
    for name in ("InitialTransformParameterFileName", "InitialTransformParametersFileName"):
        if value(name, _NO_INITIAL_TRANSFORM) != _NO_INITIAL_TRANSFORM:
            raise ImageError(
                Problem(
                    path,
                    f"builds on an initial transform ({value(name, '')}), and chains of transforms are not supported",
                    "Combine them into one transform, or resample the image beforehand",
                )
            )
    if {value("FixedImageDimension", "3"), value("MovingImageDimension", "3")} != {"3"}:
        raise ImageError(Problem(path, "is not a transform between 3D images", "Register the 3D images"))
    if value("UseDirectionCosines", "true") != "true":
        raise ImageError(
            Problem(path, "was made without direction cosines", "Register again with UseDirectionCosines set to true")
        )
    parameters = _numbers(path, entries, "TransformParameters", counts[kind])
    if kind == "TranslationTransform":
        return sitk.TranslationTransform(3, parameters)
    centre = _numbers(path, entries, "CenterOfRotationPoint", 3)
    if kind == "EulerTransform":
        transform = sitk.Euler3DTransform()
        transform.SetComputeZYX(value("ComputeZYX", "false") == "true")
    else:
        transform = sitk.AffineTransform(3)
    transform.SetCenter(centre)
    transform.SetParameters(parameters)
    return transform


def read_transform(path: str | Path) -> sitk.Transform:
    """Read a transform from fixed to moving image, from an elastix parameter file or any file that ITK reads.

    Raises:
        ImageError: the file is neither of them.
    """
    path = Path(path)
    if not path.is_file():
        raise ImageError(missing_file_problem(path, "Correct the path"))
    content = path.read_bytes()
    if problem := pointer_problem(path, content[:1000]):
        raise ImageError(problem)
    if re.search(rb"^\s*\(Transform\s", content, re.MULTILINE):
        return read_elastix_transform(path)
    try:
        transform = sitk.ReadTransform(str(path))
    except RuntimeError as error:
        raise ImageError(
            Problem(path, "is neither an elastix nor an ITK transform", "Convert it to an ITK transform (.tfm or .mat)")
        ) from error
    if transform.GetDimension() != 3:
        raise ImageError(Problem(path, "is not a transform between 3D images", "Register the 3D images"))
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
        raise ImageError(
            Problem(path, f"{name} should be {count} numbers but is {' '.join(texts) or 'missing'}", "Register again")
        )
    return numbers
