"""The cases of one method, drawn one after the other and kept in files; those that are there are taken up."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from pd_ddpm.data.prepared import read_scan
from pd_ddpm.data.working_grid import GridSettings
from pd_ddpm.inference.cost import Cost
from pd_ddpm.inference.prediction_store import PredictionFolder, Presegmentations
from pd_ddpm.inference.segment_case import segment_case
from pd_ddpm.inference.segmenters import Segmenter
from pd_ddpm.runtime.memory import enough_memory
from pd_ddpm.runtime.precision import Precision

_KEPT = "The cases that are finished are kept, and a lower batch changes no result"


@dataclass(frozen=True)
class CaseSampling:
    """A method ready to be drawn from.

    prepared: the folder of the prepared cases; given: what its chains start from, where they start from a mask. samples: the
    members of which mask and uncertainty are made; precision: for the message when memory runs out.
    """

    name: str
    segmenter: Segmenter
    grid: GridSettings
    prepared: Path
    folder: PredictionFolder
    given: Presegmentations | None
    samples: int
    seed: int
    batch: int | Literal["auto"]
    device: torch.device
    precision: Precision

    def draw(self, case: str) -> dict[str, Any]:
        """The record of a case, whose members are drawn if they are not there.

        Raises MemoryShortageError, which names the key to lower, and DiskFullError.
        """
        record = self.folder.finished(case)
        if record is not None:
            return record
        started = time.perf_counter()
        scan, draw = read_scan(self.prepared, case), self.segmenter
        with enough_memory(f"{self.name}, case {case}", {"sampling.batch": self.batch}, self.precision, _KEPT):
            drawn = segment_case(
                draw,
                scan.image,
                scan.brain,
                scan.spacing_mm,
                self.grid,
                case=case,
                seed=self.seed,
                batch=self.batch,
                device=self.device,
                presegmentation=self.given and self.given.read(case, scan.brain.shape, draw.num_members),
            )
        cost = Cost.from_times(draw, drawn.seconds, time.perf_counter() - started)
        cost += self.given.cost(case) if self.given else Cost()
        return self.folder.write(case, drawn.samples, self.samples, scan.reference, cost)
