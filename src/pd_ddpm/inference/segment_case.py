"""Segment one case: pass its slices through a segmenter and return all members on the scan's own grid."""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pd_ddpm.data.scan import Scan
from pd_ddpm.data.working_grid import GridSettings, WorkingGrid, pad_to_multiple
from pd_ddpm.diffusion.mask_coding import harden
from pd_ddpm.diffusion.mask_coding import with_background as complete
from pd_ddpm.diffusion.noise import MethodNoise
from pd_ddpm.inference.batch_size import probe_batch_size
from pd_ddpm.inference.class_ensemble import with_background
from pd_ddpm.inference.compiled_network import compiled_batch
from pd_ddpm.inference.ensemble import threshold
from pd_ddpm.inference.segmenters import Segmenter
from pd_ddpm.models.coordinates import add_coordinates
from pd_ddpm.runtime.files import atomic_write
from pd_ddpm.runtime.progress import log, progress


class CaseSamples(NamedTuple):
    """The sampled members of a case on the scan's grid, and the seconds spent in the network.

    Members are (X, Y, Z, N) in [0, 1], or (X, Y, Z, N, C) for C classes with background first.
    """

    samples: np.ndarray
    seconds: float


@dataclass
class PartialSamples:
    """A file with the members that are already sampled, so that a killed process can resume within a case.

    Attributes:
        path: the file.
        fingerprint: hash of everything that the members depend on. A file with another fingerprint, or a damaged one, is
            ignored.
        save_every_seconds: shortest interval between two saves.
        saved: time of the last save, in seconds of `time.monotonic`.
    """

    path: Path
    fingerprint: str
    save_every_seconds: float = 20.0
    saved: float = field(default_factory=time.monotonic)

    def load(self, results: Tensor) -> int:
        """Copy the members that an earlier process sampled into `results`, and return their number over all slices."""
        try:
            with np.load(self.path) as stored:
                if str(stored["stamp"]) != self.fingerprint or stored["results"].shape != tuple(results.shape):
                    return 0
                results.copy_(torch.from_numpy(stored["results"]))
                return int(stored["done"])
        except FileNotFoundError:
            return 0
        except Exception as error:  # a damaged file raises many types of errors
            log.warning("%s: cannot be read (%s). Its members are sampled again.", self.path, error)
            return 0

    def save(self, results: Tensor, done: int) -> None:
        """Save the first `done` members, unless the last save is more recent than `save_every_seconds`."""
        if time.monotonic() - self.saved < self.save_every_seconds:
            return
        with atomic_write(self.path) as temporary, temporary.open("wb") as file:
            np.savez(file, stamp=self.fingerprint, results=results.numpy(), done=done)
        self.saved = time.monotonic()


@torch.inference_mode()
def segment_case(
    segmenter: Segmenter,
    scan: Scan,
    grid_settings: GridSettings,
    *,
    noise: MethodNoise,
    batch: int | Literal["auto"],
    device: torch.device,
    presegmentation: np.ndarray | None = None,
    partial: PartialSamples | None = None,
) -> CaseSamples:
    """Sample the probabilities of all members of a segmenter.

    Every member has its own random stream, see `diffusion/noise.py`. Batch size and order of computation therefore do not
    change the result.

    Args:
        segmenter: the segmenter, with N members.
        scan: the scan. Slices without brain are not segmented and stay zero. In three dimensions the whole volume is one image,
            which the network segments in one pass, padded to a multiple of the segmenter's divisor.
        grid_settings: the grid on which the network sees the images, and whether members are made binary on it. If they are,
            a pre-segmentation is binary on the grid, too; otherwise it has partial volumes there.
        noise: noise of the method.
        batch: images per evaluation of the network; "auto" takes as many as fit into the free memory.
        device: device of the network.
        presegmentation: (X, Y, Z, N) in [0, 1], one mask per member, or (X, Y, Z, 1) for all members; for classes with a
            last axis C, see `CaseSamples`.
        partial: file for resuming within the case; with it, progress is logged.

    Returns:
        The members, float32, and the seconds spent in the network.
    """
    grid, has_brain = grid_settings.working_grid(scan.brain, scan.spacing_mm)
    slices = np.flatnonzero(has_brain)
    num_members, num_channels = segmenter.num_members, segmenter.mask_channels
    images = grid.slices(scan.image)[slices]
    images = pad_to_multiple(add_coordinates(images) if segmenter.coordinates else images, segmenter.divisor)
    is_binary = grid_settings.has_binary_members(grid)
    starts = None
    if presegmentation is not None:
        starts = pad_to_multiple(_starts(presegmentation, grid_settings, grid, num_channels)[slices], segmenter.divisor)
        starts = starts.unflatten(1, (-1, num_channels)).expand(-1, num_members, -1, *images.shape[2:])
    results = torch.zeros((len(has_brain), num_members, num_channels, *grid.size))
    started = time.perf_counter()
    pairs = [(row, member) for row in range(len(slices)) for member in range(num_members)]
    done = partial.load(results) if partial else 0
    if batch == "auto":
        batch = compiled_batch(segmenter, images.shape[2:])
        batch = batch or (probe_batch_size(segmenter, images.shape[1:], device) if len(images) else 1)
    offsets = range(done, len(pairs), batch)
    for offset in progress(offsets, f"{scan.case}, {partial.path.stem}", len(offsets)) if partial else offsets:
        rows = torch.tensor([row for row, _ in pairs[offset : offset + batch]])
        members = torch.tensor([member for _, member in pairs[offset : offset + batch]])
        numbers = [(int(slices[row]), member) for row, member in pairs[offset : offset + batch]]
        presegmentations = None if starts is None else starts[rows, members]
        samples = segmenter(images[rows].to(device), presegmentations, noise.for_members(scan.case, numbers))
        results[slices[rows], members] = samples[:, :, *map(slice, grid.size)].cpu()
        if partial:
            partial.save(results, offset + len(rows))
    seconds = time.perf_counter() - started
    if is_binary and num_channels == 1:
        results = torch.from_numpy(threshold(results.numpy()).astype(np.float32))
    elif is_binary:
        results = harden(results.flatten(0, 1)).unflatten(0, results.shape[:2])
    members = grid.volume(results.flatten(1, 2))
    if num_channels > 1:
        members = with_background(members.reshape(*scan.brain.shape, num_members, num_channels))
    return CaseSamples(members, seconds)


def _starts(presegmentation: np.ndarray, grid_settings: GridSettings, grid: WorkingGrid, num_channels: int) -> Tensor:
    """Return the masks that chains start from on the working grid, the channels of a member next to each other.

    Args:
        presegmentation: see `segment_case`.
        grid_settings: whether masks are made binary on the grid, and were sampled on it.
        grid: the working grid of the case.
        num_channels: channels C of a mask.
    """
    masks = presegmentation.reshape(*presegmentation.shape[:3], -1)
    if num_channels == 1:
        return grid_settings.starts(masks, grid)
    is_binary = grid_settings.has_binary_members(grid)
    starts = grid.nearest(masks) if is_binary and grid_settings.start_from_same_grid else grid.masks(masks)
    # Where the grid is padded, no class has a probability.
    members = starts.unflatten(1, (-1, num_channels))
    completed = complete(members.flatten(0, 1)[:, 1:])
    return (harden(completed) if is_binary else completed).unflatten(0, members.shape[:2]).flatten(1, 2)
