"""Whether a network may be sampled from in a shorter number format: measured on cases of its own before that is done.

The format must agree with float32 in the network's output, and the masks that come of it must differ from those of float32
by a small part of what another seed changes.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pd_ddpm.data.scan import Scan
from pd_ddpm.data.working_grid import GridSettings, slices_with_brain
from pd_ddpm.diffusion.denoiser import Denoiser
from pd_ddpm.inference.ensemble import threshold
from pd_ddpm.inference.segment_case import segment_case
from pd_ddpm.inference.segmenters import DeterministicSegmenter, Segmenter
from pd_ddpm.runtime.precision import (
    FLOAT32,
    PRECISIONS,
    Precision,
    cast_to_weights,
    choose_precision,
    prepare_for_inference,
    set_matmul_precision,
    unsupported_reason,
)
from pd_ddpm.runtime.progress import log

Pass = tuple[Tensor, ...]  # what the network was given in one pass


@dataclass(frozen=True)
class Gate:
    """How a format is tested; the meaning of the limits is in config/schema.yaml, under sampling.gate.

    segmenter: of a model, with a short chain and few members.
    """

    segmenter: Callable[[nn.Module], Segmenter]
    grid: GridSettings
    device: torch.device
    slices: int
    forward_error: Mapping[str, float]
    flipped_share: float

    def findings(self, model: nn.Module, scans: Sequence[Scan]) -> dict[str, dict[str, Any]]:
        """Format -> what was measured and whether it `passed`, for each format that the device has beside float32."""
        formats = [one for one in PRECISIONS.values() if one != FLOAT32 and unsupported_reason(one.name, self.device) is None]
        return self.compare(model, scans, formats) if formats else {}

    @torch.inference_mode()
    def compare(self, model: nn.Module, scans: Sequence[Scan], formats: Sequence[Precision]) -> dict[str, dict[str, Any]]:
        """The same for these formats, whether or not the device computes in them natively."""
        set_matmul_precision(FLOAT32)
        reference = prepare_for_inference(copy.deepcopy(model), self.device, FLOAT32)
        passes: list[Pass] = []
        handle = _network(reference).register_forward_pre_hook(lambda _, inputs: passes.append(inputs))
        masks = self._masks(reference, scans, seed=0)
        handle.remove()
        random = not isinstance(self.segmenter(reference), DeterministicSegmenter)
        between_seeds = _flips(masks, self._masks(reference, scans, seed=1)) if random else None
        outputs = [_network(reference)(*one).float() for one in passes]
        found = {}
        for precision in formats:
            set_matmul_precision(precision)
            other = prepare_for_inference(copy.deepcopy(model), self.device, precision)
            error = max(map(_relative_error, (_output(other, one) for one in passes), outputs), default=0.0)
            flipped = _flips(masks, self._masks(other, scans, seed=0))
            found[precision.name] = self._judged(precision.name, error, flipped, between_seeds)
        set_matmul_precision(FLOAT32)
        return found

    def _masks(self, model: nn.Module, scans: Sequence[Scan], seed: int) -> list[np.ndarray]:
        """The members of a few evenly spaced slices of each scan as masks."""
        draw, masks = self.segmenter(model), []
        for scan in scans:
            brain = np.flatnonzero(slices_with_brain(scan.brain, scan.spacing_mm, self.grid.minimum_brain_cm2))
            shown = np.zeros_like(scan.brain)
            chosen = brain[np.unique(np.linspace(0, len(brain) - 1, self.slices).round().astype(int))] if len(brain) else brain
            shown[:, :, chosen] = scan.brain[:, :, chosen]
            nothing = np.zeros((*scan.brain.shape, 1), dtype=np.float32)  # for the chains that begin at a pre-segmentation
            drawn = segment_case(
                draw,
                scan.image,
                shown,
                scan.spacing_mm,
                self.grid,
                case=scan.case,
                seed=seed,
                batch=len(chosen) * draw.num_members or 1,
                device=self.device,
                presegmentation=nothing,
            )
            masks.append(threshold(drawn.samples))
        return masks

    def _judged(self, name: str, error: float, flipped: int, between_seeds: int | None) -> dict[str, Any]:
        agrees = error <= self.forward_error[name]
        steady = between_seeds is None or flipped <= self.flipped_share * between_seeds
        log.info(
            "%s: forward error %.2g (limit %g), %d flipped voxels%s: %s",
            name,
            error,
            self.forward_error[name],
            flipped,
            "" if between_seeds is None else f" ({between_seeds} between seeds, limit {self.flipped_share:.0%} of them)",
            "passed" if agrees and steady else "failed",
        )
        return {
            "forward_error": error,
            "forward_error_limit": self.forward_error[name],
            "flipped_voxels": flipped,
            "flipped_between_seeds": between_seeds,
            "flipped_share_limit": self.flipped_share,
            "passed": agrees and steady,
        }


def gated_precision(name: str, device: torch.device, verdict: Mapping[str, Any] | None) -> tuple[Precision, str | None]:
    """The format that `precision: name` comes to under a network's verdict, and why it is float32 where another was meant.

    verdict: {"device": type of the device of the test, "formats": `Gate.findings`}; None where nothing was tested.
    Raises ValueError for a format that the device lacks.
    """
    wanted = choose_precision(name, device)
    if wanted == FLOAT32:
        return wanted, None
    tested = verdict["formats"].get(wanted.name) if verdict else None
    if tested is None:
        reason = f"{wanted} was not tested on this network"
    elif verdict["device"] != device.type:
        reason = f"{wanted} was tested on another type of device ({verdict['device']}, not {device.type})"
    elif not tested["passed"]:
        seeds = tested["flipped_between_seeds"]
        reason = (
            f"{wanted} failed the test on this network: forward error {tested['forward_error']:.2g} (limit "
            f"{tested['forward_error_limit']:g}), {tested['flipped_voxels']} flipped voxels"
            + ("" if seeds is None else f" ({seeds} between seeds, limit {tested['flipped_share_limit']:.0%} of them)")
        )
    else:
        return wanted, None
    log.warning("%s; float32 is used instead", reason)
    set_matmul_precision(FLOAT32)
    return FLOAT32, reason


def _network(model: nn.Module) -> nn.Module:
    """What the segmenter calls with images."""
    return model.network if isinstance(model, Denoiser) else model


def _output(model: nn.Module, inputs: Pass) -> Tensor:
    network = _network(model)
    return network(cast_to_weights(inputs[0], network), *inputs[1:]).float()


def _relative_error(actual: Tensor, expected: Tensor) -> float:
    """Relative L2 error; infinite where numbers are lost."""
    difference = (actual - expected).norm().item()
    if difference == 0:
        return 0.0
    error = difference / max(expected.norm().item(), torch.finfo(torch.float32).tiny)
    return error if np.isfinite(error) else float("inf")


def _flips(masks: Sequence[np.ndarray], others: Sequence[np.ndarray]) -> int:
    return sum(int((mask != other).sum()) for mask, other in zip(masks, others, strict=True))
