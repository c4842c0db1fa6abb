"""Every slice of a case through a segmenter, all members side by side, and back onto the scan's own grid."""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pd_ddpm.data.working_grid import GridSettings, pad_to_multiple
from pd_ddpm.diffusion.noise import MemberNoise
from pd_ddpm.inference.batch_size import find_batch_size
from pd_ddpm.inference.segmenters import Segmenter
from pd_ddpm.runtime.files import atomic_write
from pd_ddpm.runtime.progress import log, progress


class CaseSamples(NamedTuple):
    """samples: (X, Y, Z, N) in [0, 1] on the scan's grid; seconds: that the network took, without reading and resampling."""

    samples: np.ndarray
    seconds: float


@dataclass
class PartialSamples:
    """A file in which the members that have been drawn so far outlive a killed process.

    stamp: a hash of all that they depend on; a file of another stamp, or a damaged one, is not taken up.
    """

    path: Path
    stamp: str
    save_every_seconds: float = 20.0
    saved: float = field(default_factory=time.monotonic)

    def load(self, results: Tensor) -> int:
        """Fill in what an earlier process has drawn, and return how many members of slices that is."""
        try:
            with np.load(self.path) as stored:
                if str(stored["stamp"]) != self.stamp or stored["results"].shape != tuple(results.shape):
                    return 0
                results.copy_(torch.from_numpy(stored["results"]))
                return int(stored["done"])
        except FileNotFoundError:
            return 0
        except Exception as error:  # whatever a damaged file leads to
            log.warning("%s cannot be read (%s); its members are drawn again", self.path, error)
            return 0

    def save(self, results: Tensor, done: int) -> None:
        """Write what has been drawn, if the last time is long enough ago."""
        if time.monotonic() - self.saved < self.save_every_seconds:
            return
        with atomic_write(self.path) as temporary, temporary.open("wb") as file:
            np.savez(file, stamp=self.stamp, results=results.numpy(), done=done)
        self.saved = time.monotonic()


@torch.inference_mode()
def segment_case(
    segmenter: Segmenter,
    image: np.ndarray,
    brain: np.ndarray,
    spacing_mm: tuple[float, float, float],
    grid_settings: GridSettings,
    *,
    case: str,
    seed: int,
    batch: int | Literal["auto"],
    device: torch.device,
    presegmentation: np.ndarray | None = None,
    unfinished: PartialSamples | None = None,
) -> CaseSamples:
    """Lesion probabilities of the segmenter's N members on the scan's grid.

    image: (X, Y, Z, M); brain: (X, Y, Z) bool, slices without it stay zero unseen; presegmentation: (X, Y, Z, N) in [0, 1],
    one for each member, or (X, Y, Z, 1) for all. batch: how many members of slices go through the network at once; it
    changes the speed and no result; "auto" is what fits into the free memory. The noise of a member is named (seed, case,
    slice, member). unfinished: where what is drawn is kept meanwhile; progress is then said, too.
    """
    grid, with_brain = grid_settings.working_grid(brain, spacing_mm)
    chosen = np.flatnonzero(with_brain)
    members = segmenter.num_members
    images = pad_to_multiple(grid.slices(image)[chosen], segmenter.divisor)
    starts = None
    if presegmentation is not None:
        starts = pad_to_multiple(grid.slices(presegmentation)[chosen], segmenter.divisor).expand(-1, members, -1, -1)
    height, width = grid.size
    results = torch.zeros((len(with_brain), members, height, width))
    started = time.perf_counter()
    pairs = [(row, member) for row in range(len(chosen)) for member in range(members)]
    done = unfinished.load(results) if unfinished else 0
    if batch == "auto":
        batch = _find_batch_size(segmenter, images, starts, device)
    firsts = range(done, len(pairs), batch)
    for first in progress(firsts, f"{case}, {unfinished.path.stem}", len(firsts)) if unfinished else firsts:
        rows = torch.tensor([row for row, _ in pairs[first : first + batch]])
        kept = torch.tensor([member for _, member in pairs[first : first + batch]])
        noise = MemberNoise([(seed, case, int(chosen[row]), member) for row, member in pairs[first : first + batch]])
        drawn = segmenter(images[rows].to(device), None if starts is None else starts[rows, kept, None], noise)
        results[chosen[rows], kept] = drawn[:, 0, :height, :width].cpu()
        if unfinished:
            unfinished.save(results, first + len(rows))
    seconds = time.perf_counter() - started
    return CaseSamples(grid.volume(results), seconds)


def _find_batch_size(segmenter: Segmenter, images: Tensor, starts: Tensor | None, device: torch.device) -> int:
    """How many of these slices (Z, M, H, W) fit into the free memory, by a chain of one step; 1 where there is no slice."""
    if not len(images):
        return 1
    short = segmenter.shortened()

    def run(size: int) -> Tensor:
        rows = torch.arange(size) % len(images)
        noise = MemberNoise([("probe", row) for row in range(size)])
        return short(images[rows].to(device), None if starts is None else starts[rows, :1], noise)

    return find_batch_size(run, device)
