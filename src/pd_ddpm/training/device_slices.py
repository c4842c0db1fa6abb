"""Training slices in the memory of a GPU, from which a whole batch of patches is cut in a few kernels."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from pd_ddpm.runtime.progress import log
from pd_ddpm.training.affine import sampling_matrix, warp_patch
from pd_ddpm.training.patches import (
    Batch,
    PatchSettings,
    TrainingSlices,
    Window,
    scale_to_unit_range,
    to_device,
    window_coordinates,
)

# Ours. Weights, moments and activations need the rest; their size is known only after the first step.
_SHARE_OF_FREE_MEMORY = 0.25


class DeviceSlices:
    """All training slices on one device. Patches equal those of `TrainingSlices.cut` bit for bit.

    Slices of different sizes lie one after another in one tensor. A patch is gathered by the positions of its pixels in it,
    which are sums of one offset per image, channel and axis. The host computes these offsets; the device adds them.

    Args:
        slices: the training slices.
        device: where they are kept.
    """

    def __init__(self, slices: TrainingSlices, device: torch.device):
        self.slices, self.device = slices, device
        self.sizes = [tuple(case.image.shape[2:]) for case in slices.cases]
        self.image_channels = slices.cases[0].image.shape[1]
        self.images, self.image_starts = _concatenate([case.image for case in slices.cases], device)
        masks = [
            fractions if case.presegmentation is None else torch.cat([fractions, case.presegmentation], dim=1)
            for case in slices.cases
            for fractions in case.fractions_of_raters
        ]
        self.mask_channels = masks[0].shape[1]
        self.masks, self.mask_starts = _concatenate(masks, device)
        raters = [len(case.fractions_of_raters) for case in slices.cases]
        self.first_raters = np.cumsum([0, *raters[:-1]])  # by case: position of its first rater in mask_starts

    def cut(self, windows: Sequence[Window], settings: PatchSettings) -> Batch:
        """Return the patches in these windows, on the device.

        Args:
            windows: from `TrainingSlices.sample_windows` with these settings.
            settings: size and augmentation of the patches.
        """
        read_patches = self._gathered if settings.affine is None else self._warped
        image, masks = read_patches(windows, settings.crop)
        if settings.log_gamma:
            image = image ** to_device(np.stack([window.gamma for window in windows]), self.device)
        if settings.intensity_jitter:
            jitter = to_device(np.stack([window.jitter for window in windows], axis=1), self.device)
            image = image * (1 + jitter[0]) + jitter[1]
        if settings.unit_range:
            image = scale_to_unit_range(image.flatten(0, 1)).view_as(image)
        if settings.coordinates:
            image = torch.cat([image, self._coordinates(windows, settings.crop)], dim=1)
        return self.slices.join(image, masks)

    def _gathered(self, windows: Sequence[Window], crop: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return images (B, M, *crop) and masks (B, L, *crop) of windows that are not transformed."""
        places = np.array([self._place(window) for window in windows]).T
        axes = [np.array(offsets) for offsets in zip(*(self._axis_offsets(w, crop) for w in windows), strict=True)]
        numbers = to_device(np.concatenate([places.ravel(), *(axis.ravel() for axis in axes)]), self.device)
        on_device, *flat = numbers.split([places.size, *(axis.size for axis in axes)])
        pixels, image_starts, mask_starts = on_device.view(places.shape)
        position = _outer_sum([part.view(axis.shape) for part, axis in zip(flat, axes, strict=True)])
        image = self.images[_channel_positions(position, image_starts, pixels, self.image_channels)]
        masks = self.masks[_channel_positions(position, mask_starts, pixels, self.mask_channels)]
        if any(window.is_padded(self.sizes[window.case], crop) for window in windows):
            masks = masks * self._inside(windows, crop)
        return image, masks

    def _warped(self, windows: Sequence[Window], crop: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return images (B, M, *crop) and masks (B, L, *crop) of windows of transformed slices."""
        matrices = [sampling_matrix(w.affine, w.positions(crop), self.sizes[w.case]) for w in windows]
        patches = [
            warp_patch(*self._slice(window), matrix, crop)
            for window, matrix in zip(windows, to_device(np.stack(matrices), self.device), strict=True)
        ]
        images, masks = zip(*patches, strict=True)
        return torch.stack(images), torch.stack(masks)

    def _slice(self, window: Window) -> tuple[Tensor, Tensor]:
        """Return the whole slice of a window, (M, *S), and its masks, (L, *S)."""
        pixels, image_start, mask_start = self._place(window)
        image = self.images[image_start : image_start + self.image_channels * pixels]
        masks = self.masks[mask_start : mask_start + self.mask_channels * pixels]
        sizes = self.sizes[window.case]
        return image.view(self.image_channels, *sizes), masks.view(self.mask_channels, *sizes)

    def _place(self, window: Window) -> tuple[int, int, int]:
        """Return the pixels of a channel of the window's slice, and where the slice begins among images and among masks."""
        pixels = math.prod(self.sizes[window.case])
        image_start = self.image_starts[window.case] + window.slice * self.image_channels * pixels
        rater = self.first_raters[window.case] + window.rater
        return pixels, image_start, self.mask_starts[rater] + window.slice * self.mask_channels * pixels

    def _axis_offsets(self, window: Window, crop: Sequence[int]) -> list[np.ndarray]:
        """Return the offset of each pixel of a patch along each axis; beyond a border, that of the border."""
        sizes = self.sizes[window.case]
        strides = [math.prod(sizes[axis + 1 :]) for axis in range(len(sizes))]
        positions = window.positions(crop)
        return [n.clip(0, size - 1) * stride for n, size, stride in zip(positions, sizes, strides, strict=True)]

    def _inside(self, windows: Sequence[Window], crop: Sequence[int]) -> Tensor:
        """Return (B, 1, *crop) bool, which pixels of the patches lie in their slices."""
        inside = torch.ones(len(windows), 1, *crop, dtype=torch.bool, device=self.device)
        sizes = np.array([self.sizes[window.case] for window in windows]).T
        positions = map(np.array, zip(*(window.positions(crop) for window in windows), strict=True))
        for axis, (size, position) in enumerate(zip(sizes, positions, strict=True)):
            is_inside = (position >= 0) & (position < size[:, None])
            inside &= _along_axis(to_device(is_inside, self.device), axis, len(crop))[:, None]
        return inside

    def _coordinates(self, windows: Sequence[Window], crop: Sequence[int]) -> Tensor:
        """Return the coordinate channels (B, len(crop), *crop) of the patches."""
        coordinates = [window_coordinates(window, self.sizes[window.case], crop) for window in windows]
        per_axis = (to_device(torch.stack(axis), self.device) for axis in zip(*coordinates, strict=True))
        axes = [_along_axis(axis, number, len(crop)).expand(-1, *crop) for number, axis in enumerate(per_axis)]
        return torch.stack(axes, dim=1)


def fitting_device_slices(slices: TrainingSlices, device: torch.device, free_bytes: int) -> DeviceSlices | None:
    """Return the slices in the device's memory; None if they would take too much of it. Log which.

    Args:
        slices: the training slices.
        device: where they would be kept.
        free_bytes: free memory of the device.
    """
    size, limit = slices.num_bytes, _SHARE_OF_FREE_MEMORY * free_bytes
    if size > limit:
        log.info(
            "training slices: %.2f GB stay in main memory, since they exceed %.0f %% of the %.2f GB free on %s",
            *(size / 1e9, 100 * _SHARE_OF_FREE_MEMORY, free_bytes / 1e9, device),
        )
        return None
    log.info("training slices: %.2f GB in the memory of %s", size / 1e9, device)
    return DeviceSlices(slices, device)


def _concatenate(stacks: Sequence[Tensor], device: torch.device) -> tuple[Tensor, np.ndarray]:
    """Return the values of all stacks in one dimension on the device, and where each stack begins."""
    starts = np.cumsum([0, *(stack.numel() for stack in stacks)])
    values = torch.empty(int(starts[-1]), device=device)
    for start, stack in zip(starts, stacks, strict=False):
        values[start : start + stack.numel()].copy_(stack.reshape(-1))
    return values, starts[:-1]


def _along_axis(values: Tensor, axis: int, num_axes: int) -> Tensor:
    """Reshape (B, length) to (B, 1, ..., length, ..., 1), with the length along one of `num_axes` axes."""
    return values.view(len(values), *[1] * axis, -1, *[1] * (num_axes - axis - 1))


def _outer_sum(offsets: Sequence[Tensor]) -> Tensor:
    """Return the sums (B, 1, *S) of one offset (B, length) per axis."""
    parts = [_along_axis(part, axis, len(offsets)) for axis, part in enumerate(offsets)]
    return sum(parts[1:], parts[0])[:, None]


def _channel_positions(position: Tensor, starts: Tensor, pixels: Tensor, channels: int) -> Tensor:
    """Return the positions (B, channels, *S) of pixels in all channels of their slices.

    Args:
        position: (B, 1, *S), position of each pixel in a channel.
        starts: (B,), where each slice begins.
        pixels: (B,), pixels of a channel.
        channels: number of channels of a slice.
    """
    channel_starts = starts[:, None] + pixels[:, None] * torch.arange(channels, device=pixels.device)
    return position + channel_starts.view(*channel_starts.shape, *[1] * (position.ndim - 2))
