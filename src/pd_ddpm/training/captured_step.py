"""A training step whose kernels a GPU runs as one CUDA graph, so that it does not wait for each launch.

The CPU needs longer to launch the thousands of kernels of a step than the GPU needs to run them. A graph is recorded once. All
that changes between steps lies in tensors that stay where they are: batch, random numbers, learning rate, weight of the EMA.

Reference: docs.pytorch.org, "CUDA semantics", section "CUDA Graphs", whole-network capture.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor

from pd_ddpm.runtime.backend import Backend
from pd_ddpm.runtime.memory import is_shortage
from pd_ddpm.runtime.progress import log
from pd_ddpm.training.batches import StepInputs
from pd_ddpm.training.objectives.base import Phase
from pd_ddpm.training.patches import Batch
from pd_ddpm.training.step_random import ChangingStepError, ReplayedRandom

# PyTorch's documentation has three: lazy initialisation, autotuning and compiling must end before the recording.
_WARM_UP_STEPS = 3

# Batch, random numbers, learning rate and weight of the EMA -> values by name. It also changes weights and moments.
StaticStep = Callable[[Batch, ReplayedRandom, Tensor, Tensor], dict[str, Tensor]]


class RecordingError(RuntimeError):
    """Raised if a GPU cannot record a step. Weights and moments are those from before the step."""


class StepGraph(Protocol):
    """Runs, records and replays the kernels of a function."""

    def warm_up(self, function: Callable[[], None]) -> None:
        """Run a function as it will be recorded."""
        ...

    def record(self, function: Callable[[], None]) -> None:
        """Record the kernels of a function without running them."""
        ...

    def replay(self) -> None:
        """Run the recorded kernels."""
        ...


class CudaStepGraph:
    """A CUDA graph on a stream of its own. Gradients remember the stream of the first steps, so these use it too."""

    def __init__(self, device: torch.device):
        self.device = device
        self.stream = torch.cuda.Stream(device)
        self.graph = torch.cuda.CUDAGraph()

    def warm_up(self, function: Callable[[], None]) -> None:
        """Run a function on the stream of the graph. See `StepGraph.warm_up`."""
        present = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(present)
        with torch.cuda.stream(self.stream):
            function()
        present.wait_stream(self.stream)

    def record(self, function: Callable[[], None]) -> None:
        """Record the kernels of a function. See `StepGraph.record`."""
        with torch.cuda.graph(self.graph, stream=self.stream):
            function()

    def replay(self) -> None:
        """Run the graph on the present stream. See `StepGraph.replay`."""
        self.graph.replay()


class CapturedStep:
    """A training step that runs as usual a few times, and is then recorded and replayed.

    Args:
        step: the step, which must do the same with tensors of the same shapes each time, and wait for no value.
        graph: records and replays it.
        device: where it computes.
    """

    def __init__(self, step: StaticStep, graph: StepGraph, device: torch.device):
        self.step, self.graph, self.device = step, graph, device
        self.random = ReplayedRandom()
        self.num_warm_up = 0
        self.is_recorded = False
        self._batch: Batch | None = None
        self._numbers = torch.zeros(2, device=device)
        self._names: list[str] = []
        self._values: Tensor | None = None

    def run(self, inputs: StepInputs, learning_rate: float, ema_weight: float) -> dict[str, Tensor]:
        """Run one step. Return its values by name, on the device.

        Args:
            inputs: its batch and random numbers.
            learning_rate: its learning rate.
            ema_weight: 1 - decay of the EMA.

        Raises:
            ChangingStepError: its loss draws other random numbers than before.
            RecordingError: it cannot be recorded.
        """
        self._load(inputs, [learning_rate, ema_weight])
        if self.num_warm_up < _WARM_UP_STEPS:
            self.graph.warm_up(self._run_step)
            self.num_warm_up += 1
        else:
            if not self.is_recorded:
                self._record()
            self.graph.replay()
        return dict(zip(self._names, self._values.clone(), strict=True))

    def _record(self) -> None:
        try:
            self.graph.record(self._run_step)
        except RuntimeError as error:
            if is_shortage(error) or isinstance(error, ChangingStepError):
                raise
            raise RecordingError(str(error).strip().split("\n")[0]) from error
        self.is_recorded = True
        log.info("the training step is recorded as a CUDA graph")

    def _load(self, inputs: StepInputs, numbers: Sequence[float]) -> None:
        """Copy what a step computes with to the places where the graph reads it."""
        if self._batch is None:
            self._batch = Batch(*(part if part is None else part.clone() for part in inputs.batch))
        else:
            for place, part in zip(self._batch, inputs.batch, strict=True):
                if place is not None:
                    place.copy_(part)
        for place, number in zip(self._numbers, numbers, strict=True):
            place.fill_(number)
        self.random.renew(inputs.rng)

    def _run_step(self) -> None:
        """Run the step on what was loaded, and copy its values to where they are read."""
        self.random.rewind()
        values = self.step(self._batch, self.random, *self._numbers)
        stacked = torch.stack(list(values.values()))
        if self._values is None:
            self._names, self._values = list(values), torch.empty_like(stacked)
        self._values.copy_(stacked)


def make_captured_step(
    step: StaticStep, phases: Sequence[Phase], backend: Backend, is_divided: bool = False
) -> CapturedStep | None:
    """Return a step to be recorded on a GPU; None on a CPU, and, with the reason in the log, if it changes between steps.

    Args:
        step: the step.
        phases: its phases.
        backend: device and precision.
        is_divided: whether the network processes batches in parts, whose activations are computed again.
    """
    if backend.device.type != "cuda":
        return None
    reason = None
    if len(phases) > 1:
        reason = "it has several optimisers"
    elif is_divided:
        reason = "its batch is divided (`micro_batch`)"
    elif phases[0].needs_progress:
        reason = "its loss changes with the number of the step"
    elif backend.precision.dtype == torch.float16:
        reason = "the scale of float16 gradients changes between steps"
    if reason is None:
        return CapturedStep(step, CudaStepGraph(backend.device), backend.device)
    log.info("the training step is not recorded as a CUDA graph: %s. Its kernels are launched one by one.", reason)
    return None


@contextmanager
def read_rate_from_tensor(optimiser: torch.optim.Optimizer, rate: Tensor) -> Iterator[None]:
    """Let Adam read its learning rate from a tensor, and allow its recording. Saved states still hold a plain number."""
    before = [dict(group) for group in optimiser.param_groups]
    is_recording = torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()
    for group in optimiser.param_groups:
        group |= {"lr": rate, "capturable": is_recording}
    try:
        yield
    finally:
        for group, old in zip(optimiser.param_groups, before, strict=True):
            group |= {"lr": old["lr"], "capturable": old["capturable"]}
