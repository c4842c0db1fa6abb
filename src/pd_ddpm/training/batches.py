"""Batches and random numbers of training steps. On a GPU, those of the next step are made while one runs."""

from typing import NamedTuple, Protocol

import numpy as np
import torch

from pd_ddpm.diffusion.noise import stream
from pd_ddpm.training.device_slices import DeviceSlices, fitting_device_slices
from pd_ddpm.training.patches import Batch, TrainingSlices
from pd_ddpm.training.settings import TrainingSettings
from pd_ddpm.training.step_random import DeviceRandom


class StepInputs(NamedTuple):
    """What a training step computes with, apart from the weights.

    Attributes:
        batch: its patches, on the training's device.
        rng: generator of its further random numbers.
        torch_seed: seed of PyTorch's global generators, which dropout uses.
    """

    batch: Batch
    rng: np.random.Generator
    torch_seed: int


class BatchSource(Protocol):
    """Source of the inputs of training steps."""

    def take(self, step: int) -> StepInputs:
        """Return the inputs of a step."""
        ...

    def prepare(self, step: int) -> None:
        """Make the inputs of a step ahead, if that saves time."""
        ...


def step_generator(seed: int, step: int) -> tuple[int, np.random.Generator]:
    """Return the seed of PyTorch's global generators, and the generator of all else in a step.

    Args:
        seed: seed of the training.
        step: number of the step.
    """
    rng = stream("train", seed, step)
    return int(rng.integers(2**31)), rng


class HostBatches:
    """Batches that are cut on the CPU when their step begins.

    Args:
        slices: the training slices.
        settings: batch and patches.
        seed: seed of the training.
        device: where the step computes.
    """

    def __init__(self, slices: TrainingSlices, settings: TrainingSettings, seed: int, device: torch.device):
        self.slices, self.settings, self.seed, self.device = slices, settings, seed, device

    def take(self, step: int) -> StepInputs:
        """Return the inputs of a step."""
        torch_seed, rng = step_generator(self.seed, step)
        batch = self.slices.sample_batch(rng, self.settings.batch, self.settings.patches)
        return StepInputs(batch.to(self.device), rng, torch_seed)

    def prepare(self, step: int) -> None:
        """Do nothing: on a CPU the step would have to wait for it."""


class DeviceBatches:
    """Batches that are made on a GPU ahead of their step, in a queue of its own. They hold the same patches as on a CPU.

    The CPU only chooses positions, and copies batches if the slices do not fit into the GPU's memory. It does so while the GPU
    runs the step before.

    Args:
        slices: the training slices.
        held: the same slices in the device's memory; None: batches are cut on the CPU.
        settings: batch and patches.
        seed: seed of the training.
        device: where the step computes.
    """

    def __init__(
        self,
        slices: TrainingSlices,
        held: DeviceSlices | None,
        settings: TrainingSettings,
        seed: int,
        device: torch.device,
    ):
        self.slices, self.held, self.settings, self.seed, self.device = slices, held, settings, seed, device
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._ready: tuple[int, StepInputs] | None = None
        if self.stream is not None:
            self.stream.wait_stream(torch.cuda.current_stream(device))  # which copies the slices to the device

    def take(self, step: int) -> StepInputs:
        """Return the inputs of a step. The present queue of the GPU waits until the batch is made."""
        if self._ready is None or self._ready[0] != step:
            self.prepare(step)
        (_, inputs), self._ready = self._ready, None
        if self.stream is not None:
            present = torch.cuda.current_stream(self.device)
            present.wait_stream(self.stream)
            for part in inputs.batch:
                if part is not None:
                    part.record_stream(present)
        return inputs

    def prepare(self, step: int) -> None:
        """Make the inputs of a step."""
        torch_seed, rng = step_generator(self.seed, step)
        windows = self.slices.sample_windows(rng, self.settings.batch, self.settings.patches)
        with torch.cuda.stream(self.stream):
            if self.held is not None:
                batch = self.held.cut(windows, self.settings.patches)
            else:
                batch = self.slices.cut(windows, self.settings.patches).to(self.device)
        self._ready = step, StepInputs(batch, DeviceRandom(rng, torch_seed, self.device), torch_seed)


def make_batches(slices: TrainingSlices, settings: TrainingSettings, seed: int, device: torch.device) -> BatchSource:
    """Return the source of batches that suits the device. On a GPU, log where the slices are kept.

    Args:
        slices: the training slices.
        settings: batch and patches.
        seed: seed of the training.
        device: where the steps compute.
    """
    if device.type != "cuda":
        return HostBatches(slices, settings, seed, device)
    free, _ = torch.cuda.mem_get_info(device)
    return DeviceBatches(slices, fitting_device_slices(slices, device, free), settings, seed, device)
