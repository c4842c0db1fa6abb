"""Probe of a denoiser: whether its one-step estimate of the mask depends on x_t.

The same slices are diffused from three masks: the truth, no lesion, and another slice of the case. A denoiser that reads x_t
returns the truth from a slightly noisy truth, and next to nothing from a slightly noisy empty mask. If the three estimates have
the same Dice, the network segments from the image alone. Its chains then end in the same mask wherever they start.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pd_ddpm.data.prepared import cases_by_role, read_ground_truth, read_scan
from pd_ddpm.data.working_grid import GridSettings, pad_to_multiple
from pd_ddpm.diffusion.denoiser import Denoiser
from pd_ddpm.diffusion.mask_coding import foreground_masks, with_background
from pd_ddpm.diffusion.noise import MemberNoise
from pd_ddpm.inference.job import ProbeJob
from pd_ddpm.models.coordinates import add_coordinates, has_coordinates
from pd_ddpm.models.factory import load_model
from pd_ddpm.runtime.precision import FLOAT32, choose_device, device_name, prepare_for_inference, set_matmul_precision
from pd_ddpm.runtime.problem import Problem, ProblemError
from pd_ddpm.runtime.progress import log
from pd_ddpm.runtime.run_record import run_record

# Images per evaluation of the network. Small, since even the paper's denoiser is probed within a minute on a GPU.
_BATCH = 8


@dataclass(frozen=True)
class ProbedSlices:
    """Slices with lesion of one case, on its working grid, or its volume as a stack of one image.

    Attributes:
        case: name of the case.
        slice_numbers: position of each slice in the scan, counted from 0; 0 for a volume.
        image: (B, M, *S), z-scored.
        truth: (B, C, *S), fraction of lesion in each pixel (C = 1), or of each class with background first.
        other: (B, C, *S), the fractions of another slice with lesion of the same case.
        is_scored: (B, 1, *S) bool, false if the pixel's label is to be ignored.
    """

    case: str
    slice_numbers: Sequence[int]
    image: Tensor
    truth: Tensor
    other: Tensor
    is_scored: Tensor


def probe_network(job: ProbeJob) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Probe a trained denoiser on validation cases, or on training cases if its split has no lesion in validation cases.

    Returns:
        The table: one row per case, start and timestep, with the Dice of the estimate over the probed slices of the case. And
        the run record.

    Raises:
        ProblemError: no case of the split has a slice with lesion.
    """
    torch.set_num_threads(job.threads)
    device = choose_device(job.device)
    set_matmul_precision(FLOAT32)
    model, metadata = load_model(job.weights, job.network_metadata)
    model = prepare_for_inference(model, device, FLOAT32)
    timesteps = probed_timesteps(job.settings["timesteps"], metadata["settings"]["t_max"])
    grid_settings = GridSettings(**metadata["grid"], spatial_dims=metadata["settings"]["spatial_dims"])
    role, cases = _read_cases(job, grid_settings, metadata["settings"].get("labels", ()))
    identity = {"network": job.run.name, "split": job.run.split, "seed": job.run.seed, "role": role}
    rows = [identity | row for case in cases for row in probe_case(model, case, timesteps, job.run.seed, device)]
    table = pd.DataFrame(rows)
    means = table[table["t"] == timesteps[0]].groupby("start", sort=False)["dice"].mean()
    log.info(
        "%s: Dice at t = %d: %s", job.title, timesteps[0], ", ".join(f"{start} {dice:.3f}" for start, dice in means.items())
    )
    record = run_record(
        job.config,
        job.code,
        seed=job.run.seed,
        device=device_name(device),
        precision=FLOAT32,
        made_from=[job.network_metadata],
    )
    return table, record


def probed_timesteps(timesteps: Sequence[int], t_max: int) -> list[int]:
    """Return the timesteps of a probe: 1, those of `timesteps` that the network is trained on, and its largest one."""
    return sorted({1, t_max, *(t for t in timesteps if t <= t_max)})


def read_probed_slices(
    folder: Path, case: str, grid_settings: GridSettings, num_slices: int, labels: Sequence[int] = ()
) -> ProbedSlices | None:
    """Read evenly spaced slices with lesion, or with any class, of a prepared case, or its volume.

    Args:
        folder: folder of the prepared cases.
        case: name of the case.
        grid_settings: working grid of the network.
        num_slices: largest number of slices; a case has one volume.
        labels: labels of the dataset's classes; empty if masks hold lesions.

    Returns:
        The slices, or None if the case has no slice with lesion. The other mask of a slice is that of the slice which is half
        of all slices with lesion further on, so that the two have few lesions in common. In a volume, every slice with lesion
        has that other mask.
    """
    scan = read_scan(folder, case)
    grid, with_brain = grid_settings.working_grid(scan.brain, scan.spacing_mm)
    scan_image = grid.slices(scan.image)
    fractions = grid.label_fractions(read_ground_truth(folder, case, labels), labels)
    masks, is_scored = fractions[:, :-1], fractions[:, -1:] < 0.5
    masks = with_background(masks) if labels else masks
    is_lesion = foreground_masks(masks).any(dim=1, keepdim=True) & is_scored
    if grid_settings.spatial_dims == 3:
        lesion_slices = is_lesion[0, 0].flatten(0, 1).any(dim=0).nonzero().squeeze(1)
        if not with_brain.any() or not len(lesion_slices):
            return None
        other = masks.clone()
        other[..., lesion_slices] = other[..., lesion_slices.roll(-(len(lesion_slices) // 2))]
        return ProbedSlices(case, [0], scan_image, masks, other, is_scored)
    lesion_slices = np.flatnonzero(is_lesion.flatten(1).any(dim=1).numpy() & with_brain)
    if not len(lesion_slices):
        return None
    chosen = np.unique(np.linspace(0, len(lesion_slices) - 1, num_slices).round().astype(int))
    others = lesion_slices[(chosen + len(lesion_slices) // 2) % len(lesion_slices)]
    slices = lesion_slices[chosen]
    return ProbedSlices(case, slices.tolist(), scan_image[slices], masks[slices], masks[others], is_scored[slices])


@torch.inference_mode()
def probe_case(
    model: Denoiser, slices: ProbedSlices, timesteps: Sequence[int], seed: int, device: torch.device
) -> list[dict[str, Any]]:
    """Return one row per start and timestep: the Dice of the one-step estimate against the truth, at a threshold of 0.5.

    The noise of a slice has its own stream. It is the same for all starts and timesteps, so that rows differ by these only.

    Args:
        model: the denoiser, on the device.
        slices: B slices of one case.
        timesteps: timesteps t of x_t.
        seed: seed of the network, part of the names of the noise.
        device: device of the network.

    Returns:
        Rows with case, images (the number of slices or volumes), dimensions (2: slices, 3: volumes), start ("truth", "empty",
        "other_slice"), t and dice.
    """
    inside = tuple(map(slice, slices.image.shape[2:]))
    image = add_coordinates(slices.image) if has_coordinates(model) else slices.image
    image, truth, other = (pad_to_multiple(part, model.divisor).to(device) for part in (image, slices.truth, slices.other))
    noise = MemberNoise([("probe", seed, slices.case, number) for number in slices.slice_numbers])
    noise = noise.sample_normal(truth.shape[1:], device)
    rows = []
    empty = torch.zeros_like(truth)
    if truth.shape[1] > 1:
        empty[:, 0] = 1  # background
    for start, mask in (("truth", truth), ("empty", empty), ("other_slice", other)):
        x0 = model.coding.encode(mask)
        for t in timesteps:
            x_t = model.schedule.diffuse(x0, torch.full((len(x0),), t, device=device), noise)
            parts = zip(x_t.split(_BATCH), image.split(_BATCH), strict=True)
            estimate = torch.cat([model.coding.probabilities(model(*part, t)) for part in parts])[:, :, *inside].cpu()
            dice = _dice(estimate, slices)
            probed = {"case": slices.case, "images": len(x0), "dimensions": x0.ndim - 2}
            rows.append(probed | {"start": start, "t": t, "dice": dice})
    return rows


def _dice(estimate: Tensor, slices: ProbedSlices) -> float:
    """Return the Dice of an estimate (B, C, *S) over all slices, of classes the mean. The truth is never empty."""
    predicted, truth = (foreground_masks(masks) & slices.is_scored for masks in (estimate, slices.truth))
    overlap, total = (
        pixels.transpose(0, 1).flatten(1).sum(dim=1) for pixels in (predicted & truth, predicted.int() + truth.int())
    )
    return float((2 * overlap[total > 0] / total[total > 0]).mean())


def _read_cases(job: ProbeJob, grid_settings: GridSettings, labels: Sequence[int]) -> tuple[str, list[ProbedSlices]]:
    """Return a role of the split and the probed slices of its cases."""
    roles = cases_by_role(job.splits, job.run.split)
    for role in ("validation", "train"):
        names = roles.get(role, [])
        per_case = max(1, round(job.settings["slices"] / max(1, len(names))))
        cases = [read_probed_slices(job.cases.parent, name, grid_settings, per_case, labels) for name in names]
        if cases := [case for case in cases if case is not None]:
            return role, cases
    finding = f"no validation or training case of split {job.run.split} has a slice with lesion to probe the denoiser on"
    raise ProblemError(Problem(job.splits, finding, "Check the masks and the roles"))
