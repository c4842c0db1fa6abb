"""A new scan through the methods of a bundle, one after the other, each starting from the members of the one before."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pd_ddpm.data.nifti.geometry import reorient, reorient_back
from pd_ddpm.data.scan import Scan
from pd_ddpm.data.working_grid import GridSettings
from pd_ddpm.inference.cost import Cost
from pd_ddpm.inference.prediction_store import as_stored, starting_masks
from pd_ddpm.inference.segment_case import PartialSamples, segment_case
from pd_ddpm.inference.segmenters import Segmenter
from pd_ddpm.runtime.files import fingerprint
from pd_ddpm.runtime.precision import Precision, set_matmul_precision


@dataclass(frozen=True)
class ReadyStage:
    """A method of a bundle with its trained network on the device.

    settings: those of the method, as in the configuration; presegmentation: the earlier stage that it starts from, None where
    it needs none or starts from no lesion.
    """

    method: str
    segmenter: Segmenter
    grid: GridSettings
    precision: Precision
    seed: int
    presegmentation: str | None
    settings: dict[str, Any]


def draw_members(
    stages: Sequence[ReadyStage],
    scan: Scan,
    name: str,
    orientation: str,
    *,
    device: torch.device,
    batch: int,
    unfinished: Path,
    depends_on: Any,
) -> tuple[np.ndarray, Cost]:
    """The members of the last stage, (X, Y, Z, K) float32 in steps of 1/255 on the scan's own grid, and what they cost.

    orientation: the axis codes that the networks' scans have; the scan is turned to them, and the members back. name: of the
    scan, to which its noise belongs; with the name, the seed and the settings of a case of the workflow they are its members.
    unfinished: a folder in which they outlive a killed process; depends_on: all that they depend on.
    """
    grid = reorient(np.asarray(scan.reference.dataobj), scan.reference, orientation)
    image, brain = (
        np.asarray(reorient(part, scan.reference, orientation).dataobj) for part in (scan.image, _as_bytes(scan.brain))
    )
    drawn: dict[str, np.ndarray] = {}
    cost = Cost()
    for stage in stages:
        started = time.perf_counter()
        set_matmul_precision(stage.precision)
        case = segment_case(
            stage.segmenter,
            Scan(name, image, brain > 0, grid),
            stage.grid,
            seed=stage.seed,
            batch=batch,
            device=device,
            presegmentation=_start(stage, drawn, brain.shape),
            partial=PartialSamples(unfinished / f"{stage.method}.npz", fingerprint([stage.method, depends_on])),
        )
        drawn[stage.method] = as_stored(case.samples)
        stage_cost = Cost.from_times(stage.segmenter, case.seconds, time.perf_counter() - started)
        cost += stage_cost if stage is stages[-1] else stage_cost.as_shared(stage.segmenter.num_members)
    members = drawn[stages[-1].method]
    return np.ascontiguousarray(reorient_back(members, scan.reference, orientation)), cost


def _start(stage: ReadyStage, drawn: dict[str, np.ndarray], shape: tuple[int, ...]) -> np.ndarray | None:
    """The masks (X, Y, Z, 1 or K) that the members of a stage start from."""
    if stage.settings.get("start") != "presegmentation":
        return None
    if stage.presegmentation is None:
        return np.zeros((*shape, 1), dtype=np.float32)
    before, which = drawn[stage.presegmentation], stage.settings["presegmentation_members"]
    members = before[..., : stage.segmenter.num_members] if which == "each" else before
    return starting_masks(members, which, stage.settings["harden"])


def _as_bytes(mask: np.ndarray) -> np.ndarray:
    # nibabel stores no booleans.
    return mask.astype(np.uint8)
