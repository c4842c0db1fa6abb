"""Random affine transformations of training patches.

The slice or volume of a patch is rotated, scaled, sheared and shifted as a whole. The patch is then cut from it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class AffineSettings:
    """Largest transformations. Each number of each transformation is uniform between -1 and 1 times its limit.

    Attributes:
        rotation_degrees: rotation in the plane of each pair of axes.
        scale: change of the factor along each axis, from 1.
        shear_degrees: angle by which each axis leans towards each other one.
        shift: shift along each axis, as a share of the slice's length; one number for all axes, or one for each.
        probability: probability of each number to be used. Otherwise its transformation is left out.
        unit: "mm": pixels have their true proportions; "pixels": they count as squares or cubes.
    """

    rotation_degrees: float
    scale: float
    shear_degrees: float
    shift: float | Sequence[float]
    probability: float
    unit: Literal["mm", "pixels"]


def sample_affine(
    rng: np.random.Generator, settings: AffineSettings, sizes: Sequence[int], pixel_mm: Sequence[float]
) -> np.ndarray:
    """Return a random affine map from pixels of a transformed slice to positions in the slice. Only the shift moves the centre.

    Args:
        rng: generator of the step.
        settings: largest transformations.
        sizes: sizes of the slice or volume in pixels.
        pixel_mm: size of a pixel along each axis, in mm.

    Returns:
        (D, D + 1), the matrix and the shift of the map, in pixels.

    Reference: the released code of Fu et al. 2024 (ImgX-DiffSeg), which rotates, scales, shears and shifts in this order.
    """

    def sample(*shape: int) -> np.ndarray:
        return rng.uniform(-1, 1, shape) * (rng.random(shape) < settings.probability)

    dims = len(sizes)
    planes = list(combinations(range(dims), 2))
    linear = np.eye(dims)
    for (first, second), angle in zip(planes, np.deg2rad(settings.rotation_degrees * sample(len(planes))), strict=True):
        rotation = np.eye(dims)
        rotation[[first, second], [first, second]] = math.cos(angle)
        rotation[first, second], rotation[second, first] = -math.sin(angle), math.sin(angle)
        linear = rotation @ linear
    linear = np.diag(1 + settings.scale * sample(dims)) @ linear
    tangents = np.tan(np.deg2rad(settings.shear_degrees * sample(dims, dims - 1)))
    for axis in reversed(range(dims)):
        shear = np.eye(dims)
        shear[np.arange(dims) != axis, axis] = tangents[axis]
        linear = shear @ linear
    if settings.unit == "mm":
        linear = linear * np.asarray(pixel_mm) / np.asarray(pixel_mm)[:, None]
    centre = (np.asarray(sizes) - 1) / 2
    shift = np.asarray(settings.shift) * np.asarray(sizes) * sample(dims)
    return np.column_stack([linear, centre + shift - linear @ centre])


def sampling_matrix(affine: np.ndarray, positions: Sequence[np.ndarray], sizes: Sequence[int]) -> np.ndarray:
    """Return the affine map from the pixels of a patch to the coordinates that PyTorch samples at.

    Args:
        affine: (D, D + 1), from `sample_affine`.
        positions: by axis, the pixels of the transformed slice that the patch has, in steps of 1 or -1.
        sizes: sizes of the slice in pixels.

    Returns:
        (D, D + 1) float32. It maps to coordinates from -1 at the border before the first pixel to 1 behind the last one.
    """
    firsts = np.array([pixels[0] for pixels in positions])
    steps = np.array([pixels[1] - pixels[0] if len(pixels) > 1 else 1 for pixels in positions])
    linear, offset = affine[:, :-1] * steps, affine[:, :-1] @ firsts + affine[:, -1]
    lengths = np.asarray(sizes)[:, None]
    return np.concatenate([2 * linear / lengths, (2 * offset[:, None] + 1) / lengths - 1], axis=1).astype(np.float32)


def warp_patch(image: Tensor, masks: Tensor, matrix: Tensor, crop: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return a patch of a transformed slice: the image interpolated linearly, of the masks the nearest pixel.

    Beyond the slice the image repeats its edge, and the masks are empty, as in all patches.

    Args:
        image: (M, *S), the slice or volume.
        masks: (L, *S), its masks.
        matrix: (D, D + 1), from `sampling_matrix`, on the device of the slice.
        crop: sizes of the patch in pixels.
    """
    dims = len(crop)
    numbers = [
        torch.arange(length, device=image.device).view([-1 if other == axis else 1 for other in range(dims)])
        for axis, length in enumerate(crop)
    ]
    # Not a matrix product, which GPUs may compute with ten bits (tf32).
    axes = [sum((factor * number for factor, number in zip(row, numbers, strict=False)), row[-1]) for row in matrix]
    grid = torch.stack([axis.expand(*crop) for axis in reversed(axes)], dim=-1)[None]
    image = functional.grid_sample(image[None], grid, "bilinear", "border", align_corners=False)
    masks = functional.grid_sample(masks[None], grid, "nearest", "zeros", align_corners=False)
    return image[0], masks[0]
