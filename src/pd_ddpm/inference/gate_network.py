"""The job that tests in which precisions a trained network may sample. Does not import PyTorch unless it tests one."""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from pd_ddpm.data.prepared import cases_by_role, read_scan
from pd_ddpm.inference.job import GateJob
from pd_ddpm.runtime.cpu_info import only_float32
from pd_ddpm.runtime.progress import log

if TYPE_CHECKING:
    from pd_ddpm.inference.compiled_network import Size
    from pd_ddpm.inference.segmenters import Segmenter


def gate_network(job: GateJob) -> dict[str, Any]:
    """Return the verdict on a network: its device type, and the result for each precision that the device supports.

    A split without validation cases is tested on training cases. That is sound, because the test compares two ways to
    compute the same numbers.
    """
    metadata = {
        "network": job.run.name,
        "weights": job.settings["weights"],
        "split": job.run.split,
        "gate": job.limits,
        "code": job.code,
    }
    if only_float32(job.device):
        log.info("%s: this CPU computes in float32 only, so there is no precision to test", job.run.name)
        return {"device": "cpu", "formats": {}} | metadata

    # A CPU that computes in float32 only does not need PyTorch, which takes seconds to load.
    import torch

    from pd_ddpm.data.working_grid import GridSettings
    from pd_ddpm.inference.compiled_network import Compiler
    from pd_ddpm.inference.factory import build_segmenter
    from pd_ddpm.inference.precision_gate import Gate
    from pd_ddpm.models.coordinates import num_image_inputs
    from pd_ddpm.models.factory import load_model
    from pd_ddpm.runtime.compilation import is_compiled
    from pd_ddpm.runtime.precision import choose_device

    started = time.perf_counter()
    torch.set_num_threads(job.threads)
    device = choose_device(job.device)
    network, trained = load_model(job.weights, job.network_metadata, kind=job.settings["weights"])
    roles = cases_by_role(job.splits, job.run.split)
    role = "validation" if "validation" in roles else "train"
    cases = roles[role][: job.limits["cases"]]
    scans = [read_scan(job.cases.parent, case) for case in cases]
    grid = GridSettings(**trained["grid"], spatial_dims=trained["settings"]["spatial_dims"])
    compiler = Compiler(
        job.compute.compile, job.compute.batch, num_image_inputs(trained["settings"], trained["image_channels"]), device
    )
    slices_per_case = sum(grid.working_grid(scan.brain, scan.spacing_mm)[1].sum() for scan in scans) / len(scans)
    evaluations = round(job.evaluations_per_slice * slices_per_case * len(roles.get("test", ())))

    def compile_for_sizes(segmenter: Segmenter, sizes: Collection[Size]) -> dict[Size, int]:
        # The few images of a test must all go through the compiled network.
        return compiler.compile(segmenter, dict.fromkeys(sizes, evaluations // len(sizes)), smallest_share=0)

    gate = Gate(
        lambda model: build_segmenter(job.settings, model),
        grid,
        device,
        num_slices=job.limits["slices"],
        forward_error=job.limits["forward_error"],
        flipped_share=job.limits["flipped_share"],
        precision=job.compute.precision,
        compile=compile_for_sizes if is_compiled(job.compute.compile, device) else None,
    )
    results = gate.test(network, scans)
    metadata |= {"cases": cases, "role": role, "seconds": time.perf_counter() - started}
    return {"device": device.type, "formats": results} | metadata
