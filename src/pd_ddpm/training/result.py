"""Result of a training: selected weights, history, early checkpoints."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pd_ddpm.models.weights import validated_weights
from pd_ddpm.runtime.collapse import TRAINING_SIGNS


@dataclass(frozen=True)
class EarlyCheckpoint:
    """Checkpoint of a validation that was the best so far and whose Dice is about `level` times the best Dice of all.

    `weights` holds the raw weights and their moving average, as `join_weights` names them.
    """

    level: float
    step: int
    validation_dice: float
    weights: dict[str, Tensor]


@dataclass(frozen=True)
class TrainingResult:
    """Result of a training.

    Selected and early weights always come from validations after all phases of the objective have begun.

    Attributes:
        checkpoint: the raw weights and their moving average, as `join_weights` names them, without those that the model lists
            as `training_only` (prefixes of names).
        selected_step: the step that they come from.
        history: one row per validation with step, loss, learning_rate, validation_dice and seconds. Further columns hold
            the Dice of named estimates, `validation_dice_{name}`, and the means, since the last validation, of the other
            values that the losses return.
        early: one checkpoint per level of `early_levels`, in the same order.
    """

    checkpoint: dict[str, Tensor]
    selected_step: int
    history: list[dict[str, float]]
    early: list[EarlyCheckpoint]

    @property
    def selected(self) -> dict[str, Tensor]:
        """The weights that were validated, by their names in the state dict."""
        return validated_weights(self.checkpoint)

    @property
    def generator(self) -> dict[str, float]:
        """Values that show whether a generator has collapsed, at the selected step; empty for networks without them."""
        row = next(row for row in self.history if row["step"] == self.selected_step)
        return {name: row[name] for name in TRAINING_SIGNS if name in row}

    def to_metadata(self) -> dict[str, Any]:
        """Return the steps of the selected and early weights and the values of the generator, for the metadata file."""
        early = [{"level": kept.level, "step": kept.step, "validation_dice": kept.validation_dice} for kept in self.early]
        return {"selected_step": self.selected_step, "early": early, "generator": self.generator}
