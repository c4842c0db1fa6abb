"""Another grid than the scan's own: margins cut off, voxels of a given size, a fixed number of voxels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import nibabel as nib
import numpy as np
import SimpleITK as sitk

from pd_ddpm.data.nifti.geometry import reorient, spacing_mm
from pd_ddpm.data.preparation.resample import as_sitk
from pd_ddpm.data.scan import Scan

CropAround = Literal["centre", "label"]


@dataclass(frozen=True)
class Frame:
    """The grid on which cases are prepared. Axes are those of `orientation`, or else those in which the scan is stored.

    Attributes:
        margins_voxels: voxels of the scan that are cut off at the beginning and the end of each axis; None cuts off none.
        spacing_mm: voxel size along each axis; None keeps the scan's own.
        size: number of voxels along each axis, to which scans are padded with 0 evenly, or cropped; None keeps it.
        crop_around: middle of the cropped scan: "centre" of the scan, or of the box of the "label" map's foreground.
        orientation: axis codes, such as "LPS"; None keeps the scan's own.
    """

    margins_voxels: Sequence[Sequence[int]] | None = None
    spacing_mm: Sequence[float] | None = None
    size: Sequence[int] | None = None
    crop_around: CropAround = "centre"
    orientation: str | None = None

    @property
    def is_own_grid(self) -> bool:
        """Whether scans keep their own grid."""
        return self.margins_voxels is None and self.spacing_mm is None and self.size is None

    def regrid(self, image: nib.Nifti1Image, is_label: bool = False) -> nib.Nifti1Image:
        """Return an image without its margins and with voxels of this size: interpolated linearly, or labels of the nearest.

        Args:
            image: (X, Y, Z), the scan's first channel or a label map on its grid.
            is_label: whether it is a label map.
        """
        if self.orientation is not None and not self.is_own_grid:
            image = reorient(np.asarray(image.dataobj), image, self.orientation)
        if self.margins_voxels is not None:
            margins = zip(self.margins_voxels, image.shape, strict=True)
            image = image.slicer[tuple(slice(low, n - high) for (low, high), n in margins)]
        return image if self.spacing_mm is None else _resampled(image, self.spacing_mm, is_label)

    def fit(self, scan: Scan, labels: Sequence[np.ndarray] = ()) -> tuple[Scan, list[np.ndarray]]:
        """Return a scan and its label maps, padded or cropped to this size.

        Args:
            scan: the scan, after `regrid`.
            labels: label maps (X, Y, Z) on its grid. With `crop_around` "label", the first one says where to crop.
        """
        if self.size is None:
            return scan, list(labels)
        boxes = _boxes(labels[0]) if self.crop_around == "label" and labels else [None] * 3
        starts = [_start(*axis) for axis in zip(scan.reference.shape, self.size, boxes, strict=True)]
        affine = scan.reference.affine.copy()
        affine[:3, 3] += affine[:3, :3] @ starts
        reference = nib.Nifti1Image(_cut(np.asarray(scan.reference.dataobj), starts, self.size), affine)
        for set_form, code in ((reference.set_qform, "qform_code"), (reference.set_sform, "sform_code")):
            set_form(affine, int(scan.reference.header[code]))
        fitted = replace(
            scan,
            image=_cut(scan.image, starts, self.size),
            brain=_cut(scan.brain, starts, self.size),
            reference=reference,
        )
        return fitted, [_cut(label, starts, self.size) for label in labels]


OWN_GRID = Frame()


def _resampled(image: nib.Nifti1Image, spacing: Sequence[float], is_label: bool) -> nib.Nifti1Image:
    """Resample an image to voxels of another size that cover the same box, up to a fraction of a voxel."""
    own = np.array(spacing_mm(image))
    target = np.array(spacing, dtype=float)
    shape = np.maximum(np.round(np.array(image.shape) * own / target), 1).astype(int)
    affine = image.affine.copy()
    affine[:3, :3] = image.affine[:3, :3] / own * target
    # The first voxels share their outer faces, not their centres.
    affine[:3, 3] += image.affine[:3, :3] @ (0.5 * (target / own - 1))
    data = np.asarray(image.dataobj)
    reference = as_sitk(np.zeros(shape, np.uint8), affine)
    moving = as_sitk(data.astype(np.uint8 if is_label else np.float32), image.affine)
    # Beyond the outermost centres of voxels, ITK repeats the edge up to the faces.
    interpolator = sitk.sitkNearestNeighbor if is_label else sitk.sitkLinear
    resampled = sitk.Resample(moving, reference, sitk.Transform(3, sitk.sitkIdentity), interpolator, 0.0)
    result = nib.Nifti1Image(np.ascontiguousarray(sitk.GetArrayViewFromImage(resampled).T), affine)
    result.header.set_xyzt_units("mm")
    result.set_qform(affine, int(image.header["qform_code"]))
    result.set_sform(affine, int(image.header["sform_code"]))
    return result


def _boxes(labels: np.ndarray) -> list[tuple[int, int] | None]:
    """Return first and last index of the foreground along each axis; None if there is no foreground."""
    return [(int(index.min()), int(index.max())) if index.size else None for index in np.nonzero(labels)]


def _start(length: int, size: int, box: tuple[int, int] | None) -> int:
    """Return the first index of the fitted axis in the original one, negative if it is padded."""
    if size >= length:
        return -((size - length) // 2)
    if box is None:
        return (length - size) // 2
    start = int(np.ceil((box[0] + box[1]) / 2 - size / 2))
    return min(max(start, 0), length - size)


def _cut(array: np.ndarray, starts: Sequence[int], size: Sequence[int]) -> np.ndarray:
    """Return the voxels from `starts` on in this size, with zeros outside of the array; further axes stay whole."""
    result = np.zeros((*size, *array.shape[3:]), array.dtype)
    source, target = [], []
    for start, n, length in zip(starts, size, array.shape, strict=False):
        first, last = max(start, 0), min(start + n, length)
        source.append(slice(first, last))
        target.append(slice(first - start, last - start))
    result[tuple(target)] = array[tuple(source)]
    return result
