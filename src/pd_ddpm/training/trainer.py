"""The training loop: any network with any objective, killed and resumed at will.

Everything random in step n is drawn from streams named (seed, n), so the state of a training is its weights, its
optimisers and its step, and a run that was killed and continued equals an unbroken one bit for bit on the same machine.
"""

import copy
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pd_ddpm.data.working_grid import pad_to_multiple
from pd_ddpm.diffusion.noise import stream
from pd_ddpm.models import weights
from pd_ddpm.runtime.files import lock_folder, remove_partial_files, write_json
from pd_ddpm.runtime.memory import enough_memory
from pd_ddpm.runtime.precision import Precision, autocast
from pd_ddpm.runtime.progress import log, progress
from pd_ddpm.training import saved_state
from pd_ddpm.training.early_checkpoints import early_path, nearest_records
from pd_ddpm.training.errors import NotANumber, TrainingError
from pd_ddpm.training.interruption import Interrupted, asked_to_end
from pd_ddpm.training.objectives.base import Objective, Phase
from pd_ddpm.training.patches import Batch, CaseSlices, TrainingSlices, as_batch
from pd_ddpm.training.result import EarlyCheckpoint, Fitted
from pd_ddpm.training.resume import ChangedTraining, TrainingStates
from pd_ddpm.training.settings import TrainingSettings

_LISTED = 12  # slices of a batch in an error message

_STEPS_AHEAD = 10  # that a GPU may be given before its losses are looked at: each look waits until it has done them all


@dataclass
class _State:
    """What a training has come to. `dependencies` says what it depends on."""

    dependencies: dict[str, Any]
    steps: int  # of the whole training
    step: int = 0
    seconds: float = 0.0
    losses: dict[str, list[float]] = field(default_factory=dict)  # since the last validation
    history: list[dict[str, float]] = field(default_factory=list)
    records: list[tuple[int, float]] = field(default_factory=list)  # step and Dice of each that was the best eligible so far
    best: dict[str, Tensor] = field(default_factory=dict)


class Training:
    """One network being fitted to one set of cases.

    dependencies: all that the outcome depends on, plain values by their names, "learning_rate" or "grid.spacing_mm"; each set
    of values has a folder of states. changed: what happens if an unfinished training of other values lies there.
    """

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        slices: TrainingSlices,
        validation: list[CaseSlices],
        settings: TrainingSettings,
        *,
        seed: int,
        dependencies: Mapping[str, Any],
        device: torch.device,
        precision: Precision,
        save_every_seconds: float = 60.0,
        changed: ChangedTraining = "stop",
    ):
        self.model = model.to(device)
        self.average = copy.deepcopy(model).requires_grad_(False)
        self.objective = objective
        self.slices = slices
        self.validation = validation
        self.settings = settings
        self.seed = seed
        self.device = device
        self.precision = precision
        self.save_every_seconds = save_every_seconds
        self.changed = changed
        self.phases = objective.phases(model)
        self.look_every = _STEPS_AHEAD if device.type == "cuda" else 1
        self._unseen: dict[int, dict[str, Tensor]] = {}  # losses of the steps since the last look, on the device
        self.optimisers = {
            phase.name: torch.optim.Adam(phase.parameters, betas=phase.betas, weight_decay=settings.weight_decay, fused=True)
            for phase in self.phases
            if phase.optimiser is None
        }
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision.dtype == torch.float16)
        self.state = _State(dict(dependencies), settings.steps)

    @property
    def judged(self) -> nn.Module:
        """The weights that are validated and kept: the moving average or the raw ones."""
        return self.average if self.settings.weights == "ema" else self.model

    def fit(self, folder: Path, name: str = "training") -> Fitted:
        """Train to the last step, from where an earlier run of the same dependencies stopped.

        folder: of the training, with a folder of states for each set of dependencies (`resume`); one run at a time
        may use it (BusyError). The state of the last step is saved too: if the outcome is lost, the next run has it at once.
        On SIGTERM the state is saved and the process ends with a non-zero code.

        Raises TrainingError when the loss becomes infinite or NaN, OtherTrainingError if an unfinished training of other
        dependencies lies there, CheckpointError if no saved state can be read, DiskFullError and MemoryShortageError.
        """
        states = TrainingStates(folder, self.state.dependencies)
        with asked_to_end() as asked, lock_folder(folder):
            remove_partial_files(states.folder)
            remove_partial_files(states.folder / "early")
            if not self._resume(states):
                states.begin()
            state, steps = self.state, self.settings.steps
            started = time.monotonic() - state.seconds
            saved = time.monotonic()
            for step in progress(range(state.step + 1, steps + 1), name, total=steps, done=state.step):
                with self._enough_memory(name, step), self._naming_the_batch(states.folder):
                    self._unseen[step] = self._step(step)
                    self._follow(step)
                    validating = step % self.settings.validate_every == 0 or step == steps
                    if not validating and step % self.look_every:
                        continue
                    self._look()
                    state.step, state.seconds = step, time.monotonic() - started
                    if validating:
                        self._validate(states.folder, name)
                    ending = asked()
                    if ending or step == steps or time.monotonic() - saved > self.save_every_seconds:
                        self._save(states)
                        saved = time.monotonic()
                if ending:
                    raise Interrupted(f"{name}: asked to end; step {step} of {steps} is saved in {states.path}")
            early = self._early(states.folder, name)
        if self.settings.select == "best" and state.records:
            return Fitted(state.best, state.records[-1][0], state.history, early)
        return Fitted(_copy(self.judged), state.step, state.history, early)

    def _enough_memory(self, name: str, step: int) -> AbstractContextManager:
        keys = {"batch": self.settings.batch, "crop": list(self.settings.patches.crop)}
        kept = "A saved state is kept, and goes on with the present values only"
        return enough_memory(f"{name}, step {step} of {self.settings.steps}", keys, self.precision, kept)

    def _draws(self, step: int) -> tuple[int, np.random.Generator]:
        """A seed for the global generator, from which dropout draws, and the stream of all else that is random in a step."""
        draws = stream("train", self.seed, step)
        return int(draws.integers(2**31)), draws

    def _step(self, step: int) -> dict[str, Tensor]:
        """All phases on one batch; returns what they name, the first one's loss as "loss".

        Nothing here asks the device for a number, which would make it wait: the losses stay there until `_look`.
        """
        seed, draws = self._draws(step)
        torch.manual_seed(seed)
        batch = self.slices.batch(draws, self.settings.batch, self.settings.patches).to(self.device)
        self.model.train()
        values = {}
        for phase in self.phases:
            if phase.is_due(step, self.settings.steps):
                found = self._minimise(phase, batch, draws, step)
                if phase is not self.phases[0]:
                    found[_loss_column(phase)] = found.pop("loss")
                values |= found
        return values

    def _look(self) -> None:
        """Fetch the losses of the steps since the last look, all at once. Raises NotANumber at the first that is none."""
        named = {"loss": self.phases[0].name} | {_loss_column(phase): phase.name for phase in self.phases[1:]}
        columns = [(step, column) for step, values in self._unseen.items() for column in values]
        numbers = torch.stack([value for values in self._unseen.values() for value in values.values()]).tolist()
        self._unseen = {}
        for (step, column), number in zip(columns, numbers, strict=True):
            if column in named and not math.isfinite(number):
                raise NotANumber(f"the {named[column]} loss is {number}", step)
            self.state.losses.setdefault(column, []).append(number)

    def _minimise(self, phase: Phase, batch: Batch, draws: np.random.Generator, step: int) -> dict[str, Tensor]:
        """One optimiser step; returns the loss and what else is named."""
        optimiser, changed = self.optimisers[phase.optimiser or phase.name], set(phase.parameters)
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(self.settings, step) * phase.learning_rate_factor
        if len(self.phases) > 1:
            for parameter in self.model.parameters():
                parameter.requires_grad_(parameter in changed)
        with autocast(self.device, self.precision):
            found = phase.loss(self.model, batch, draws)
        optimiser.zero_grad(set_to_none=True)
        self.scaler.scale(found["loss"]).backward()
        if self.settings.gradient_clip is not None:
            self.scaler.unscale_(optimiser)
            nn.utils.clip_grad_norm_(phase.parameters, self.settings.gradient_clip)
        # With another optimiser the scaler of float16 would wait here to learn whether a gradient has overflowed, and leave the
        # step out; fused Adam is told by a tensor, and leaves it out on the device.
        self.scaler.step(optimiser)
        self.scaler.update()
        return {name: value.detach() for name, value in found.items()}

    @contextmanager
    def _naming_the_batch(self, folder: Path) -> Iterator[None]:
        """Say where numbers have ended, and write the whole batch into a file beside the states."""
        try:
            yield
        except NotANumber as finding:
            names = self.slices.names(self._draws(finding.step)[1], self.settings.batch, self.settings.patches)
            batch = [{"case": self.slices.cases[c].case, "slice": self.slices.cases[c].numbers[z]} for c, z in names]
            listed = folder / "not-a-number.json"
            with suppress(OSError):  # a full disk is the lesser trouble
                write_json(listed, {"finding": str(finding), "step": finding.step, "seed": self.seed, "batch": batch})
            shown = ", ".join(f"{one['case']} slice {one['slice']}" for one in batch[:_LISTED])
            raise TrainingError(
                f"{finding} at step {finding.step}, on {shown}{', ...' if len(batch) > _LISTED else ''} (listed in {listed}); "
                f"lower 'learning_rate' ({self.settings.learning_rate}), set 'gradient_clip' ({self.settings.gradient_clip}), "
                "or use 'precision: float32'. The last saved state is kept"
            ) from None

    @torch.no_grad()
    def _follow(self, step: int) -> None:
        """Exponential moving average of the weights; it follows faster at first, so that it forgets the initial ones."""
        decay = min(self.settings.ema_decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.average.parameters()), list(self.model.parameters()), 1 - decay)
        if kept := list(self.average.buffers()):
            torch._foreach_copy_(kept, list(self.model.buffers()))

    def _validate(self, folder: Path, name: str) -> None:
        """Add a row to the history, and keep the weights if they are the best since all phases have begun.

        Before, they have not learnt all that the method needs, however well they do what they have learnt.
        """
        state, dice = self.state, math.nan
        if self.validation:
            dice = self.validation_dice()
            complete = all(phase.has_begun(state.step, self.settings.steps) for phase in self.phases)
            if complete and (not state.records or dice > state.records[-1][1]):
                state.records.append((state.step, dice))
                state.best = _copy(self.judged)
                if self.settings.early_levels:
                    weights.save_weights(early_path(folder, state.step), state.best)
        means = {column: float(np.mean(values)) for column, values in state.losses.items()}
        row = {
            "step": state.step,
            "loss": means.pop("loss"),
            "learning_rate": learning_rate(self.settings, state.step),
            "validation_dice": dice,
            "seconds": round(state.seconds, 1),
        }
        state.history.append(row | means)
        state.losses = {}
        log.info("%s: step %d, loss %.4f, validation Dice %.4f", name, state.step, row["loss"], dice)

    @torch.inference_mode()
    def validation_dice(self) -> float:
        """Mean over cases and estimates of the Dice at 0.5, on evenly spaced slices. The noise is the same at every call."""
        model = self.judged.eval()
        return float(np.mean([score for case in self.validation for score in self._validate_case(model, case)]))

    def _validate_case(self, model: nn.Module, case: CaseSlices) -> list[float]:
        """Dice of each estimate of one case."""
        per_case = max(1, self.settings.validation_slices // len(self.validation))
        chosen = np.unique(np.linspace(0, len(case.image) - 1, per_case).round().astype(int))
        image, shares = (pad_to_multiple(part[chosen], model.divisor) for part in (case.image, case.shares))
        batch = as_batch(image, shares).to(self.device)
        with autocast(self.device, self.precision):
            estimates = self.objective.estimates(model, batch, stream("validate", self.seed, case.case))
        truth = (batch.mask >= 0.5) & (batch.counted > 0)
        counts = []
        for estimate in estimates:
            predicted = (estimate >= 0.5) & (batch.counted > 0)
            counts.append(torch.stack([(predicted & truth).sum(), predicted.sum() + truth.sum()]))
        return [2 * both / total if total else 1.0 for both, total in torch.stack(counts).tolist()]

    def _early(self, folder: Path, name: str) -> list[EarlyCheckpoint]:
        """For each of the early levels the record that comes nearest to it; none where there is no record."""
        levels, records = self.settings.early_levels, self.state.records
        if not levels or not records:
            if levels:
                missing = "no validation came after the warm-up" if self.validation else "this split has no validation case"
                log.warning("%s: no early checkpoints are kept, since %s", name, missing)
            return []
        chosen = nearest_records([dice for _, dice in records], levels)
        if len(set(chosen)) < len(levels):
            log.warning(
                "%s: %d validations were the best so far when they came, too few for %d different early checkpoints; "
                "lower 'validate_every'",
                name,
                len(records),
                len(levels),
            )
        steps = [records[n] for n in chosen]
        return [
            EarlyCheckpoint(level, step, dice, weights.load_tensors(early_path(folder, step)))
            for level, (step, dice) in zip(levels, steps, strict=True)
        ]

    @property
    def _parts(self) -> dict[str, Any]:
        optimisers = {f"{name} optimiser": optimiser for name, optimiser in self.optimisers.items()}
        return {"model": self.model, "average": self.average, "scaler": self.scaler} | optimisers

    def _resume(self, states: TrainingStates) -> bool:
        """Whether there was a state to go on from."""
        saved = states.resumable(self.changed)
        if saved is None:
            return False
        for name, part in self._parts.items():
            part.load_state_dict(saved[name])
        self.state = _State(**saved["progress"])
        log.info("continuing after step %d of %d from %s", self.state.step, self.state.steps, states.folder)
        return True

    def _save(self, states: TrainingStates) -> None:
        """Save the state, unless the weights are no numbers: a good state is not replaced by one of no use."""
        if not all(parameter.isfinite().all() for parameter in self.model.parameters()):
            raise NotANumber("the weights are not finite any more", self.state.step)
        parts = {name: part.state_dict() for name, part in self._parts.items()}
        saved_state.save_state(states.path, parts | {"progress": vars(self.state)})


def _copy(model: nn.Module) -> dict[str, Tensor]:
    """The model's state, but for what it needs in training only."""
    left_out = getattr(model, "training_only", ())
    return {key: tensor.detach().cpu().clone() for key, tensor in model.state_dict().items() if not key.startswith(left_out)}


def _loss_column(phase: Phase) -> str:
    """Where the loss of a phase that is not the first one stands in the history."""
    return f"{phase.name}_loss"


def learning_rate(settings: TrainingSettings, step: int) -> float:
    """The learning rate of a step in 1..steps; "cosine" falls from the full rate to 0 behind the last step."""
    if settings.learning_rate_decay == "none":
        return settings.learning_rate
    return settings.learning_rate * (1 + math.cos(math.pi * (step - 1) / settings.steps)) / 2
