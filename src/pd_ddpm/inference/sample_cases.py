"""Sample the cases of one job, one after the other. Cases that are already complete on disk are kept."""

import time
from dataclasses import asdict, dataclass
from typing import Any

import torch

from pd_ddpm.config.resolve import base_name
from pd_ddpm.config.run import Run
from pd_ddpm.data.prepared import read_scan
from pd_ddpm.data.working_grid import GridSettings
from pd_ddpm.diffusion.noise import MethodNoise
from pd_ddpm.diffusion.reliability import Reliability
from pd_ddpm.inference.cost import Cost
from pd_ddpm.inference.factory import build_segmenter
from pd_ddpm.inference.job import SampleJob
from pd_ddpm.inference.precision_gate import gated_precision
from pd_ddpm.inference.prediction_store import PredictionFolder, Presegmentations, sampling_seconds
from pd_ddpm.inference.segment_case import segment_case
from pd_ddpm.inference.segmenters import Segmenter
from pd_ddpm.models.factory import load_model
from pd_ddpm.runtime.files import file_sha256, fingerprint
from pd_ddpm.runtime.memory import explain_memory_shortage
from pd_ddpm.runtime.precision import Precision, choose_device, device_name, prepare_for_inference
from pd_ddpm.runtime.progress import progress
from pd_ddpm.runtime.run_record import run_record
from pd_ddpm.runtime.sealed import read_sealed_json

_KEPT = "Finished cases are kept, and a lower batch changes no result"


@dataclass(frozen=True)
class CaseSampler:
    """A method with its trained network on the device, ready to sample the cases of a job.

    Attributes:
        job: the job.
        segmenter: the method's segmenter.
        noise: noise of the method.
        grid: the grid on which the network was trained, and whether members are made binary on it.
        store: the folder of the predictions.
        presegmentations: masks from which the reverse chains start, if they start from masks.
        device: device of the network.
        precision: precision of the network.
    """

    job: SampleJob
    segmenter: Segmenter
    noise: MethodNoise
    grid: GridSettings
    store: PredictionFolder
    presegmentations: Presegmentations | None
    device: torch.device
    precision: Precision

    def sample(self, case: str) -> dict[str, Any]:
        """Return the record of a case; sample the case first unless it is complete on disk.

        Raises:
            MemoryShortageError: the memory does not suffice for the batch.
            DiskFullError: the disk is full.
        """
        record = self.store.read_record(case)
        if record is not None:
            return record
        started = time.perf_counter()
        scan, starts = read_scan(self.job.cases.parent, case), self.presegmentations
        batch = self.job.compute.batch
        with explain_memory_shortage(f"{self.job.run.name}, case {case}", {"sampling.batch": batch}, self.precision, _KEPT):
            presegmentation = starts and starts.read(case, scan.brain.shape, self.segmenter.num_members)
            result = segment_case(
                self.segmenter,
                scan,
                self.grid,
                noise=self.noise,
                batch=batch,
                device=self.device,
                presegmentation=presegmentation,
            )
        cost = Cost.from_times(self.segmenter, result.seconds, time.perf_counter() - started)
        cost += starts.cost(case) if starts else Cost()
        return self.store.write(case, result.samples, self.job.settings.get("samples", 1), scan.reference, cost)


def sample_cases(job: SampleJob) -> dict[str, Any]:
    """Sample the test cases of the job's shard.

    Returns:
        A record of the job: the fingerprint of the predictions as "stamp", the "cases", and the metadata of the "method".
    """
    torch.set_num_threads(job.compute.threads)
    device = choose_device(job.compute.device)
    verdict = read_sealed_json(job.gate) if job.gate else None
    choice = gated_precision(job.compute.precision, device, verdict)
    network, trained = load_model(job.weights, job.network_metadata, job.settings["checkpoint"], job.settings["weights"])
    presegmentations = Presegmentations.from_settings(job.settings, job.presegmentation)
    reliability = _read_reliability(job)

    fingerprint_inputs = [file_sha256(job.cases), presegmentations and presegmentations.version()]
    noise = MethodNoise(base_name(job.run.name), job.run.seed)
    identity = [job.settings, asdict(noise), job.code, trained["sha256"], trained["grid"], fingerprint_inputs]
    identity += [asdict(reliability)] if reliability else []
    version = fingerprint([*identity, str(choice.precision), device.type])
    sampler = CaseSampler(
        job=job,
        segmenter=build_segmenter(job.settings, prepare_for_inference(network, device, choice.precision), reliability),
        noise=noise,
        grid=GridSettings(**trained["grid"], members=job.settings["grid_members"]),
        store=PredictionFolder(job.folder, version),
        presegmentations=presegmentations,
        device=device,
        precision=choice.precision,
    )
    cases = job.shard.select(job.test_cases())
    seconds = sampling_seconds([sampler.sample(case) for case in progress(cases, job.title)], presegmentations)
    method = {
        "method": job.run.name,
        "settings": job.settings,
        "split": job.run.split,
        "seed": job.run.seed,
        "threads": job.compute.threads,
        "network": Run.parse(job.weights).name,
        "generator": trained.get("generator", {}) if job.settings["checkpoint"] == "selected" else {},
        "network_sha256": trained["sha256"][job.weights.name],
        "presegmentation": job.presegmentation and Run.parse(job.presegmentation).name,
        "reliability": reliability and asdict(reliability),
        "device_type": device.type,
        "precision_because": choice.reason,
    }
    method |= run_record(
        job.config,
        job.code,
        seed=job.run.seed,
        device=device_name(device),
        precision=choice.precision,
        seconds=seconds,
        made_from=[job.network_metadata, job.presegmentation],
    )
    return {"stamp": version, "cases": cases, "method": method}


def _read_reliability(job: SampleJob) -> Reliability | None:
    """Return the reliability of the pre-segmentation, if the job uses it."""
    if job.reliability is None:
        return None
    record = read_sealed_json(job.reliability)
    return Reliability(record["sensitivity"], record["specificity"])
