"""Objectives: what is minimised on a batch, and which estimates validation compares with the ground truth.

An objective has a `loss` and `estimates`. One that trains several parts against each other lists them in `phases`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np
from torch import Tensor, nn

from pd_ddpm.training.patches import Batch

Loss = Callable[[nn.Module, Batch, np.random.Generator], dict[str, Tensor]]


@dataclass(frozen=True)
class Phase:
    """A part of a training step: a loss that Adam minimises over some of the model's parameters.

    Attributes:
        name: used in messages, and for the history column `{name}_loss`.
        loss: (model, batch, rng) -> {"loss": scalar, ...}; all other values are logged.
        parameters: the parameters to train. All others are frozen and get no gradients.
        learning_rate_factor: multiple of the training's learning rate.
        betas: betas of Adam.
        every: the phase runs in every `every`-th step.
        start_fraction: fraction of all steps before the first step of the phase.
        optimiser: name of an earlier phase whose Adam, with its moments, this phase shares. None: an optimiser of its own.
        needs_progress: whether the loss also takes the keyword `progress`, the number of the step as a fraction of all steps.
    """

    name: str
    loss: Loss
    parameters: list[nn.Parameter]
    learning_rate_factor: float = 1.0
    betas: tuple[float, float] = (0.9, 0.999)
    every: int = 1
    start_fraction: float = 0.0
    optimiser: str | None = None
    needs_progress: bool = False

    def loss_at(self, step: int, steps: int) -> Loss:
        """Return the loss of step 1..steps."""
        return partial(self.loss, progress=step / steps) if self.needs_progress else self.loss

    def has_begun(self, step: int, steps: int) -> bool:
        """Return whether step 1..steps comes after the start of the phase."""
        return step > self.start_fraction * steps

    def is_due(self, step: int, steps: int) -> bool:
        """Return whether the phase runs in step 1..steps."""
        return step % self.every == 0 and self.has_begun(step, steps)


class Estimate(NamedTuple):
    """Probabilities of lesion or of classes that validation compares with the ground truth.

    Attributes:
        probability: (B, C, *S).
        name: the history has a column `validation_dice_{name}` for it; None: it has no column of its own.
        selects: whether its Dice counts in `validation_dice`, by which the best weights are selected.
    """

    probability: Tensor
    name: str | None = None
    selects: bool = True


class Objective(Protocol):
    """What a training minimises and how its validation judges the model."""

    def loss(self, model: nn.Module, batch: Batch, rng: np.random.Generator) -> dict[str, Tensor]:
        """Return the scalar to minimise as "loss", and other scalars to log under their column names.

        Args:
            model: the network in training mode.
            batch: B patches.
            rng: generator of the step.
        """
        ...

    def estimates(self, model: nn.Module, batch: Batch, rng: np.random.Generator) -> list[Estimate]:
        """Return estimates of the lesion probabilities. The mean Dice of those that select chooses the best weights.

        Args:
            model: the network in evaluation mode.
            batch: B slices of one case.
            rng: generator of the case, the same in every validation.
        """
        ...

    def saved_parts(self) -> dict[str, Any]:
        """Return what the objective learns in a training, by names. Each part has `state_dict` and `load_state_dict`."""
        return {}

    def phases(self, model: nn.Module) -> list[Phase]:
        """Return the phases of a step, in order. All use the same batch; the first one's loss is the training loss."""
        return [Phase("training", self.loss, [parameter for parameter in model.parameters() if parameter.requires_grad])]
