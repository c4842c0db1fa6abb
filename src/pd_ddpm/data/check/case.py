"""Check the files of one case."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

from pd_ddpm.data.cases.brats import label_recoding
from pd_ddpm.data.cases.table import OBSERVERS
from pd_ddpm.data.check.plausibility import Brain, geometry_problem, ignored_problem, is_exchanged_with_t1, lesion_problem
from pd_ddpm.data.check.registration import better_placement, padded_grid
from pd_ddpm.data.check.report import Finding, Requirements
from pd_ddpm.data.label_maps import CLASSES_COLUMN, parse_classes
from pd_ddpm.data.nifti.geometry import check_same_grid, spacing_mm
from pd_ddpm.data.nifti.read import read_image, read_labels
from pd_ddpm.data.preparation.brain_mask import brain_mask
from pd_ddpm.data.preparation.case import voxel_hash
from pd_ddpm.data.preparation.intensities import regularise, wrapped_fraction
from pd_ddpm.data.preparation.normalise import check_coverage
from pd_ddpm.data.preparation.resample import resample_to
from pd_ddpm.data.preparation.transforms import read_transform
from pd_ddpm.runtime.problem import problems_of

# Brain and coverage are checked on a subsampled grid, with voxels some 3 mm apart, to save time.
_COARSE_MM = 3.0

_PLAUSIBLE_BRAIN_ML = (400, 2500)


@dataclass(frozen=True)
class Examination:
    """The result of checking one case.

    Attributes:
        findings: what is wrong or doubtful.
        row: properties of the scan, or None if its first channel cannot be read.
        files: number of files that were read.
    """

    findings: list[Finding]
    row: dict[str, Any] | None
    files: int


def examine_case(case: Mapping[str, Any], requirements: Requirements) -> Examination:
    """Check the files of one case, a row of the case table."""
    examiner = _Examiner(case, requirements)
    examiner.read()
    row = None if examiner.first is None else examiner.compare()
    return Examination(examiner.findings, row, examiner.files)


class _Examiner:
    """Reads the files of one case and collects findings."""

    def __init__(self, case: Mapping[str, Any], requirements: Requirements):
        self.case, self.requirements = case, requirements
        self.classes = parse_classes(case.get(CLASSES_COLUMN, ""))
        self.findings: list[Finding] = []
        self.images: dict[str, nib.Nifti1Image] = {}
        self.masks: dict[str, tuple[np.ndarray, nib.Nifti1Image]] = {}
        self.unreadable_transforms: set[str] = set()
        self.has_plausible_geometry = True
        self.is_exchanged = False
        self.files = 0

    @property
    def first(self) -> nib.Nifti1Image | None:
        """The channel that defines the grid, or None if it cannot be read."""
        return self.images.get(self.requirements.channels[0])

    def report(self, severity: str, column: str, problem: str, remedy: str) -> None:
        """Add a finding about the file in a column of the case table."""
        self.findings.append(Finding(severity, self.case["case"], str(self.case[column]), problem, remedy))

    def attempt(self, column: str, function: Callable, *arguments: Any) -> Any:
        """Call a function and return its result. An error becomes a finding about the file in this column, and None."""
        try:
            return function(*arguments)
        # Unforeseen errors of damaged files must not hide what is wrong with the other files.
        except Exception as error:
            self.findings += [
                Finding.from_problem("error", problem, self.case["case"], self.case[column]) for problem in problems_of(error)
            ]
        return None

    def read(self) -> None:
        """Read every file and check it on its own."""
        transforms = [f"{channel}_transform" for channel in self.requirements.channels]
        for columns, function, results in (
            (self.requirements.channels, read_image, self.images),
            (("mask", *OBSERVERS), partial(read_labels, recoding=label_recoding(self.case)), self.masks),
            (transforms, read_transform, {}),
        ):
            for column in (column for column in columns if self.case[column]):
                self.files += 1
                result = self.attempt(column, function, self.case[column])
                if result is not None:
                    results[column] = result
                elif function is read_transform:
                    self.unreadable_transforms.add(column)

    def compare(self) -> dict[str, Any]:
        """Compare the files with each other and with the requirements, and return the properties of the scan."""
        first, *others = self.requirements.channels
        for column, (_, image) in list(self.masks.items()):
            names, tolerance = (self.case[first], self.case[column]), self.requirements.grid_tolerance_voxels
            if not self.attempt(column, _is_on_grid, self.first, image, names, tolerance):
                del self.masks[column]
        labels = self.masks["mask"][0] if "mask" in self.masks else None
        brain = None
        if self.requirements.is_head:
            self._check_geometry()
            self._check_intensities()
            brain = self._find_brain()
        if brain is not None:
            self._check_channels(brain)
        if labels is not None and self.classes:
            self._check_classes(labels)
        elif labels is not None:
            self._check_labels(labels, brain)
        shape, spacing, codes = _reoriented_geometry(self.first, self.requirements.orientation)
        self._check_network_input(shape, spacing, codes)
        hashes = {channel: voxel_hash(np.asarray(image.dataobj), image.affine) for channel, image in self.images.items()}
        for channel in others:
            if hashes.get(channel) == hashes[first]:
                self.report("error", channel, f"holds the same voxels as {first}", f"Enter the file of {channel}")
        ml = float(np.prod(spacing)) / 1000
        marked = labels if self.classes else labels == 1 if labels is not None else None
        return {
            "case": self.case["case"],
            "site": self.case["site"],
            "orientation": codes,
            "size": "x".join(map(str, shape)),
            "spacing_mm": "x".join(f"{size:g}" for size in np.round(spacing, 2)),
            "voxels": int(np.prod(shape)),
            **self._mask_volumes(labels, ml),
            "brain_ml": None if brain is None else brain.ml,
            "sha256": hashes[first],
            **{f"sha256 of {channel}": hashes.get(channel) for channel in others},
            "sha256 of mask": voxel_hash(labels, self.first.affine) if marked is not None and marked.any() else None,
        }

    def _mask_volumes(self, labels: np.ndarray | None, ml: float) -> dict[str, Any]:
        """Return the volume of each class, or of lesions and of other pathology, for voxels of this volume; None if unknown."""
        named = {f"{name} in ml": label for label, name in self.classes.items()} or {"lesion_ml": 1, "ignored_ml": 2}
        return {column: None if labels is None else int((labels == label).sum()) * ml for column, label in named.items()}

    def _check_geometry(self) -> None:
        """Check that the channels have the size of a head."""
        for channel in self.requirements.channels:
            if channel in self.images and (problem := geometry_problem(self.images[channel])):
                self.report("warning", channel, problem.problem, problem.remedy)
                # Images that were converted together have the same fault, and no volume or distance means anything.
                self.has_plausible_geometry = False
                return

    def _find_brain(self) -> Brain | None:
        """Return the brain in the first channel, on a subsampled grid, and check its volume."""
        channel = self.requirements.channels[0]
        subsample = _subsample(self.first)
        coarse = self.first.slicer[subsample]
        mask = self.attempt(channel, brain_mask, np.asarray(coarse.dataobj), coarse.affine)
        if mask is None:
            return None
        brain = Brain(coarse, mask, subsample)
        if self.has_plausible_geometry and not _has_plausible_volume(brain):
            self.report(
                "warning",
                channel,
                f"the brain mask, over which intensities are normalised, holds {brain.ml:.0f} ml",
                "Check that this is a whole head, and its voxel size",
            )
        return brain

    def _check_channels(self, brain: Brain) -> None:
        """Check that each channel covers the brain and lies on the first one."""
        grid, inner = padded_grid(brain.image)
        for channel, image in self.images.items():
            transform = f"{channel}_transform"
            if transform in self.unreadable_transforms:
                continue
            if channel == self.requirements.channels[0]:
                self.attempt(channel, check_coverage, self.case, channel, np.asarray(brain.image.dataobj), brain.mask)
                continue
            resampled = self.attempt(channel, resample_to, grid, image, self.case[transform] or None)
            if resampled is None:
                continue
            num_findings = len(self.findings)
            self.attempt(channel, check_coverage, self.case, channel, resampled[inner], brain.mask)
            if len(self.findings) > num_findings or not self.has_plausible_geometry:
                continue
            first = self.requirements.channels[0]
            placement = better_placement(brain, grid.affine, resampled)
            if placement is not None:
                remedy = "Check its header, whether it is mirrored, and whether it needs a transform"
                self.report("warning", channel, f"it fits {first} better if it is {placement.describe()}", remedy)
            # Only in a whole brain is white matter deep.
            elif first.lower() == "flair" and channel.lower().startswith("t1") and _has_plausible_volume(brain):
                self.is_exchanged = is_exchanged_with_t1(brain, resampled[inner])
                if self.is_exchanged:
                    problem = f"{first} and {channel} seem to be exchanged, by the brightness of white matter"
                    self.report("warning", channel, problem, "Exchange the two files")

    def _check_labels(self, labels: np.ndarray, brain: Brain | None) -> None:
        """Check that label 1 marks lesions of this scan, and that label 2 does not."""
        if not (labels == 1).any():
            self.report(
                "warning",
                "mask",
                "no voxel is lesion (label 1)",
                "Check the mask, unless the patient has no lesion. Then HD95 is not defined, and Dice is 1 for a prediction "
                "without lesion, else 0",
            )
        # With another contrast, nothing can be concluded from the brightness of lesions.
        if brain is None or self.is_exchanged or not self.has_plausible_geometry:
            return
        if problem := lesion_problem(labels, self.first, brain):
            self.report("warning", "mask", problem.problem, problem.remedy)
        # The other layouts define by name what label 2 is.
        if self.requirements.source.get("layout") in ("bids", "table") and (
            problem := ignored_problem(labels, self.first, brain)
        ):
            self.report("warning", "mask", problem.problem, problem.remedy)

    def _check_classes(self, labels: np.ndarray) -> None:
        """Mention the classes that this case does not have."""
        if absent := [f"{label} ({name})" for label, name in self.classes.items() if not (labels == label).any()]:
            problem = f"no voxel has label {', '.join(absent)}"
            remedy = "Check the mask, unless the scan does not show that class. Its scores are then undefined or 0"
            self.report("note", "mask", problem, remedy)

    def _check_intensities(self) -> None:
        """Check the first channel for integers that overflowed, and mention outliers of all channels."""
        first = self.requirements.channels[0]
        if fraction := wrapped_fraction(np.asarray(self.first.dataobj)):
            self.report(
                "warning",
                first,
                f"{fraction:.0%} of the head is negative, next to voxels near the maximum, as if integers had overflowed",
                "Export it again as 32-bit real numbers",
            )
        for channel, image in self.images.items():
            volume = np.asarray(image.dataobj)
            regular = self.attempt(channel, regularise, volume[_subsample(image)])
            if regular is None:
                continue
            low, high = regular.limits
            outliers = volume[((volume < low) | (volume > high)) & (volume != regular.background_value)]
            if count := outliers.size:
                farthest = max(outliers.min(), outliers.max(), key=abs)
                self.report(
                    "note",
                    channel,
                    f"{count} voxel(s) lie far beyond all others, up to {farthest:.3g}",
                    f"They are limited to the range from {low:.3g} to {high:.3g}. Look whether they lie in the brain: a "
                    "network may take such a voxel for a lesion",
                )

    def _check_network_input(self, shape: Sequence[int], spacing: Sequence[float], codes: str) -> None:
        """Check that slices are axial, and mention slices that are smaller than training patches."""
        first = self.requirements.channels[0]
        if codes[2] not in "IS":
            self.report(
                "warning",
                first,
                f"its third axis points to {codes[2]}, but the networks see slices across this axis, which should be axial",
                "Set `preparation.orientation`, for instance to LPS",
            )
        pixel, crop = self.requirements.grid_spacing_mm, self.requirements.crop
        size = [n if pixel is None else round(n * mm / pixel) for n, mm in zip(shape[:2], spacing[:2], strict=True)]
        if size[0] < crop[0] or size[1] < crop[1]:
            self.report(
                "note",
                first,
                f"its slices of {size[0]}x{size[1]} pixels are smaller than the networks' crop of {crop[0]}x{crop[1]}",
                "Nothing needs to be done. Patches are padded evenly by repeating the edge",
            )


def _has_plausible_volume(brain: Brain) -> bool:
    low, high = _PLAUSIBLE_BRAIN_ML
    return low <= brain.ml <= high


def _subsample(image: nib.Nifti1Image) -> tuple[slice, ...]:
    """Return the slices that select voxels some 3 mm apart."""
    return tuple(slice(None, None, max(1, int(_COARSE_MM // size))) for size in spacing_mm(image))


def _is_on_grid(first: nib.Nifti1Image, mask: nib.Nifti1Image, names: tuple[str, str], tolerance_voxels: float) -> bool:
    check_same_grid(first, mask, names, tolerance_voxels)
    return True


def _reoriented_geometry(image: nib.Nifti1Image, orientation: str | None) -> tuple[tuple[int, ...], tuple[float, ...], str]:
    """Return shape, spacing in mm and axis codes of a scan after its reorientation."""
    if orientation is None:
        return image.shape, spacing_mm(image), "".join(nib.aff2axcodes(image.affine))
    axes = ornt_transform(io_orientation(image.affine), axcodes2ornt(orientation))[:, 0]
    order = np.argsort(axes)
    return tuple(image.shape[axis] for axis in order), tuple(spacing_mm(image)[axis] for axis in order), orientation
