"""Gate for lower precision: test on a few cases whether a network may sample in another precision than float32.

A precision passes if the network's output is close to that in float32, and if the masks differ from those in float32 by a
small fraction of what another seed changes. Sampling uses the fastest precision that passed. Compiled networks are tested in
the same way, in the precision in which they will sample.
"""

import copy
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pd_ddpm.data.scan import Scan
from pd_ddpm.data.working_grid import GridSettings, slices_with_brain
from pd_ddpm.diffusion.denoiser import Denoiser
from pd_ddpm.diffusion.noise import MethodNoise
from pd_ddpm.inference.class_ensemble import empty_mask, most_probable
from pd_ddpm.inference.compiled_network import Size
from pd_ddpm.inference.ensemble import threshold
from pd_ddpm.inference.segment_case import segment_case
from pd_ddpm.inference.segmenters import DeterministicSegmenter, Segmenter
from pd_ddpm.runtime.precision import (
    FLOAT32,
    Precision,
    cast_to_weights,
    choose_precision,
    precisions_by_speed,
    prepare_for_inference,
    set_matmul_precision,
)
from pd_ddpm.runtime.progress import log

NetworkInputs = tuple[Tensor, ...]  # arguments of one evaluation of the network


@dataclass(frozen=True)
class Gate:
    """How a precision is tested.

    Attributes:
        segmenter: builds the segmenter of a model, with few reverse steps and members.
        grid: the grid on which the network was trained.
        device: device on which the network will sample.
        num_slices: slices tested per scan; in three dimensions all are.
        forward_error: precision -> largest relative L2 error of the network's output.
        flipped_share: largest number of changed mask voxels, as a fraction of those that another seed changes.
        precision: key `precision` of the methods that sample.
        compile: compiles the network of a segmenter for images of these sizes, if that pays; returns the images per evaluation
            for each size. None: networks sample uncompiled.
    """

    segmenter: Callable[[nn.Module], Segmenter]
    grid: GridSettings
    device: torch.device
    num_slices: int
    forward_error: Mapping[str, float]
    flipped_share: float
    precision: str = "auto"
    compile: Callable[[Segmenter, Collection[Size]], dict[Size, int]] | None = None

    def test(self, model: nn.Module, scans: Sequence[Scan]) -> dict[str, dict[str, Any]]:
        """Test each precision that the device supports, except float32; return precision -> measurements and `passed`.

        All are tested, also slower ones than the first that passes, because another device may not support that one.
        """
        precisions = [precision for precision in precisions_by_speed(self.device) if precision != FLOAT32]
        return self.compare(model, scans, precisions) if precisions else {}

    @torch.inference_mode()
    def compare(self, model: nn.Module, scans: Sequence[Scan], precisions: Sequence[Precision]) -> dict[str, dict[str, Any]]:
        """Test these precisions, whether or not the device supports them natively.

        Args:
            model: the trained model in float32; it is not changed.
            scans: the scans on which it is tested.
            precisions: the precisions.

        Returns:
            Precision -> measurements and `passed`.
        """
        set_matmul_precision(FLOAT32)
        reference = prepare_for_inference(copy.deepcopy(model), self.device, FLOAT32)
        evaluations: list[NetworkInputs] = []
        handle = _network(reference).register_forward_pre_hook(lambda _, inputs: evaluations.append(inputs))
        masks = self._masks(reference, scans, seed=0)
        handle.remove()
        is_random = not isinstance(self.segmenter(reference), DeterministicSegmenter)
        between_seeds = _flipped_voxels(masks, self._masks(reference, scans, seed=1)) if is_random else None
        outputs = [_network(reference)(*inputs).float() for inputs in evaluations]
        sizes = {tuple(inputs[0].shape[2:]) for inputs in evaluations}

        def test_model(tested: nn.Module, precision: Precision, title: str) -> dict[str, Any]:
            error = max(map(_relative_error, (_output(tested, inputs) for inputs in evaluations), outputs), default=0.0)
            flipped = _flipped_voxels(masks, self._masks(tested, scans, seed=0))
            return self._result(title, precision, error, flipped, between_seeds)

        results: dict[str, dict[str, Any]] = {}
        for precision in precisions:
            set_matmul_precision(precision)
            converted = prepare_for_inference(copy.deepcopy(model), self.device, precision)
            result = results[precision.name] = test_model(converted, precision, precision.name)
            is_first = sum(other["passed"] for other in results.values()) == 1
            is_used = result["passed"] and (self.precision == precision.name or (self.precision == "auto" and is_first))
            if self.compile and is_used and (batches := self.compile(self.segmenter(converted), sizes)):
                compiled = test_model(converted, precision, f"{precision.name}, compiled")
                result["compiled"] = compiled | {"batches": [[*size, rows] for size, rows in batches.items()]}
        set_matmul_precision(FLOAT32)
        return results

    def _masks(self, model: nn.Module, scans: Sequence[Scan], seed: int) -> list[np.ndarray]:
        """Return the members' masks of a few evenly spaced slices of each scan, or of its whole volume."""
        segmenter, masks = self.segmenter(model), []
        for scan in scans:
            brain, batch = scan.brain, 1
            if self.grid.spatial_dims == 2:
                slices = np.flatnonzero(slices_with_brain(scan.brain, scan.spacing_mm, self.grid.minimum_brain_cm2))
                if len(slices):
                    slices = slices[np.unique(np.linspace(0, len(slices) - 1, self.num_slices).round().astype(int))]
                brain = np.zeros_like(scan.brain)
                brain[:, :, slices] = scan.brain[:, :, slices]
                batch = len(slices) * segmenter.num_members or 1
            # For chains that start from a pre-segmentation.
            empty = empty_mask(scan.brain.shape, segmenter.mask_channels - 1)
            result = segment_case(
                segmenter,
                replace(scan, brain=brain),
                self.grid,
                noise=MethodNoise("gate", seed),
                batch=batch,
                device=self.device,
                presegmentation=empty,
            )
            is_binary = segmenter.mask_channels == 1
            masks.append(threshold(result.samples) if is_binary else most_probable(result.samples))
        return masks

    def _result(
        self, title: str, precision: Precision, error: float, flipped: int, between_seeds: int | None
    ) -> dict[str, Any]:
        """Compare the measurements with the limits, log them, and return both."""
        error_limit = self.forward_error[precision.name]
        is_accurate = error <= error_limit
        is_stable = between_seeds is None or flipped <= self.flipped_share * between_seeds
        log.info(
            "%s: forward error %.2g (limit %g), %d flipped voxels%s: %s",
            title,
            error,
            error_limit,
            flipped,
            "" if between_seeds is None else f" ({between_seeds} between seeds, limit {self.flipped_share:.0%} of them)",
            "passed" if is_accurate and is_stable else "failed",
        )
        return {
            "forward_error": error,
            "forward_error_limit": error_limit,
            "flipped_voxels": flipped,
            "flipped_between_seeds": between_seeds,
            "flipped_share_limit": self.flipped_share,
            "passed": is_accurate and is_stable,
        }


@dataclass(frozen=True)
class PrecisionChoice:
    """The precision to sample in, and why it was chosen, for the log and the metadata."""

    precision: Precision
    reason: str


def gated_precision(name: str, device: torch.device, verdict: Mapping[str, Any] | None) -> PrecisionChoice:
    """Choose the fastest precision that the network has passed its test in, and set PyTorch's matrix multiplication to it.

    "auto" tries all precisions of the device. Another value tries that precision and slower ones. float32 needs no test.

    Args:
        name: key `precision` of the method.
        device: device of the network.
        verdict: result of rule `gate`: {"device": device type, "formats": `Gate.test`}; None if nothing was tested.

    Returns:
        The precision and the reason. The reason is logged: as a warning if the requested precision is not used, or if the
        device has faster ones than float32 but none is used.

    Raises:
        ValueError: the device does not support the precision.
    """
    candidates = precisions_by_speed(device)
    if name != "auto":
        candidates = candidates[candidates.index(choose_precision(name, device)) :]
    rejections: list[str] = []
    for precision in candidates:
        rejection = _rejection(precision, device, verdict)
        if rejection is None:
            break
        rejections.append(rejection)
    test = "needs no test" if precision == FLOAT32 else "passed the test on this network"
    if rejections:
        reason = f"{'; '.join(dict.fromkeys(rejections))}; {precision} {test} and is used instead"
    elif name != "auto":
        reason = f"{precision} is set as `precision` and {test}"
    else:
        reason = f"{precision} is the fastest precision of the device and {test}"
    is_slower_than_expected = rejections and (name != "auto" or precision == FLOAT32)
    (log.warning if is_slower_than_expected else log.info)("%s", reason)
    set_matmul_precision(precision)
    return PrecisionChoice(precision, reason)


def tested_batches(precision: Precision, verdict: Mapping[str, Any] | None) -> dict[Size, int] | None:
    """Return the batches for which the test of a network has compiled it, or None if it must not sample compiled.

    Args:
        precision: the precision in which it will sample; float32 needs no test.
        verdict: result of rule `gate`; None if nothing was tested.

    Returns:
        Image size -> images per evaluation.
    """
    if precision == FLOAT32:
        return {}
    result = (verdict or {"formats": {}})["formats"].get(precision.name, {}).get("compiled")
    if result is None:
        log.info("the network samples uncompiled, since it was not tested compiled in %s", precision)
        return None
    if not result["passed"]:
        log.warning("the network samples uncompiled, since it failed the test compiled in %s", precision)
        return None
    return {tuple(size): rows for *size, rows in result["batches"]}


def _rejection(precision: Precision, device: torch.device, verdict: Mapping[str, Any] | None) -> str | None:
    """Return why a network must not be sampled in this precision, or None if it may be."""
    if precision == FLOAT32:
        return None
    if verdict and verdict["device"] != device.type:
        return f"the network was tested on another type of device ({verdict['device']}, not {device.type})"
    result = verdict["formats"].get(precision.name) if verdict else None
    if result is None:
        return f"{precision} was not tested on this network"
    if result["passed"]:
        return None
    seeds = result["flipped_between_seeds"]
    return (
        f"{precision} failed the test on this network: forward error {result['forward_error']:.2g} (limit "
        f"{result['forward_error_limit']:g}), {result['flipped_voxels']} flipped voxels"
        + ("" if seeds is None else f" ({seeds} between seeds, limit {result['flipped_share_limit']:.0%} of them)")
    )


def _network(model: nn.Module) -> nn.Module:
    """Return the network that the segmenter evaluates."""
    return model.network if isinstance(model, Denoiser) else model


def _output(model: nn.Module, inputs: NetworkInputs) -> Tensor:
    """Return the network's output for these inputs, in float32."""
    network = _network(model)
    return network(cast_to_weights(inputs[0], network), *inputs[1:]).float()


def _relative_error(actual: Tensor, expected: Tensor) -> float:
    """Return the relative L2 error; infinite if the result is NaN or infinite."""
    difference = (actual - expected).norm().item()
    if difference == 0:
        return 0.0
    error = difference / max(expected.norm().item(), torch.finfo(torch.float32).tiny)
    return error if np.isfinite(error) else float("inf")


def _flipped_voxels(masks: Sequence[np.ndarray], others: Sequence[np.ndarray]) -> int:
    """Count the voxels in which two lists of masks differ."""
    return sum(int((mask != other).sum()) for mask, other in zip(masks, others, strict=True))
