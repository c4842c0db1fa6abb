"""Slices or volumes of prepared cases in memory, and random patches of them.

A case is a stack of images: its slices, or in three dimensions its volume as the only one.

Every random number comes from the generator of its training step. A batch therefore depends neither on earlier batches nor
on interruptions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pd_ddpm.data.prepared import read_ground_truth, read_observer_masks, read_scan
from pd_ddpm.data.working_grid import GridSettings
from pd_ddpm.diffusion.mask_coding import harden, with_background
from pd_ddpm.models.coordinates import axis_coordinates, coordinate_channels
from pd_ddpm.training.affine import AffineSettings, sample_affine, sampling_matrix, warp_patch

Raters = Literal["first", "random"]
CropPosition = Literal["uniform", "centre_weighted"]


class Batch(NamedTuple):
    """Patches of one training step, or slices of one validation case.

    Attributes:
        image: (B, M, *S), z-scored, followed by coordinate channels if the network has them.
        mask: (B, C, *S), fraction of lesion (C = 1), or of each class with background first, in [0, 1].
        loss_mask: (B, 1, *S), 1, or 0 if the label is to be ignored.
        presegmentation: (B, C, *S) in [0, 1], if there is one, as a denoiser may need it.
    """

    image: Tensor
    mask: Tensor
    loss_mask: Tensor
    presegmentation: Tensor | None = None

    @property
    def known_mask(self) -> Tensor:
        """The mask with background in place of ignored pixels. With classes they are background already."""
        return self.mask * self.loss_mask if self.mask.shape[1] == 1 else self.mask

    def to(self, device: torch.device) -> "Batch":
        """Return the batch on the device."""
        return Batch(*(part if part is None else to_device(part, device) for part in self))


class CaseSlices(NamedTuple):
    """The slices of one case on its working grid, or its volume as a stack of one image, float32.

    Attributes:
        case: name of the case.
        image: (Z, M, H, W) or (1, M, H, W, D), z-scored.
        label_fractions: (Z, L, H, W) or (1, L, H, W, D), fraction of each pixel that is lesion and that is other pathology
            (L = 2), or of each class without background and of what is ignored.
        slice_numbers: position of each slice in the scan, counted from 0; 0 for a volume.
        further_fractions: label fractions of the second and further raters, if they are used.
        presegmentation: (Z, C, H, W) in [0, 1], a mask of a network or program that has not seen the case, if it is used.
        has_classes: whether masks have a channel for each class of the dataset.
        pixel_mm: size of a pixel along each axis, in mm.
    """

    case: str
    image: Tensor
    label_fractions: Tensor
    slice_numbers: Sequence[int]
    further_fractions: tuple[Tensor, ...] = ()
    presegmentation: Tensor | None = None
    has_classes: bool = False
    pixel_mm: tuple[float, ...] = (1.0, 1.0, 1.0)

    @property
    def fractions_of_raters(self) -> tuple[Tensor, ...]:
        """Label fractions of every rater, the ground truth first."""
        return (self.label_fractions, *self.further_fractions)


def read_slices(
    folder: Path, case: str, grid_settings: GridSettings, raters: Raters = "first", labels: Sequence[int] = ()
) -> CaseSlices:
    """Read the slices with brain, or the volume, of a prepared case, with its ground truth, on its working grid.

    Args:
        folder: folder of the prepared cases.
        case: name of the case.
        grid_settings: spacing (mm), region and dimensions of the working grid, and how much brain a slice must hold.
        raters: "first": the ground truth only; "random": also the masks of further raters, if there are any.
        labels: labels of the dataset's classes; without them, masks hold lesions and other pathology.

    Raises:
        ValueError: if no slice holds enough brain.
    """
    scan, truth = read_scan(folder, case), read_ground_truth(folder, case, labels)
    grid, with_brain = grid_settings.working_grid(scan.brain, scan.spacing_mm)
    if not with_brain.any():
        raise ValueError(
            f"{folder / case}_brain.nii.gz: no slice holds as much brain as `grid.minimum_brain_cm2` "
            f"({grid_settings.minimum_brain_cm2}). Reduce that key, or check the brain mask."
        )
    slice_numbers = np.flatnonzero(with_brain).tolist()
    further = read_observer_masks(folder, case, labels) if raters == "random" else []
    fractions, *further_fractions = (grid.label_fractions(rater, labels)[with_brain] for rater in (truth, *further))
    image = grid.slices(scan.image)[with_brain]
    pixel_mm = tuple(grid_settings.spacing_mm or length for length in scan.spacing_mm)
    further = tuple(further_fractions)
    return CaseSlices(case, image, fractions, slice_numbers, further, has_classes=bool(labels), pixel_mm=pixel_mm)


def with_presegmentation(slices: CaseSlices, folder: Path, grid_settings: GridSettings, mask: np.ndarray) -> CaseSlices:
    """Return the slices of a case with the mask of another program, thresholded at 0.5 on the scan's and the working grid.

    Args:
        slices: the slices, from `read_slices` with this folder and these settings.
        folder: folder of the prepared cases.
        grid_settings: settings of the working grid.
        mask: (X, Y, Z) in [0, 1] on the scan's grid, or (X, Y, Z, C) of classes with background first.
    """
    scan = read_scan(folder, slices.case)
    grid, with_brain = grid_settings.working_grid(scan.brain, scan.spacing_mm)
    if slices.has_classes:
        return slices._replace(presegmentation=harden(with_background(grid.masks(mask[..., 1:])[with_brain])))
    return slices._replace(presegmentation=(grid.masks(mask >= 0.5)[with_brain] >= 0.5).float())


def as_batch(image: Tensor, label_fractions: Tensor, has_classes: bool = False) -> Batch:
    """Return a batch in which label 2 is neither lesion nor background, and is left out of losses; or one of classes.

    Args:
        image: (B, M, *S), z-scored.
        label_fractions: (B, 2, *S), fractions of lesion and of other pathology; or (B, C, *S), of each class without
            background, which is what remains, and of what is left out.
        has_classes: whether they are those of classes.

    Reference: WMH challenge, label "other pathology".
    """
    if has_classes:
        return Batch(image, with_background(label_fractions[:, :-1]), (label_fractions[:, -1:] < 0.5).float())
    return Batch(image, label_fractions[:, :1], (label_fractions[:, 1:] < 0.5).float())


def to_device(values: Tensor | np.ndarray, device: torch.device) -> Tensor:
    """Return a tensor of these values on the device.

    A copy from pageable memory to a GPU waits until the GPU has finished all its work. One from pinned memory joins its queue.
    """
    values = torch.as_tensor(values)
    if device.type == "cuda" and values.device.type == "cpu":
        return values.pin_memory().to(device, non_blocking=True)
    return values.to(device)


@dataclass(frozen=True)
class PatchSettings:
    """How training patches are sampled.

    Attributes:
        crop: (height, width), or (height, width, depth) of patches of volumes, in pixels.
        lesion_share: fraction of patches from slices with lesion; the others come from all slices. None: all from all slices.
            In three dimensions, volumes take the place of slices.
        flip: axes (0 = X, 1 = Y, 2 = Z) that are mirrored with probability 0.5.
        intensity_jitter: standard deviation of a random gain and offset for each channel of the scan.
        crop_position: how often a patch comes from where in a slice, see `sample_first`.
        coordinates: whether patches have coordinate channels: their position in the slice.
        affine: largest affine transformations of the slice; None: no transformation.
        log_gamma: largest absolute logarithm of the power that intensities are raised to, with probability 0.5.
        unit_range: whether each channel of the scan is scaled to 0 to 1 in each patch, after all else.
    """

    crop: tuple[int, ...]
    lesion_share: float | None
    flip: tuple[int, ...]
    intensity_jitter: float
    crop_position: CropPosition = "uniform"
    coordinates: bool = False
    affine: AffineSettings | None = None
    log_gamma: float = 0.0
    unit_range: bool = False


class Window(NamedTuple):
    """Where a training patch comes from, and its augmentation.

    Attributes:
        case: position of its case among the training cases.
        slice: position of its slice in the case.
        rater: whose mask it has, counted from 0.
        firsts: its first pixel along each axis, see `sample_first`.
        mirrored: axes along which it is mirrored (0 = X, 1 = Y, 2 = Z).
        jitter: gain - 1 and offset of each image channel, (2, M, 1, ...) float32; None: there is no jitter.
        affine: map from pixels of the transformed slice to positions in the slice, (D, D + 1); None: it is not transformed.
        gamma: power that intensities are raised to, (1, 1, ...) float32; None: they are not.
    """

    case: int
    slice: int
    rater: int
    firsts: tuple[int, ...]
    mirrored: tuple[int, ...] = ()
    jitter: np.ndarray | None = None
    affine: np.ndarray | None = None
    gamma: np.ndarray | None = None

    def is_padded(self, sizes: Sequence[int], crop: Sequence[int]) -> bool:
        """Return whether a patch of this crop exceeds its slice, which has these sizes in pixels."""
        return any(first < 0 or first + length > size for first, size, length in zip(self.firsts, sizes, crop, strict=True))

    def positions(self, crop: Sequence[int]) -> list[np.ndarray]:
        """Return the pixels of the slice that a patch of this crop takes along each axis; some may lie beyond the slice."""
        pairs = enumerate(zip(self.firsts, crop, strict=True))
        ranges = ((axis, np.arange(first, first + length)) for axis, (first, length) in pairs)
        return [pixels[::-1] if axis in self.mirrored else pixels for axis, pixels in ranges]


class TrainingSlices:
    """All slices with brain of the training cases, kept in memory.

    Where a case has further raters, each patch takes the mask of a random one. A slice has lesion if any rater marks some.

    Raises:
        ValueError: if no case has a lesion.
    """

    def __init__(self, cases: Sequence[CaseSlices]):
        self.cases = list(cases)
        self.all_slices = [(c, z) for c, case in enumerate(cases) for z in range(len(case.image))]
        self.lesion_slices = [
            (c, z) for c, z in self.all_slices if any(rater[z, :-1].any() for rater in cases[c].fractions_of_raters)
        ]
        if not self.lesion_slices:
            raise ValueError(
                f"splits.csv: none of the training cases ({', '.join(case.case for case in cases)}) has a pixel of "
                f"{'any class' if cases[0].has_classes else 'label 1'}. Check the masks and the roles."
            )

    @property
    def num_bytes(self) -> int:
        """Bytes of all images and masks."""
        tensors = [(case.image, *case.fractions_of_raters) for case in self.cases]
        tensors += [(case.presegmentation,) * len(case.fractions_of_raters) for case in self.cases]
        return sum(tensor.nbytes for group in tensors for tensor in group if tensor is not None)

    def sample_sources(self, rng: np.random.Generator, size: int, settings: PatchSettings) -> list[tuple[int, int]]:
        """Return the (case, slice) that each patch of a batch comes from.

        Args:
            rng: generator of the step. A batch takes its sources first, so that they can be found again from the step alone.
            size: patches per batch.
            settings: fraction of patches with lesion.
        """
        from_lesion = rng.random(size) < (settings.lesion_share or 0.0)
        pools = [self.lesion_slices if lesion else self.all_slices for lesion in from_lesion]
        return [pool[rng.integers(len(pool))] for pool in pools]

    def sample_batch(self, rng: np.random.Generator, size: int, settings: PatchSettings) -> Batch:
        """Return a batch of random patches.

        Args:
            rng: generator of the step, the only source of randomness.
            size: patches per batch.
            settings: size and augmentation of the patches.
        """
        return self.cut(self.sample_windows(rng, size, settings), settings)

    def sample_windows(self, rng: np.random.Generator, size: int, settings: PatchSettings) -> list[Window]:
        """Return the windows of a batch of random patches.

        Args:
            rng: generator of the step, the only source of randomness.
            size: patches per batch.
            settings: size and augmentation of the patches.
        """
        return [self._sample_window(rng, c, z, settings) for c, z in self.sample_sources(rng, size, settings)]

    def cut(self, windows: Sequence[Window], settings: PatchSettings) -> Batch:
        """Return the patches in these windows.

        Args:
            windows: from `sample_windows` with these settings.
            settings: size and augmentation of the patches.
        """
        patches = [self._cut_patch(window, settings) for window in windows]
        images, masks = map(torch.stack, zip(*patches, strict=True))
        return self.join(images, masks)

    def join(self, image: Tensor, masks: Tensor) -> Batch:
        """Return a batch of patches.

        Args:
            image: (B, M, *S), z-scored.
            masks: (B, L, *S), the label fractions, or (B, L + C, *S), in addition the pre-segmentation.
        """
        has_classes, num_labels = self.cases[0].has_classes, self.cases[0].label_fractions.shape[1]
        batch, presegmentation = as_batch(image, masks[:, :num_labels], has_classes), masks[:, num_labels:]
        if not presegmentation.shape[1]:
            return batch
        # Where a patch is padded, it has no class, and is background.
        return batch._replace(presegmentation=with_background(presegmentation[:, 1:]) if has_classes else presegmentation)

    def _sample_window(self, rng: np.random.Generator, c: int, z: int, settings: PatchSettings) -> Window:
        """Return a random window of a slice, with its augmentation."""
        raters, sizes = len(self.cases[c].fractions_of_raters), self.cases[c].image.shape[2:]
        rater = int(rng.integers(raters)) if raters > 1 else 0
        pairs = zip(sizes, settings.crop, strict=True)
        firsts = tuple(sample_first(rng, size, length, settings.crop_position) for size, length in pairs)
        mirrored = tuple(axis for axis in settings.flip if rng.random() < 0.5)
        jitter, affine, gamma = None, None, None
        if settings.intensity_jitter:
            shape = (2, self.cases[c].image.shape[1], *[1] * len(sizes))
            jitter = rng.normal(0, settings.intensity_jitter, shape).astype(np.float32)
        if settings.affine is not None:
            affine = sample_affine(rng, settings.affine, sizes, self.cases[c].pixel_mm[: len(sizes)])
        if settings.log_gamma:
            exponent = rng.uniform(-settings.log_gamma, settings.log_gamma) * (rng.random() < 0.5)
            gamma = np.full([1] * (1 + len(sizes)), np.exp(exponent), dtype=np.float32)
        return Window(c, z, rater, firsts, mirrored, jitter, affine, gamma)

    def _cut_patch(self, window: Window, settings: PatchSettings) -> tuple[Tensor, Tensor]:
        """Return image and masks of a patch; the masks are both label fractions and, if there is one, the pre-segmentation."""
        case = self.cases[window.case]
        image, masks = case.image[window.slice], case.fractions_of_raters[window.rater][window.slice]
        if case.presegmentation is not None:
            masks = torch.cat([masks, case.presegmentation[window.slice]])
        sizes = image.shape[1:]
        if window.affine is not None:
            matrix = sampling_matrix(window.affine, window.positions(settings.crop), sizes)
            image, masks = warp_patch(image, masks, torch.from_numpy(matrix), settings.crop)
        else:
            image, masks = _cut_window(image, masks, window, settings.crop)
        if window.gamma is not None:
            image = image ** torch.from_numpy(window.gamma)
        if window.jitter is not None:
            gain, offset = torch.from_numpy(window.jitter)
            image = image * (1 + gain) + offset
        if settings.unit_range:
            image = scale_to_unit_range(image)
        if settings.coordinates:
            image = torch.cat([image, coordinate_channels(window_coordinates(window, sizes, settings.crop))])
        return image, masks


def sample_first(rng: np.random.Generator, size: int, length: int, position: CropPosition) -> int:
    """Return the first pixel of a patch along one axis; negative if a shorter slice is padded evenly on both sides.

    "uniform" takes all windows equally often. Pixels near the border are then in few of them. "centre_weighted" adds two
    uniform numbers, one up to a quarter of the largest first pixel and one up to the other three quarters. Their
    distribution is a trapezium, which takes windows in the middle more often and the outermost ones hardly ever.

    Args:
        rng: generator of the step.
        size: pixels of the slice.
        length: pixels of the patch.
        position: one of the two.

    Reference: the released code of Bieder et al. 2023 (PatchDDM): U{0..32} + U{0..96} for patches of 128 in 256 voxels.
    """
    spare = size - length
    if spare < 0:
        return -(-spare // 2)
    if position == "uniform":
        return int(rng.integers(spare + 1))
    quarter = spare // 4
    return int(rng.integers(quarter + 1) + rng.integers(spare - quarter + 1))


def window_coordinates(window: Window, sizes: Sequence[int], crop: Sequence[int]) -> list[Tensor]:
    """Return the coordinates of a patch along each axis; those of the outermost pixel where it is padded.

    A mirrored patch is a patch of the mirrored slice, whose coordinates rise as in any other.

    Args:
        window: the window of the patch.
        sizes: sizes of its slice in pixels.
        crop: sizes of the patch in pixels.
    """
    coordinates = []
    for axis, (size, first, length) in enumerate(zip(sizes, window.firsts, crop, strict=True)):
        begin = size - first - length if axis in window.mirrored else first
        coordinates.append(axis_coordinates(size)[torch.arange(begin, begin + length).clamp(0, size - 1)])
    return coordinates


def scale_to_unit_range(image: Tensor) -> Tensor:
    """Return an image (M, *S) with the least value of each channel at 0 and the largest at 1; a constant channel is 0."""
    axes = tuple(range(1, image.ndim))
    least, most = image.amin(axes, keepdim=True), image.amax(axes, keepdim=True)
    width = most - least
    return (image - least) / torch.where(width > 0, width, torch.ones_like(width))


def _cut_window(image: Tensor, masks: Tensor, window: Window, crop: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return the pixels of a window of a slice (M, *S) and of its masks (L, *S), mirrored as the window is."""
    for axis, (first, length) in enumerate(zip(window.firsts, crop, strict=True), start=1):
        image, masks = _crop_or_pad(image, masks, axis, first, length)
    if window.mirrored:
        axes = [axis + 1 for axis in window.mirrored]
        image, masks = image.flip(axes), masks.flip(axes)
    return image, masks


def _crop_or_pad(image: Tensor, masks: Tensor, axis: int, first: int, length: int) -> tuple[Tensor, Tensor]:
    """Take the window from `first` along the axis; pad the image by repeating its edge, the masks by zeros."""
    if first >= 0 and first + length <= image.shape[axis]:
        return image.narrow(axis, first, length), masks.narrow(axis, first, length)
    source = torch.arange(first, first + length)
    inside = (source >= 0) & (source < image.shape[axis])
    image = image.index_select(axis, source.clamp(0, image.shape[axis] - 1))
    padded = torch.zeros((*masks.shape[:axis], length, *masks.shape[axis + 1 :]), dtype=masks.dtype)
    return image, padded.index_copy_(axis, inside.nonzero().squeeze(1), masks)
