"""Sample the members of a new scan with the stages of a bundle, each starting from the members of an earlier one."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from pd_ddpm.config.resolve import base_name
from pd_ddpm.data.nifti.geometry import reorient, reorient_back
from pd_ddpm.data.scan import Scan
from pd_ddpm.data.working_grid import GridSettings
from pd_ddpm.deployment.bundle import Bundle, BundleError, Stage
from pd_ddpm.diffusion.noise import MethodNoise
from pd_ddpm.inference.class_ensemble import empty_mask
from pd_ddpm.inference.cost import Cost
from pd_ddpm.inference.factory import build_segmenter
from pd_ddpm.inference.precision_gate import PrecisionChoice, gated_precision
from pd_ddpm.inference.prediction_store import as_stored, starting_masks
from pd_ddpm.inference.segment_case import PartialSamples, segment_case
from pd_ddpm.inference.segmenters import Segmenter
from pd_ddpm.models.factory import load_model
from pd_ddpm.runtime.files import fingerprint
from pd_ddpm.runtime.precision import Precision, choose_precision, prepare_for_inference, set_matmul_precision
from pd_ddpm.runtime.problem import Problem


@dataclass(frozen=True)
class LoadedStage:
    """A stage of a bundle with its trained network on the device.

    Attributes:
        stage: the stage.
        segmenter: segmenter with the network.
        grid: grid on which the network sees the slices.
        precision: precision of the network.
        precision_reason: why it was chosen.
        seed: seed of the noise, which may differ from the bundle's.
    """

    stage: Stage
    segmenter: Segmenter
    grid: GridSettings
    precision: Precision
    precision_reason: str
    seed: int

    @classmethod
    def from_bundle(cls, bundle: Bundle, stage: Stage, seed: int, device: torch.device, precision: str | None) -> Self:
        """Load the network of a stage.

        Args:
            bundle: the bundle.
            stage: one of its stages, possibly with other settings of sampling.
            seed: seed of the noise.
            device: device of the network.
            precision: precision of the network, used without a test. None is the stage's setting. "auto", also as that
                setting, is the fastest precision that the network has passed its test in on such a device.

        Raises:
            BundleError: the settings are invalid.
            CheckpointError: the network's files are damaged.
            ValueError: the device does not support the precision.
        """
        try:
            network, metadata = load_model(*bundle.network_files(stage))
            if precision in (None, "auto"):
                choice = gated_precision(precision or stage.settings["precision"], device, metadata.get("gate"))
            else:
                choice = PrecisionChoice(choose_precision(precision, device), f"{precision} was requested")
            segmenter = build_segmenter(stage.settings, prepare_for_inference(network, device, choice.precision))
            grid = GridSettings(
                **metadata["grid"],
                members=stage.settings["grid_members"],
                spatial_dims=metadata["settings"]["spatial_dims"],
                start_from_same_grid=stage.settings.get("start_from_same_grid", True),
            )
        except (KeyError, TypeError, AttributeError, IndexError, ArithmeticError) as error:
            problem = f"the settings of {stage.method} or of its network are invalid ({type(error).__name__}: {error})"
            remedy = "Make the bundle again with this version of pd-ddpm"
            raise BundleError(Problem(bundle.folder, problem, remedy)) from error
        return cls(stage, segmenter, grid, choice.precision, choice.reason, seed)


def sample_members(
    stages: Sequence[LoadedStage],
    scan: Scan,
    orientation: str,
    *,
    device: torch.device,
    batch: int,
    partial_dir: Path,
    fingerprint_inputs: Any,
    presegmentation: np.ndarray | None = None,
) -> tuple[np.ndarray, Cost]:
    """Sample the members of the last stage.

    The random streams are named after method and case. With name, seed and settings of a case of the workflow, the members
    equal those of the workflow.

    Args:
        stages: the stages in their order.
        scan: the scan, on its own grid.
        orientation: axis codes of the networks' training scans, such as "LPS". The networks receive the reoriented scan.
        device: device of the networks.
        batch: slices per evaluation of a network. A volume fills any device, so members of volumes are sampled one by one.
        partial_dir: folder for partial results, from which a killed process resumes.
        fingerprint_inputs: everything that the members depend on.
        presegmentation: (X, Y, Z) in [0, 1] on the scan's own grid, if the only stage starts from a mask that was given.

    Returns:
        The members, (X, Y, Z, K), or (X, Y, Z, K, C) of classes, float32 in steps of 1/255 on the scan's own grid, and the cost
        of sampling them.
    """
    image, brain = (reorient(part, scan.reference, orientation) for part in (scan.image, _as_bytes(scan.brain)))
    reference = reorient(np.asarray(scan.reference.dataobj), scan.reference, orientation)
    reoriented = Scan(scan.case, np.asarray(image.dataobj), np.asarray(brain.dataobj) > 0, reference)
    members: dict[str, np.ndarray] = {}
    if presegmentation is not None:
        mask = np.asarray(reorient(presegmentation, scan.reference, orientation).dataobj)
        members[stages[-1].stage.presegmentation] = as_stored(mask[:, :, :, None])
    cost = Cost()
    for loaded in stages:
        started = time.perf_counter()
        set_matmul_precision(loaded.precision)
        method, segmenter = loaded.stage.method, loaded.segmenter
        samples = segment_case(
            segmenter,
            reoriented,
            loaded.grid,
            noise=MethodNoise(base_name(method), loaded.seed),
            batch=batch if loaded.grid.spatial_dims == 2 else 1,
            device=device,
            presegmentation=_starting_masks(loaded, members, reoriented.brain.shape),
            partial=PartialSamples(partial_dir / f"{method}.npz", fingerprint([method, fingerprint_inputs])),
        )
        members[method] = as_stored(samples.samples)
        stage_cost = Cost.from_times(segmenter, samples.seconds, time.perf_counter() - started)
        cost += stage_cost if loaded is stages[-1] else stage_cost.as_shared(segmenter.num_members)
    last = members[stages[-1].stage.method]
    volumes = reorient_back(last.reshape(*last.shape[:3], -1), scan.reference, orientation)
    return np.ascontiguousarray(volumes.reshape(*volumes.shape[:3], *last.shape[3:])), cost


def _starting_masks(loaded: LoadedStage, members: dict[str, np.ndarray], shape: tuple[int, ...]) -> np.ndarray | None:
    """Return the masks (X, Y, Z, 1 or K) from which the members of a stage start; None if it starts from no mask."""
    settings, presegmentation = loaded.stage.settings, loaded.stage.presegmentation
    if settings.get("start") != "presegmentation":
        return None
    if presegmentation is None:
        return empty_mask(shape, loaded.segmenter.mask_channels - 1)
    samples, choice = members[presegmentation], settings["presegmentation_members"]
    if choice == "each":
        samples = samples[:, :, :, : loaded.segmenter.num_members]
    return starting_masks(samples, choice, settings["harden"])


def _as_bytes(mask: np.ndarray) -> np.ndarray:
    """Convert a mask to uint8, because nibabel cannot store booleans."""
    return mask.astype(np.uint8)
