"""Sample the cases of one job, one after the other. Cases that are already complete on disk are kept."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from pd_ddpm.config.resolve import base_name
from pd_ddpm.config.run import Run
from pd_ddpm.data.prepared import read_scan
from pd_ddpm.data.scan import Scan
from pd_ddpm.data.working_grid import GridSettings
from pd_ddpm.diffusion.noise import MethodNoise
from pd_ddpm.diffusion.reliability import Reliability
from pd_ddpm.inference.compiled_network import Compiler, Size
from pd_ddpm.inference.cost import Cost
from pd_ddpm.inference.factory import build_segmenter
from pd_ddpm.inference.job import SampleJob
from pd_ddpm.inference.precision_gate import gated_precision, tested_batches
from pd_ddpm.inference.prediction_store import PredictionFolder, Presegmentations, read_samples, sampling_seconds
from pd_ddpm.inference.segment_case import segment_case
from pd_ddpm.inference.segmenters import Segmenter
from pd_ddpm.models.coordinates import num_image_inputs
from pd_ddpm.models.factory import load_model
from pd_ddpm.runtime.compilation import is_compiled
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
        """Return the record of a case; sample the members first that are missing on disk.

        A smaller ensemble has the first members of a larger one, because every member has its own noise.

        Raises:
            MemoryShortageError: the memory does not suffice for the batch.
            DiskFullError: the disk is full.
        """
        num_samples, num_members = self.job.settings.get("samples", 1), self.segmenter.num_members
        record = self.store.read_record(case)
        if record is not None and (record["samples"], record["pool"]) == (num_samples, num_members):
            return record
        scan = read_scan(self.job.cases.parent, case)
        if record is None:
            members, cost = self._sample_members(scan, 0)
            return self.store.write(case, members, num_samples, scan.reference, cost)
        members = read_samples(self.store.folder, case, len(self.store.labels))[:, :, :, :num_members]
        cost = Cost.from_record(record)
        if record["pool"] < num_members:
            further, further_cost = self._sample_members(scan, record["pool"])
            members = np.concatenate([members, further], axis=3)
            cost = cost.extended(record["pool"], further_cost, num_members - record["pool"])
        return self.store.write(case, members, num_samples, scan.reference, cost)

    def compile(self, cases: Sequence[str], image_channels: int, verdict: Mapping[str, Any] | None) -> None:
        """Compile the network for the images of these cases, if it passed the test compiled and if that pays.

        Args:
            cases: the cases of the job; those that are complete on disk do not count.
            image_channels: channels of the network's images, coordinate channels included.
            verdict: result of rule `gate`; None if nothing was tested.
        """
        cached = tested_batches(self.precision, verdict)
        if cached is None:
            return
        segmenter, evaluations = self.segmenter, Counter[Size]()
        for case in cases:
            record = self.store.read_record(case)
            missing = segmenter.num_members - (record["pool"] if record else 0)
            if missing > 0:
                scan = read_scan(self.job.cases.parent, case)
                grid, has_brain = self.grid.working_grid(scan.brain, scan.spacing_mm)
                size = tuple(length + -length % segmenter.divisor for length in grid.size)
                evaluations[size] += int(has_brain.sum()) * missing * segmenter.evaluations_per_member
        with self._explain_memory_shortage("a test of the batch"):
            compiler = Compiler(self.job.compute.compile, self.job.compute.batch, image_channels, self.device)
            compiler.compile(segmenter, evaluations, cached)

    def _explain_memory_shortage(self, task: str) -> AbstractContextManager[None]:
        keys = {"sampling.batch": self.job.compute.batch}
        return explain_memory_shortage(f"{self.job.run.name}, {task}", keys, self.precision, _KEPT)

    def _sample_members(self, scan: Scan, first: int) -> tuple[np.ndarray, Cost]:
        """Sample the members of a case from number `first` on, and return them with their cost."""
        started = time.perf_counter()
        segmenter = replace(self.segmenter, num_members=self.segmenter.num_members - first)
        starts = self.presegmentations
        with self._explain_memory_shortage(f"case {scan.case}"):
            presegmentation = starts and starts.read(scan.case, scan.brain.shape, self.segmenter.num_members)
            if presegmentation is not None and presegmentation.shape[3] > 1:
                presegmentation = presegmentation[:, :, :, first:]
            result = segment_case(
                segmenter,
                scan,
                self.grid,
                noise=replace(self.noise, first_member=first),
                batch=self.job.compute.batch,
                device=self.device,
                presegmentation=presegmentation,
            )
        cost = Cost.from_times(segmenter, result.seconds, time.perf_counter() - started)
        return result.samples, cost + (starts.cost(scan.case) if starts else Cost())


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
    labels = tuple(trained["settings"].get("labels", ()))
    presegmentations = Presegmentations.from_settings(job.settings, job.presegmentation, len(labels))
    reliability = _read_reliability(job)

    fingerprint_inputs = [file_sha256(job.cases), presegmentations and presegmentations.version()]
    noise = MethodNoise(base_name(job.run.name), job.run.seed)
    settings = {key: value for key, value in job.settings.items() if key not in ("samples", "pool")}
    identity = [settings, asdict(noise), job.code, trained["sha256"], trained["grid"], fingerprint_inputs]
    identity += [asdict(reliability)] if reliability else []
    version = fingerprint([*identity, str(choice.precision), device.type])
    sampler = CaseSampler(
        job=job,
        segmenter=build_segmenter(job.settings, prepare_for_inference(network, device, choice.precision), reliability),
        noise=noise,
        grid=GridSettings(
            **trained["grid"],
            members=job.settings["grid_members"],
            spatial_dims=trained["settings"]["spatial_dims"],
            start_from_same_grid=job.settings.get("start_from_same_grid", True),
        ),
        store=PredictionFolder(job.folder, version, labels),
        presegmentations=presegmentations,
        device=device,
        precision=choice.precision,
    )
    cases = job.shard.select(job.test_cases())
    if is_compiled(job.compute.compile, device):
        sampler.compile(cases, num_image_inputs(trained["settings"], trained["image_channels"]), verdict)
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
    method |= {"labels": labels} if labels else {}
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
