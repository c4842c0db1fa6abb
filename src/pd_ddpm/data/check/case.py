"""Check the files of one case."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

from pd_ddpm.data.cases.table import OBSERVERS
from pd_ddpm.data.check.report import Finding, Requirements
from pd_ddpm.data.nifti.geometry import check_same_grid, spacing_mm
from pd_ddpm.data.nifti.read import read_image, read_labels
from pd_ddpm.data.preparation.brain_mask import brain_mask
from pd_ddpm.data.preparation.case import voxel_hash
from pd_ddpm.data.preparation.normalise import check_coverage
from pd_ddpm.data.preparation.resample import resample_to
from pd_ddpm.data.preparation.transforms import read_transform

# Brain and coverage are judged on every n-th voxel, some 3 mm apart, which takes a small part of the time.
_COARSE_MM = 3.0

_BRAIN_ML = (400, 2500)

_LARGEST_SHARE_OUTSIDE_BRAIN = 0.5

_FEWEST_LESION_VOXELS = 10


def examine_case(case: Mapping[str, Any], requirements: Requirements) -> tuple[list[Finding], dict[str, Any] | None, int]:
    """Findings of one case (a row of the case table), what its scan is like, and how many files were read.

    The second is None if the first channel cannot be read.
    """
    examination = _Examination(case, requirements)
    examination.read()
    row = None if examination.first is None else examination.compare()
    return examination.findings, row, examination.files


class _Examination:
    """The files of one case and what is found out about them."""

    def __init__(self, case: Mapping[str, Any], requirements: Requirements):
        self.case, self.requirements = case, requirements
        self.findings: list[Finding] = []
        self.images: dict[str, nib.Nifti1Image] = {}
        self.masks: dict[str, tuple[np.ndarray, nib.Nifti1Image]] = {}
        self.wrong_transforms: set[str] = set()
        self.files = 0

    @property
    def first(self) -> nib.Nifti1Image | None:
        """The channel that defines the grid."""
        return self.images.get(self.requirements.channels[0])

    def say(self, severity: str, column: str, text: str) -> None:
        self.findings.append(Finding.of_text(severity, self.case["case"], self.case[column], text))

    def attempt(self, column: str, function: Callable, *arguments: Any) -> Any:
        """What the function returns; an error becomes a finding about the file in this column, and None is returned."""
        try:
            return function(*arguments)
        except (ValueError, OSError, RuntimeError) as error:
            self.say("error", column, str(error))
        # What a damaged file leads to that nobody has foreseen must not hide what is wrong with the others.
        except Exception as error:
            self.say("error", column, f"cannot be read ({type(error).__name__}: {error}); fetch or convert it again.")
        return None

    def read(self) -> None:
        """Every file by itself."""
        transforms = [f"{channel}_transform" for channel in self.requirements.channels]
        for columns, function, kept in (
            (self.requirements.channels, read_image, self.images),
            (("mask", *OBSERVERS), read_labels, self.masks),
            (transforms, read_transform, {}),
        ):
            for column in (column for column in columns if self.case[column]):
                self.files += 1
                read = self.attempt(column, function, self.case[column])
                if read is not None:
                    kept[column] = read
                elif function is read_transform:
                    self.wrong_transforms.add(column)

    def compare(self) -> dict[str, Any]:
        """The files with each other and with what the networks need; what the scan is like."""
        first, *others = self.requirements.channels
        for column, (_, image) in list(self.masks.items()):
            if not self.attempt(column, _on_grid, self.first, image, (self.case[first], self.case[column])):
                del self.masks[column]
        labels = self.masks["mask"][0] if "mask" in self.masks else None
        brain_ml = self._look_at_the_brain(labels)
        shape, spacing, codes = _turned(self.first, self.requirements.orientation)
        self._compare_with_networks(shape, spacing, codes)
        hashes = {channel: voxel_hash(np.asarray(image.dataobj)) for channel, image in self.images.items()}
        for channel in others:
            if hashes.get(channel) == hashes[first]:
                self.say("error", channel, f"holds the same voxels as {first}; enter the file of {channel}.")
        ml = float(np.prod(spacing)) / 1000
        return {
            "case": self.case["case"],
            "site": self.case["site"],
            "orientation": codes,
            "size": "x".join(map(str, shape)),
            "spacing_mm": "x".join(f"{size:g}" for size in np.round(spacing, 2)),
            "voxels": int(np.prod(shape)),
            "lesion_ml": None if labels is None else int((labels == 1).sum()) * ml,
            "ignored_ml": None if labels is None else int((labels == 2).sum()) * ml,
            "brain_ml": brain_ml,
            "sha256": hashes[first],
            **{f"sha256 of {channel}": hashes.get(channel) for channel in others},
            "sha256 of mask": voxel_hash(labels) if labels is not None and (labels == 1).any() else None,
        }

    def _look_at_the_brain(self, labels: np.ndarray | None) -> float | None:
        """Its volume in ml, after looking whether lesions lie in it and all channels cover it."""
        if labels is not None and not (labels == 1).any():
            text = "no voxel is lesion (label 1); right if the patient has none: HD95 is then not defined, and Dice is 1 for "
            self.say("warning", "mask", f"{text}a prediction without lesion, else 0.")
        first = self.requirements.channels[0]
        every = tuple(slice(None, None, max(1, int(_COARSE_MM // size))) for size in spacing_mm(self.first))
        coarse = self.first.slicer[every]
        volume = np.asarray(coarse.dataobj).astype(np.float32)
        brain = self.attempt(first, brain_mask, volume, spacing_mm(coarse))
        if brain is None:
            return None
        brain_ml = int(brain.sum()) * float(np.prod(spacing_mm(coarse))) / 1000
        if not _BRAIN_ML[0] <= brain_ml <= _BRAIN_ML[1]:
            text = f"what is taken for the brain holds {brain_ml:.0f} ml, and intensities are normalised over it"
            self.say("warning", first, f"{text}; look whether this is a whole head, and its voxel size.")
        if labels is not None:
            lesion = labels[every] == 1
            outside = (lesion & ~brain).sum() / max(1, lesion.sum())
            if lesion.sum() >= _FEWEST_LESION_VOXELS and outside > _LARGEST_SHARE_OUTSIDE_BRAIN:
                text = f"{outside:.0%} of the lesion lies outside the brain"
                self.say("warning", "mask", f"{text}; look whether the mask is of this scan and not mirrored.")
        for channel, image in self.images.items():
            transform = f"{channel}_transform"
            if transform not in self.wrong_transforms:
                # On the grid already the image is returned as it is, so that this serves the first channel too.
                image = coarse if channel == first else image
                resampled = self.attempt(channel, resample_to, coarse, image, self.case[transform] or None)
                if resampled is not None:
                    self.attempt(channel, check_coverage, self.case, channel, resampled, brain)
        return brain_ml

    def _compare_with_networks(self, shape: Sequence[int], spacing: Sequence[float], codes: str) -> None:
        first = self.requirements.channels[0]
        if codes[2] not in "IS":
            text = f"its third axis points to {codes[2]}, but the networks see slices across this axis, which should be axial"
            self.say("warning", first, f"{text}; set preparation.orientation, to LPS for instance.")
        pixel, crop = self.requirements.grid_spacing_mm, self.requirements.crop
        size = [n if pixel is None else round(n * mm / pixel) for n, mm in zip(shape[:2], spacing[:2], strict=True)]
        if size[0] < crop[0] or size[1] < crop[1]:
            text = f"its slices of {size[0]}x{size[1]} pixels are smaller than the networks' crop of {crop[0]}x{crop[1]}"
            self.say("note", first, f"{text}; nothing is to be done, patches are widened evenly by repeating the edge.")


def _on_grid(flair: nib.Nifti1Image, mask: nib.Nifti1Image, names: tuple[str, str]) -> bool:
    check_same_grid(flair, mask, names)
    return True


def _turned(image: nib.Nifti1Image, orientation: str | None) -> tuple[tuple[int, ...], tuple[float, ...], str]:
    """Shape, spacing in mm and axis codes of a scan after it has been turned to the orientation."""
    if orientation is None:
        return image.shape, spacing_mm(image), "".join(nib.aff2axcodes(image.affine))
    axes = ornt_transform(io_orientation(image.affine), axcodes2ornt(orientation))[:, 0]
    order = np.argsort(axes)
    return tuple(image.shape[axis] for axis in order), tuple(spacing_mm(image)[axis] for axis in order), orientation
