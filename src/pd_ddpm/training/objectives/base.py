"""Objectives: what is minimised on a batch, and what is compared with the ground truth in validation.

An objective has a `loss` and `estimates`. One that trains several parts against each other lists them in `phases`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor, nn

from pd_ddpm.training.patches import Batch


@dataclass(frozen=True)
class Phase:
    """A part of a training step: a loss that Adam lowers over some of the model's parameters; the others are held fixed.

    name                  in messages, and of the column `{name}_loss` in the history
    loss                  (model, batch, stream) -> {"loss": scalar, ...}; whatever else it names is logged
    parameters            those that are changed, and the only ones that get gradients
    learning_rate_factor  the phase's learning rate as a multiple of the training's
    betas                 of Adam
    every                 the phase is part of every so-many-th step
    from_share            share of all steps that pass before the first one that it is part of
    optimiser             name of the earlier phase whose Adam, moments included, it goes on with; None: one of its own
    """

    name: str
    loss: Callable[[nn.Module, Batch, np.random.Generator], dict[str, Tensor]]
    parameters: list[nn.Parameter]
    learning_rate_factor: float = 1.0
    betas: tuple[float, float] = (0.9, 0.999)
    every: int = 1
    from_share: float = 0.0
    optimiser: str | None = None

    def has_begun(self, step: int, steps: int) -> bool:
        """Whether this step of 1..steps lies behind the share that passes before it."""
        return step > self.from_share * steps

    def is_due(self, step: int, steps: int) -> bool:
        """Whether it is part of this step of 1..steps."""
        return step % self.every == 0 and self.has_begun(step, steps)


class Objective(Protocol):
    def loss(self, model: nn.Module, batch: Batch, stream: np.random.Generator) -> dict[str, Tensor]:
        """{"loss": what is minimised, a scalar, ...}; whatever else is named is logged."""
        ...

    def estimates(self, model: nn.Module, batch: Batch, stream: np.random.Generator) -> list[Tensor]:
        """Lesion probabilities (B, 1, *S), whose mean Dice decides which weights are best."""
        ...

    def phases(self, model: nn.Module) -> list[Phase]:
        """What a step consists of, in this order and all on the same batch; the first one's loss is the training's."""
        return [Phase("training", self.loss, [parameter for parameter in model.parameters() if parameter.requires_grad])]
