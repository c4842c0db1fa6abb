"""Check whether images and masks can be what their columns say, by brightness, volume and geometry."""

from __future__ import annotations

from dataclasses import dataclass

import nibabel as nib
import numpy as np
from nibabel.orientations import io_orientation
from scipy import ndimage, stats

from pd_ddpm.data.nifti.geometry import spacing_mm
from pd_ddpm.runtime.problem import Problem

_PLAUSIBLE_EXTENT_MM = (100, 400)

_MAX_LESION_ML = 300
_MAX_FRACTION_OUTSIDE_BRAIN = 0.5
_MIN_LESION_VOXELS = 10

# Contrasts are in robust standard deviations of the brain.
_MIN_CONTRAST = 0.6
_MIN_GAIN_OF_MIRRORED = 0.5

# Grey and white matter. Darker voxels hold fluid, at least in part. Brighter ones are vessels, or lesions, which lie deep.
_TISSUE_PERCENTILES = (40, 95)
_MAX_TISSUE_VOXELS = 10_000
_MIN_TISSUE_VOXELS = 100

# Least difference of the rank correlations of brightness with depth.
_MIN_EXCHANGED = 0.05

AXES = ("left to right", "front to back", "top to bottom")


@dataclass(frozen=True, eq=False)
class Brain:
    """A channel over the brain, on a subsampled grid.

    Attributes:
        image: the subsampled channel, (X, Y, Z).
        mask: (X, Y, Z) bool, its brain mask.
        subsample: the voxels of the whole channel that make up `image`.
    """

    image: nib.Nifti1Image
    mask: np.ndarray
    subsample: tuple[slice, slice, slice]

    @property
    def ml(self) -> float:
        """Volume of the brain mask."""
        return int(self.mask.sum()) * float(np.prod(spacing_mm(self.image))) / 1000

    def contrast(self, values: np.ndarray) -> float:
        """Return how much brighter voxels are than the median of the brain, in its robust standard deviations."""
        low, median, high = np.percentile(np.asarray(self.image.dataobj)[self.mask], (25, 50, 75))
        # Quartiles of a normal distribution are 1.349 standard deviations apart.
        width = (high - low) / 1.349
        return (float(np.mean(values, dtype=np.float64)) - float(median)) / max(float(width), 1e-6)


def geometry_problem(image: nib.Nifti1Image) -> Problem | None:
    """Return why the size of an image is impossible for a head, or None."""
    if np.allclose(image.affine, np.eye(4), rtol=0, atol=1e-6):
        problem = "its affine is the identity, so its voxel size, orientation and place were probably lost"
        return Problem("", problem, "Convert it again from DICOM, unless its voxels are indeed cubes of 1 mm")
    extent_mm = np.array(image.shape[:3]) * spacing_mm(image)
    low, high = _PLAUSIBLE_EXTENT_MM
    if low <= extent_mm.min() and extent_mm.max() <= high:
        return None
    size = "x".join(f"{mm:.0f}" for mm in extent_mm)
    return Problem("", f"its field of view of {size} mm is not that of a whole head", "Check its voxel size")


def lesion_problem(labels: np.ndarray, first: nib.Nifti1Image, brain: Brain) -> Problem | None:
    """Return the most likely reason why a mask does not mark the lesions of this scan, or None.

    Args:
        labels: (X, Y, Z), 1 is lesion.
        first: (X, Y, Z), the first channel, in which lesions are bright.
        brain: the first channel over the brain.
    """
    lesion = labels == 1
    if lesion.sum() < _MIN_LESION_VOXELS:
        return None
    ml = int(lesion.sum()) * float(np.prod(spacing_mm(first))) / 1000
    if ml > _MAX_LESION_ML:
        problem = f"its lesions (label 1) take {ml:.0f} ml, as a mask of the brain or of tissue does"
        return Problem("", problem, "Enter the mask of the lesions")
    volume = np.asarray(first.dataobj)
    contrast = brain.contrast(volume[lesion])
    mirrored = [brain.contrast(volume[np.flip(lesion, axis)]) for axis in range(3)]
    best = int(np.argmax(mirrored))
    if mirrored[best] > max(_MIN_CONTRAST, contrast + _MIN_GAIN_OF_MIRRORED):
        world_axis = int(io_orientation(first.affine)[best, 0])
        problem = (
            f"its lesions fit the first channel better if the mask is mirrored {AXES[world_axis]} (they are then "
            f"{mirrored[best]:.1f} instead of {contrast:.1f} standard deviations brighter than the brain)"
        )
        return Problem("", problem, "Check that the mask is not mirrored")
    coarse = lesion[brain.subsample]
    outside = (coarse & ~brain.mask).sum() / max(1, coarse.sum())
    if coarse.sum() >= _MIN_LESION_VOXELS and outside > _MAX_FRACTION_OUTSIDE_BRAIN:
        problem = f"{outside:.0%} of the lesion lies outside the brain"
        return Problem("", problem, "Check that the mask belongs to this scan and is not mirrored")
    if contrast < _MIN_CONTRAST:
        problem = (
            f"its lesions are not brighter than the brain in the first channel ({contrast:.1f} standard deviations, where "
            "lesions have 1 to 3)"
        )
        return Problem("", problem, "Check that the mask belongs to this scan, and that the first channel is a FLAIR")
    return None


def is_exchanged_with_t1(brain: Brain, t1: np.ndarray) -> bool:
    """Return whether a FLAIR and a T1 have each other's contrast.

    White matter, which is deep, is the brightest tissue of a T1. In a FLAIR, grey matter is as bright or brighter.

    Args:
        brain: the first channel over the brain, which should be a FLAIR.
        t1: (X, Y, Z), the channel that should be a T1, on the same grid.
    """
    flair = np.asarray(brain.image.dataobj)
    depth_mm = ndimage.distance_transform_edt(brain.mask, sampling=spacing_mm(brain.image))
    is_tissue = brain.mask.copy()
    for volume in (flair, t1):
        low, high = np.percentile(volume[brain.mask], _TISSUE_PERCENTILES)
        is_tissue &= (low < volume) & (volume <= high)
    tissue = np.flatnonzero(is_tissue)
    if len(tissue) < _MIN_TISSUE_VOXELS:
        return False
    tissue = tissue[:: -(-len(tissue) // _MAX_TISSUE_VOXELS)]
    in_flair, in_t1 = (stats.spearmanr(volume.ravel()[tissue], depth_mm.ravel()[tissue]).statistic for volume in (flair, t1))
    return in_flair > in_t1 + _MIN_EXCHANGED


def ignored_problem(labels: np.ndarray, first: nib.Nifti1Image, brain: Brain) -> Problem | None:
    """Return why label 2, which is left out of training and scores, may be lesion, or None.

    Args:
        labels: (X, Y, Z), 1 is lesion and 2 is left out.
        first: (X, Y, Z), the first channel, in which lesions are bright.
        brain: the first channel over the brain.
    """
    lesion, ignored = labels == 1, labels == 2
    if ignored.sum() < _MIN_LESION_VOXELS:
        return None
    remedy = "Recode it to 1 if it is lesion. Label 2 is left out of training and scores"
    if ignored.sum() > lesion.sum():
        return Problem("", "label 2 takes more voxels than label 1 (lesion)", remedy)
    volume = np.asarray(first.dataobj)
    contrasts = [brain.contrast(volume[part]) for part in (lesion, ignored)]
    if contrasts[1] > max(_MIN_CONTRAST, contrasts[0] / 2):
        problem = f"label 2 is bright as label 1 (lesion) is ({contrasts[1]:.1f} and {contrasts[0]:.1f} standard deviations)"
        return Problem("", problem, remedy)
    return None
