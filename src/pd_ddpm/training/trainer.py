"""The training loop: fits any network to any objective, and resumes after a kill.

All random numbers of step n come from generators named (seed, n). The state of a training is therefore its weights, its
optimisers and its step. On the same CPU a run that was killed and resumed equals an unbroken one bit for bit. On a GPU it sees
the same batches, timesteps, noise and dropout, but sums may be rounded differently.
"""

import copy
import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pd_ddpm.models import weights
from pd_ddpm.runtime.backend import Backend
from pd_ddpm.runtime.files import lock_folder, remove_partial_files, write_json
from pd_ddpm.runtime.memory import explain_memory_shortage
from pd_ddpm.runtime.precision import move_model
from pd_ddpm.runtime.progress import log, progress
from pd_ddpm.training import saved_state
from pd_ddpm.training.batches import make_batches, step_generator
from pd_ddpm.training.captured_step import RecordingError, make_captured_step, read_rate_from_tensor
from pd_ddpm.training.compiled_network import compile_network, restore_network, uncompiled
from pd_ddpm.training.early_checkpoints import load_early_checkpoints, save_record
from pd_ddpm.training.errors import NonFiniteError, TrainingError
from pd_ddpm.training.interruption import Interrupted, handle_sigterm
from pd_ddpm.training.micro_batches import divide_batches
from pd_ddpm.training.objectives.base import Objective, Phase
from pd_ddpm.training.patches import Batch, TrainingSlices
from pd_ddpm.training.result import EarlyCheckpoint, TrainingResult
from pd_ddpm.training.resume import ChangedTraining, TrainingStates
from pd_ddpm.training.settings import TrainingSettings
from pd_ddpm.training.step_random import ChangingStepError, ReplayedRandom
from pd_ddpm.training.validator import SCORE, Validator

_MAX_LISTED = 12  # slices of a batch in an error message

# Steps that a GPU is given before their losses are collected, since each collection waits until it has done them all.
_GPU_STEPS_AHEAD = 10


@dataclass
class _Progress:
    """How far a training is, as its saved state holds it.

    losses: since the last validation. records: (step, Dice) of each validation that was the best so far. best: the checkpoint
    of the last record, with both weights.
    """

    step: int = 0
    seconds: float = 0.0
    losses: dict[str, list[float]] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)
    records: list[tuple[int, float]] = field(default_factory=list)
    best: dict[str, Tensor] = field(default_factory=dict)


class Trainer:
    """Trains one network on one set of cases.

    Args:
        model: the network, which is moved to the backend's device and trained in place.
        objective: its phases are minimised.
        slices: the training cases.
        settings: steps, optimisation, validation.
        seed: names the random generator of each step.
        backend: device and precision.
        validator: None if there are no validation cases. The last weights are then selected.
    """

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        slices: TrainingSlices,
        settings: TrainingSettings,
        seed: int,
        backend: Backend,
        validator: Validator | None = None,
    ):
        self.model = move_model(model, backend.device, backend.precision)
        self.average = copy.deepcopy(model).requires_grad_(False)
        divide_batches(self.model, settings.micro_batch)
        self.slices = slices
        self.settings = settings
        self.seed = seed
        self.backend = backend
        self.validator = validator
        self.phases = objective.phases(model)
        self.objective_parts = objective.saved_parts()
        self.collect_every = _GPU_STEPS_AHEAD if backend.device.type == "cuda" else 1
        self.pending_losses: dict[int, dict[str, Tensor]] = {}  # by step; on the device
        optimiser = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[settings.optimiser]
        self.optimisers = {
            phase.name: optimiser(phase.parameters, betas=phase.betas, weight_decay=settings.weight_decay, fused=True)
            for phase in self.phases
            if phase.optimiser is None
        }
        self.batches = make_batches(slices, settings, seed, backend.device)
        self.scaler = torch.amp.GradScaler(backend.device.type, enabled=backend.precision.dtype == torch.float16)
        is_divided = settings.micro_batch is not None
        self.captured = make_captured_step(self._static_step, self.phases, backend, is_divided)
        self.progress = _Progress()

    @property
    def eval_model(self) -> nn.Module:
        """The model with the weights that are validated: the moving average or the raw ones."""
        return self.average if self.settings.weights == "ema" else self.model

    def _copy_checkpoint(self) -> dict[str, Tensor]:
        """Copy both weights to the CPU, so that another choice needs no other training."""
        if self.settings.weights == "ema":
            return weights.join_weights(_copy_state(self.average), _copy_state(self.model), "raw")
        return weights.join_weights(_copy_state(self.model), _copy_state(self.average), "ema")

    def fit(
        self,
        states: TrainingStates,
        title: str = "training",
        *,
        save_every_seconds: float = 60.0,
        changed: ChangedTraining = "stop",
    ) -> TrainingResult:
        """Train to the last step, or until the patience ends, resuming from the saved state if there is one.

        The state of the last step is saved too: if the files of the result are lost, the next run has the result at once.
        On SIGTERM the state is saved, and the process ends with a non-zero exit code.

        Args:
            states: where states are saved. One run at a time may use the folder of a training.
            title: name of the training, for messages.
            save_every_seconds: time between two saved states.
            changed: what to do if the folder holds an unfinished training with other settings, data or code.

        Raises:
            TrainingError: if the loss or the weights become NaN or infinite.
            OtherTrainingError: if `changed` is "stop" and there is an unfinished training with another fingerprint.
            CheckpointError: if there are saved states and none can be read.
            BusyError: if another run uses the folder.
            DiskFullError: if a state does not fit on the disk.
            MemoryShortageError: if a step does not fit into the memory.
        """
        with handle_sigterm() as is_interrupted, lock_folder(states.training):
            remove_partial_files(states.folder)
            remove_partial_files(states.folder / "early")
            if not self._resume(states, changed):
                states.begin()
            self.compile(self.settings.steps - self.progress.step)
            if not self._is_patience_over:
                self._run_steps(states, title, save_every_seconds, is_interrupted)
            early = self._load_early_checkpoints(states.folder, title)
        history, records = self.progress.history, self.progress.records
        if self.settings.select == "best" and records:
            return TrainingResult(self.progress.best, records[-1][0], history, early)
        return TrainingResult(self._copy_checkpoint(), self.progress.step, history, early)

    def compile(self, num_steps: int) -> None:
        """Compile the network if the key `compile` allows it for this number of steps, and it is called in one way only.

        Phases that train several parts call the network in too many ways, and so do parts of a batch.
        """
        if len(self.phases) == 1 and self.settings.micro_batch is None:
            compile_network(self.model, self.backend.compile, self.backend.device, num_steps)

    def train_step(self, step: int) -> dict[str, Tensor]:
        """Run a whole step, including the moving average; on a GPU as one graph, if possible, while the next batch is made.

        Nothing here reads a number from the device, which would wait for it: the losses stay there until they are collected.

        Returns:
            The first phase's loss as "loss", and the other values by name.
        """
        values = self._run_captured(step)
        if values is None:
            values = self.run_step(step)
            self._update_ema(step)
        if step < self.settings.steps:
            self.batches.prepare(step + 1)
        return values

    def run_step(self, step: int) -> dict[str, Tensor]:
        """Run all phases of one step on one batch, kernel by kernel. The values are those of `train_step`."""
        inputs = self.batches.take(step)
        torch.manual_seed(inputs.torch_seed)
        self.model.train()
        values = {}
        for phase in self.phases:
            if phase.is_due(step, self.settings.steps):
                phase_values = self._run_phase(phase, inputs.batch, inputs.rng, step)
                if phase is not self.phases[0]:
                    phase_values[_loss_column(phase)] = phase_values.pop("loss")
                values |= phase_values
        return values

    def _run_captured(self, step: int) -> dict[str, Tensor] | None:
        """Run a step as a recorded one; return None if it cannot be. The log says why, once."""
        if self.captured is None:
            return None
        inputs = self.batches.take(step)
        torch.manual_seed(inputs.torch_seed)
        self.model.train()
        try:
            return self.captured.run(inputs, self._learning_rate(self.phases[0], step), 1 - self._ema_decay(step))
        except (ChangingStepError, RecordingError) as error:
            self.captured = None
            level = logging.WARNING if isinstance(error, RecordingError) else logging.INFO
            log.log(level, "the training step is not recorded as a CUDA graph: %s. Its kernels are launched one by one.", error)
            if isinstance(error, ChangingStepError):
                restore_network(self.model)
            return None

    def _static_step(self, batch: Batch, rng: ReplayedRandom, rate: Tensor, ema_weight: Tensor) -> dict[str, Tensor]:
        """Run the only phase and update the moving average, with all that changes between steps in tensors."""
        (phase,) = self.phases
        optimiser = self.optimisers[phase.name]

        def loss(*arguments: Any) -> dict[str, Tensor]:
            values = phase.loss(*arguments)
            rng.check_complete()
            return values

        with read_rate_from_tensor(optimiser, rate):
            values = self._minimise(phase, loss, batch, rng)
        self._move_average(ema_weight)
        return values

    def _run_steps(
        self, states: TrainingStates, title: str, save_every_seconds: float, is_interrupted: Callable[[], bool]
    ) -> None:
        """Run the remaining steps. Raises Interrupted after a SIGTERM."""
        state, last = self.progress, self.settings.steps
        started = time.monotonic() - state.seconds
        saved = time.monotonic()
        for step in progress(range(state.step + 1, last + 1), title, total=last, done=state.step):
            with self._explain_memory_shortage(title, step), self._explain_non_finite(states.folder):
                self.pending_losses[step] = self.train_step(step)
                is_validation = step % self.settings.validate_every == 0 or step == last
                if not is_validation and step % self.collect_every:
                    continue
                self._collect_losses()
                state.step, state.seconds = step, time.monotonic() - started
                if is_validation:
                    self._validate(states.folder, title)
                interrupted, is_over = is_interrupted(), is_validation and self._is_patience_over
                if interrupted or is_over or step == last or time.monotonic() - saved > save_every_seconds:
                    self._save(states)
                    saved = time.monotonic()
            if interrupted:
                raise Interrupted(f"{title}: received SIGTERM. Step {step} of {last} is saved in {states.path}.")
            if is_over:
                log.info("%s: ends at step %d of %d (`patience: %d`)", title, step, last, self.settings.patience)
                return

    @property
    def _is_patience_over(self) -> bool:
        """Whether `patience` validations have followed the best one. The saved state holds all that this depends on."""
        if self.settings.patience is None or not self.progress.records:
            return False
        best_step = self.progress.records[-1][0]
        return sum(row["step"] > best_step for row in self.progress.history) >= self.settings.patience

    def _run_phase(self, phase: Phase, batch: Batch, rng: np.random.Generator, step: int) -> dict[str, Tensor]:
        """Do one optimiser step. Return the loss and the other values of the phase."""
        trained = set(phase.parameters)
        for group in self.optimisers[phase.optimiser or phase.name].param_groups:
            group["lr"] = self._learning_rate(phase, step)
        if len(self.phases) > 1:
            for parameter in self.model.parameters():
                parameter.requires_grad_(parameter in trained)
        return self._minimise(phase, phase.loss_at(step, self.settings.steps), batch, rng)

    def _minimise(
        self, phase: Phase, loss: Callable[..., dict[str, Tensor]], batch: Batch, rng: np.random.Generator | ReplayedRandom
    ) -> dict[str, Tensor]:
        """Do one optimiser step with the present learning rate. Return the loss and the other values of the phase."""
        optimiser = self.optimisers[phase.optimiser or phase.name]
        with self.backend.autocast():
            values = loss(self.model, batch, rng)
        optimiser.zero_grad(set_to_none=True)
        self.scaler.scale(values["loss"]).backward()
        if self.settings.gradient_clip is not None:
            self.scaler.unscale_(optimiser)
            nn.utils.clip_grad_norm_(phase.parameters, self.settings.gradient_clip)
        # The scaler of float16 skips a step whose gradient overflows. Fused Adam skips it on the device. With other optimisers
        # the scaler would wait here until the device knows.
        self.scaler.step(optimiser)
        self.scaler.update()
        return {name: value.detach() for name, value in values.items()}

    def _learning_rate(self, phase: Phase, step: int) -> float:
        return learning_rate(self.settings, step) * phase.learning_rate_factor

    def _ema_decay(self, step: int) -> float:
        """Return the decay of the EMA with warm-up, min(ema_decay, (1 + step) / (10 + step))."""
        return min(self.settings.ema_decay, (1 + step) / (10 + step))

    @torch.no_grad()
    def _update_ema(self, step: int) -> None:
        """Update the EMA weights."""
        self._move_average(1 - self._ema_decay(step))

    @torch.no_grad()
    def _move_average(self, weight: float | Tensor) -> None:
        """Move the EMA weights towards the model's by this share of the difference, and copy the buffers."""
        averages, parameters = list(self.average.parameters()), list(self.model.parameters())
        if isinstance(weight, Tensor):  # lerp takes one tensor of weights per parameter, which would be a kernel for each
            differences = torch._foreach_sub(parameters, averages)
            torch._foreach_mul_(differences, weight)
            torch._foreach_add_(averages, differences)
        else:
            torch._foreach_lerp_(averages, parameters, weight)
        if buffers := list(self.average.buffers()):
            torch._foreach_copy_(buffers, list(self.model.buffers()))

    def _collect_losses(self) -> None:
        """Fetch all pending losses from the device at once. Raises NonFiniteError at the first that is NaN or infinite."""
        phase_of_column = {"loss": self.phases[0].name} | {_loss_column(phase): phase.name for phase in self.phases[1:]}
        columns = [(step, column) for step, values in self.pending_losses.items() for column in values]
        numbers = torch.stack([value for values in self.pending_losses.values() for value in values.values()]).tolist()
        self.pending_losses = {}
        for (step, column), number in zip(columns, numbers, strict=True):
            if column in phase_of_column and not math.isfinite(number):
                raise NonFiniteError(f"the {phase_of_column[column]} loss is {number}", step)
            self.progress.losses.setdefault(column, []).append(number)

    def _validate(self, folder: Path, title: str) -> None:
        """Add a row to the history, and keep the weights if they are the best so far.

        Weights from before the last phase begins are only partly trained and are never kept.
        """
        state, scores = self.progress, {SCORE: math.nan}
        if self.validator:
            with uncompiled():
                scores = self.validator.scores(self.eval_model)
            dice = scores[SCORE]
            all_phases_begun = all(phase.has_begun(state.step, self.settings.steps) for phase in self.phases)
            if all_phases_begun and (not state.records or dice > state.records[-1][1]):
                state.records.append((state.step, dice))
                state.best = self._copy_checkpoint()
                if self.settings.early_levels:
                    save_record(folder, state.step, state.best)
        means = {column: float(np.mean(values)) for column, values in state.losses.items()}
        row = {
            "step": state.step,
            "loss": means.pop("loss"),
            "learning_rate": learning_rate(self.settings, state.step),
            SCORE: scores.pop(SCORE),
            "seconds": round(state.seconds, 1),
        }
        state.history.append(row | scores | means)
        state.losses = {}
        log.info("%s: step %d, loss %.4f, validation Dice %.4f", title, state.step, row["loss"], row[SCORE])

    def _load_early_checkpoints(self, folder: Path, title: str) -> list[EarlyCheckpoint]:
        """Load one checkpoint per early level; none, with a warning, if no validation is eligible."""
        levels, records = self.settings.early_levels, self.progress.records
        if levels and not records:
            reason = "no validation came after the warm-up" if self.validator else "this split has no validation case"
            log.warning("%s: no early checkpoints are kept, since %s.", title, reason)
        return load_early_checkpoints(folder, records, levels, title)

    @property
    def _state_modules(self) -> dict[str, Any]:
        """All objects with a state to save, by their names in the file."""
        optimisers = {f"{name} optimiser": optimiser for name, optimiser in self.optimisers.items()}
        parts = {f"objective {name}": part for name, part in self.objective_parts.items()}
        return {"model": self.model, "average": self.average, "scaler": self.scaler} | optimisers | parts

    def _resume(self, states: TrainingStates, changed: ChangedTraining) -> bool:
        """Load the saved state; return whether there was one."""
        saved = states.load_resumable(changed)
        if saved is None:
            return False
        for name, module in self._state_modules.items():
            module.load_state_dict(saved[name])
        self.progress = _Progress(**{name: saved["progress"][name] for name in _Progress.__dataclass_fields__})
        log.info("resuming after step %d of %d from %s", self.progress.step, self.settings.steps, states.folder)
        return True

    def _save(self, states: TrainingStates) -> None:
        """Save the state, unless weights are NaN or infinite: such a state must not replace a good one."""
        if not all(parameter.isfinite().all() for parameter in self.model.parameters()):
            raise NonFiniteError("the weights are no longer finite", self.progress.step)
        modules = {name: module.state_dict() for name, module in self._state_modules.items()}
        description = {"dependencies": states.fingerprint_inputs, "steps": self.settings.steps}
        saved_state.save_state(states.path, modules | {"progress": description | vars(self.progress)})

    def _explain_memory_shortage(self, title: str, step: int) -> AbstractContextManager:
        part = self.settings.micro_batch
        keys = {"batch": self.settings.batch} if part is None else {"micro_batch": part}
        keys |= {"crop": list(self.settings.patches.crop)}
        kept = "A saved state is kept, and resumes with the present values only"
        return explain_memory_shortage(f"{title}, step {step} of {self.settings.steps}", keys, self.backend.precision, kept)

    @contextmanager
    def _explain_non_finite(self, folder: Path) -> Iterator[None]:
        """Turn a NonFiniteError into a TrainingError that names the slices, and list the whole batch in a file."""
        try:
            yield
        except NonFiniteError as error:
            rng = step_generator(self.seed, error.step)[1]
            sources = self.slices.sample_sources(rng, self.settings.batch, self.settings.patches)
            batch = [{"case": self.slices.cases[c].case, "slice": self.slices.cases[c].slice_numbers[z]} for c, z in sources]
            path = folder / "not-a-number.json"
            with suppress(OSError):  # if the disk is full too, the message below matters more
                write_json(path, {"finding": str(error), "step": error.step, "seed": self.seed, "batch": batch})
            names = ", ".join(f"{source['case']} slice {source['slice']}" for source in batch[:_MAX_LISTED])
            names += ", ..." if len(batch) > _MAX_LISTED else ""
            raise TrainingError(
                f"{path}: {error} at step {error.step}, on {names}. Reduce `learning_rate` ({self.settings.learning_rate}), "
                f"set `gradient_clip` ({self.settings.gradient_clip}), or use `precision: float32`. The last saved state "
                "is kept."
            ) from None


def learning_rate(settings: TrainingSettings, step: int) -> float:
    """Return the learning rate of a step in 1..steps.

    It rises linearly over the steps of the warm-up. "cosine" then falls towards the last rate, which follows the last step.
    """
    full, warm_up = settings.learning_rate, settings.learning_rate_warm_up
    if step <= warm_up:
        first = settings.first_learning_rate
        return first + (full - first) * (step - 1) / warm_up
    if settings.learning_rate_decay == "none":
        return full
    last, progress = settings.last_learning_rate, (step - 1 - warm_up) / (settings.steps - warm_up)
    return last + (full - last) * (1 + math.cos(math.pi * progress)) / 2


def _copy_state(model: nn.Module) -> dict[str, Tensor]:
    """Copy the model's state to contiguous tensors, as its file needs them, except for what it needs in training only."""
    omitted = getattr(model, "training_only", ())
    state = {key: tensor.detach() for key, tensor in model.state_dict().items() if not key.startswith(omitted)}
    return {key: tensor.to("cpu", copy=True, memory_format=torch.contiguous_format) for key, tensor in state.items()}


def _loss_column(phase: Phase) -> str:
    """Return the history column with the loss of a phase that is not the first one."""
    return f"{phase.name}_loss"
