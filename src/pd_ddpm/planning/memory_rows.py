"""Memory, time and FLOPs of training and sampling volumes of several sizes: measured if quick, else on the device meta.

The peak that is measured is that of PyTorch's allocator on this device, with the workspace of operations. The peak that is
counted on the device meta has no workspace, see `activation_memory`.
"""

import gc
import json
import math
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from operator import itemgetter
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch.profiler import ProfilerActivity, profile

from pd_ddpm.diffusion.denoiser import Denoiser
from pd_ddpm.models.coordinates import num_image_inputs
from pd_ddpm.models.factory import build_model
from pd_ddpm.planning import flops
from pd_ddpm.planning.activation_memory import Step, sampling_step, training_step
from pd_ddpm.runtime.files import fingerprint
from pd_ddpm.runtime.memory import available_memory, is_shortage
from pd_ddpm.runtime.precision import (
    FLOAT32,
    PRECISIONS,
    Precision,
    device_name,
    precisions_by_speed,
    prepare_for_inference,
    set_matmul_precision,
)
from pd_ddpm.runtime.progress import log, progress
from pd_ddpm.training.factory import build_objective

MEASURED, META = "measured", "meta"
TRAINING, SAMPLING = "training", "sampling"
SAFETY = 2  # a step is measured if this times its counted memory is free; the rest is for the workspace of operations
REPEATED_SECONDS = 1.0  # shorter steps are repeated for so long
PROBED_SIZE = (64, 16, 16, 16)  # channels and voxels of the convolution that tells the speed of a device before the first step


@dataclass(frozen=True)
class MemoryTask:
    """A step whose memory, time and FLOPs are needed.

    Attributes:
        settings: resolved settings of the denoiser.
        image_channels: channels of the image, without coordinates.
        phase: `TRAINING` or `SAMPLING`.
        batch: patches of a training step.
        edge: edge of the cubic input, in voxels; it is padded to the multiple that the network needs.
        precision: precision of the weights and activations.
    """

    settings: Mapping[str, Any]
    image_channels: int
    phase: str
    batch: int
    edge: int
    precision: Precision

    def model(self, device: torch.device) -> Denoiser:
        """Return the untrained denoiser on a device."""
        with device:
            model = build_model(self.settings, self.image_channels)
        return prepare_for_inference(model, device, self.precision)

    @property
    def image_inputs(self) -> int:
        """Channels of the network's image, with coordinates."""
        return num_image_inputs(self.settings, self.image_channels)

    def size(self, divisor: int) -> tuple[int, ...]:
        """Return the padded size of the input."""
        return (self.edge + -self.edge % divisor,) * self.settings["spatial_dims"]

    def step(self, device: torch.device) -> Step:
        """Return the step on a device."""
        model = self.model(device)
        size = self.size(model.divisor)
        if self.phase == SAMPLING:
            return sampling_step(model, self.image_inputs, size)
        phase, *_ = self._objective().phases(model)
        return training_step(model, phase, self.image_inputs, (self.batch, size))

    def key(self) -> str:
        """Return a name that tasks of equal steps share."""
        size = self.size(self.model(flops.META).divisor)
        return fingerprint([self.settings, self.image_channels, self.phase, self.batch, size, str(self.precision)])

    def _objective(self) -> Any:
        return build_objective({**self.settings, "presegmented_share": 0.0})


@dataclass(frozen=True)
class Measurement:
    """The peak of the memory that PyTorch allocates during a step, and the seconds of a training step or an evaluation."""

    peak_bytes: int
    seconds: float


def memory_rows(table: Mapping[str, Any], networks: Mapping[str, Mapping[str, Any]], device: torch.device) -> pd.DataFrame:
    """Return memory, time and FLOPs of each kind of training and sampling, for volumes of each size.

    Args:
        table: section `exhibits.memory` of the configuration.
        networks: resolved settings of the networks that its rows name.
        device: where steps are measured.

    Returns:
        One row per kind (`label`), `edge` of the volume, `phase` and `precision`: the padded edge of the network's input
        (`input_edge`), `batch`, `parameters`, `tflop`, the counted memory (`counted_gb`), the measured one or else the counted
        one (`peak_gb`), its `source`, `seconds` (NaN if not measured), and the `device` that measured it.
    """
    probed, rates, results = _probed_rate(device), {}, {}
    rows, tasks = [], list(_tasks(table, networks, device))
    for kind, edge, task in progress(tasks, "memory", total=len(tasks)):
        if (key := task.key()) not in results:
            results[key] = _result(task, device, rates.get(task.precision, probed) * table["measured_seconds"])
            if results[key]["seconds"] > REPEATED_SECONDS:
                rates[task.precision] = 1e12 * results[key]["tflop"] / results[key]["seconds"]
        rows.append({"label": kind["label"], "network": kind["network"], "phase": task.phase, "edge": edge, **results[key]})
    return pd.DataFrame(rows)


def _result(task: MemoryTask, device: torch.device, most_flops: float) -> dict[str, Any]:
    """Return the columns of a task, measured if it has at most this number of FLOPs."""
    model, counted = task.model(flops.META), task.step(flops.META).count()
    measurement = _measured(task, counted.peak_bytes, device) if counted.flops <= most_flops else None
    return {
        "input_edge": task.size(model.divisor)[0],
        "batch": task.batch,
        "precision": str(task.precision),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "tflop": counted.flops / 1e12,
        "counted_gb": counted.peak_bytes / 1e9,
        "peak_gb": (measurement.peak_bytes if measurement else counted.peak_bytes) / 1e9,
        "source": MEASURED if measurement else META,
        "seconds": measurement.seconds if measurement else math.nan,
        "device": device_name(device) if measurement else "",
    }


def half_precision(device: torch.device) -> Precision:
    """Return the fastest precision of a device with two bytes a number; float16 if it has none."""
    return next((precision for precision in precisions_by_speed(device) if precision.is_half), PRECISIONS["float16"])


def _tasks(
    table: Mapping[str, Any], networks: Mapping[str, Mapping[str, Any]], device: torch.device
) -> Iterator[tuple[Mapping[str, Any], int, MemoryTask]]:
    """Yield each kind, edge of the volume and task, the quickest ones of a kind first."""
    for kind in table["rows"]:
        settings = networks[kind["network"]]
        for edge in table["edges"]:
            for phase, share, precision in (
                (TRAINING, kind["trained_share"], FLOAT32),
                (SAMPLING, kind["sampled_share"], FLOAT32),
                (SAMPLING, kind["sampled_share"], half_precision(device)),
            ):
                if share is None:
                    continue
                batch = table["batch"] if phase == TRAINING else 1
                yield kind, edge, MemoryTask(settings, table["image_channels"], phase, batch, round(share * edge), precision)


def _measured(task: MemoryTask, counted: int, device: torch.device) -> Measurement | None:
    """Return the measurement of a task; None if the device lacks the precision or has too little memory."""
    gc.collect()
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else available_memory()
    if task.precision not in precisions_by_speed(device) or SAFETY * counted > free:
        return None
    set_matmul_precision(task.precision)
    try:
        step = task.step(device)
        return _measured_on_gpu(step) if device.type == "cuda" else _measured_on_cpu(step)
    except (RuntimeError, MemoryError) as error:
        if not is_shortage(error):
            raise
        log.info("%s of %d voxels an edge does not fit: counted only", task.phase, task.edge)
        return None


def _measured_on_gpu(step: Step) -> Measurement:
    step.run()
    torch.cuda.reset_peak_memory_stats(step.device)
    seconds = _seconds(step)
    return Measurement(torch.cuda.max_memory_allocated(step.device), seconds)


def _measured_on_cpu(step: Step) -> Measurement:
    """Measure a step with PyTorch's profiler, which records what the allocator hands out."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # or the profiler prints its start and its stop
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        started = time.perf_counter()
        step.run()
        seconds = time.perf_counter() - started
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder, "trace.json")
        recorded.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]
    changes = [(event["ts"], event["args"]["Bytes"]) for event in events if event.get("name") == "[memory]"]
    growth = max(accumulate(num_bytes for _, num_bytes in sorted(changes, key=itemgetter(0))))
    if seconds < REPEATED_SECONDS:
        seconds = _seconds(step)
    return Measurement(step.held_bytes() + growth, seconds)


def _seconds(step: Step) -> float:
    """Return the mean seconds of a run of a step, which is repeated for at least `REPEATED_SECONDS`."""
    started, runs = time.perf_counter(), 0
    while not runs or time.perf_counter() - started < REPEATED_SECONDS:
        step.run()
        if step.device.type == "cuda":
            torch.cuda.synchronize(step.device)
        runs += 1
    return (time.perf_counter() - started) / runs


def _probed_rate(device: torch.device) -> float:
    """Return the FLOP/s of a convolution on a device, by which the first step is expected to run."""
    channels = PROBED_SIZE[0]
    convolution = torch.nn.Conv3d(channels, channels, 3, padding=1).to(device)
    image = torch.zeros((1, *PROBED_SIZE), device=device)
    operations = 2 * 27 * channels * image.numel()
    with torch.inference_mode():
        return flops.measured_rate(lambda _: convolution(image), operations, 1, device, 0.2)
