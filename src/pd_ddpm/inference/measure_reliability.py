"""Measure on validation cases how reliable the masks of a deterministic network are, as pre-segmentations of new cases."""

from typing import Any

import numpy as np
import torch

from pd_ddpm.data.prepared import cases_by_role, read_ground_truth, read_scan
from pd_ddpm.data.working_grid import GridSettings
from pd_ddpm.diffusion.noise import MethodNoise
from pd_ddpm.diffusion.reliability import Reliability
from pd_ddpm.inference.ensemble import threshold
from pd_ddpm.inference.job import ReliabilityJob
from pd_ddpm.inference.prediction_store import as_stored
from pd_ddpm.inference.segment_case import segment_case
from pd_ddpm.inference.segmenters import DeterministicSegmenter
from pd_ddpm.models.factory import load_model
from pd_ddpm.runtime.precision import FLOAT32, choose_device, prepare_for_inference, set_matmul_precision
from pd_ddpm.runtime.problem import Problem, ProblemError
from pd_ddpm.runtime.progress import log

_BATCH = 8  # slices per evaluation of the network


def measure_reliability(job: ReliabilityJob) -> dict[str, Any]:
    """Return sensitivity and specificity of a network's masks in the brains of the validation cases, over all voxels together.

    The masks are made, stored and thresholded as those of test cases. Voxels of label 2 are left out, and so is the background
    beyond the brain. It would raise the specificity, but not the reliability of the masks where there may be lesions.

    Raises:
        ProblemError: the split has no validation case.
    """
    torch.set_num_threads(job.threads)
    device = choose_device(job.device)
    set_matmul_precision(FLOAT32)
    network, metadata = load_model(job.weights, job.network_metadata, kind=job.settings["weights"])
    segmenter = DeterministicSegmenter(prepare_for_inference(network, device, FLOAT32))
    grid = GridSettings(**metadata["grid"], spatial_dims=metadata["settings"]["spatial_dims"])
    cases = cases_by_role(job.splits, job.run.split).get("validation", [])
    if not cases:
        problem = f"split {job.run.split} has no validation case on which to measure the reliability of {job.run.name}"
        raise ProblemError(Problem(job.splits, problem, "Set `start_reliability: none`, or give the split validation cases"))
    counts = np.zeros(4, dtype=int)
    for case in cases:
        scan, labels = read_scan(job.cases.parent, case), read_ground_truth(job.cases.parent, case)
        noise = MethodNoise("reliability", job.run.seed)
        samples = segment_case(segmenter, scan, grid, noise=noise, batch=_BATCH, device=device).samples
        mask = threshold(as_stored(samples[..., 0]))
        lesion, background = scan.brain & (labels == 1), scan.brain & (labels == 0)
        counts += [(mask & lesion).sum(), lesion.sum(), (~mask & background).sum(), background.sum()]
    measured = Reliability.from_counts(*counts.tolist())
    log.info("%s: sensitivity %.4f, specificity %.6f", job.title, measured.sensitivity, measured.specificity)
    return {
        "network": job.run.name,
        "split": job.run.split,
        "seed": job.run.seed,
        "weights": job.settings["weights"],
        "cases": cases,
        "sensitivity": measured.sensitivity,
        "specificity": measured.specificity,
        "code": job.code,
    }
