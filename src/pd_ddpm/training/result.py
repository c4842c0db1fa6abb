"""Outcome of a training: selected weights, history, early checkpoints."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class EarlyCheckpoint:
    """The weights of a validation whose Dice was a record then, and about `level` times the best one of all."""

    level: float
    step: int
    validation_dice: float
    weights: dict[str, Tensor]


@dataclass
class Fitted:
    """The outcome of a training.

    selected: the weights that are kept, without those that the model names as `training_only` (prefixes of their names).
    Neither they nor early ones come from a validation at which a phase of the objective had not begun.
    history: a row for each validation with step, loss, learning_rate, validation_dice and seconds, and the mean since the
    last validation of whatever else the objective's losses name.
    early: one for each of `early_levels`, in their order.
    """

    selected: dict[str, Tensor]
    selected_step: int
    history: list[dict[str, float]]
    early: list[EarlyCheckpoint]

    def described(self) -> dict[str, Any]:
        """Which validations the selected and the early weights come from."""
        early = [{"level": kept.level, "step": kept.step, "validation_dice": kept.validation_dice} for kept in self.early]
        return {"selected_step": self.selected_step, "early": early}
