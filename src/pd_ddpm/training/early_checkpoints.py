"""Early checkpoints: weights whose validation Dice was a given fraction of the best."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from pd_ddpm.models.weights import load_tensors, save_weights
from pd_ddpm.runtime.progress import log
from pd_ddpm.runtime.sealed import check_seal, seal, seal_path
from pd_ddpm.training.result import EarlyCheckpoint


def early_path(folder: Path, step: int) -> Path:
    """Return where the weights of a step are kept until the early checkpoints are chosen."""
    return folder / "early" / f"step-{step}.safetensors"


def save_record(folder: Path, step: int, checkpoint: dict[str, Tensor]) -> None:
    """Save the weights of a step, which may become an early checkpoint, with their seal."""
    path = early_path(folder, step)
    seal_path(path).unlink(missing_ok=True)  # a killed process must not leave the seal of other weights
    save_weights(path, checkpoint)
    seal(path)


def load_early_checkpoints(
    folder: Path, records: Sequence[tuple[int, float]], levels: Sequence[float], title: str
) -> list[EarlyCheckpoint]:
    """Load the record that is nearest to each level.

    Args:
        folder: the folder of the training's states.
        records: (step, Dice) of each validation that was the best so far, with increasing Dice.
        levels: fractions of the best Dice.
        title: name of the training, for log messages.

    Returns:
        One checkpoint per level, or none if there are no records.

    Raises:
        DamagedFileError: the weights of a step were changed.
    """
    if not levels or not records:
        return []
    chosen = nearest_records([dice for _, dice in records], levels)
    if len(set(chosen)) < len(levels):
        log.warning(
            "%s: only %d validations were the best so far, too few for %d different early checkpoints. "
            "Reduce `validate_every`.",
            title,
            len(records),
            len(levels),
        )
    steps = [records[n] for n in chosen]
    return [
        EarlyCheckpoint(level, step, dice, _load_record(early_path(folder, step)))
        for level, (step, dice) in zip(levels, steps, strict=True)
    ]


def _load_record(path: Path) -> dict[str, Tensor]:
    tensors = load_tensors(path)
    check_seal(path)
    return tensors


def nearest_records(dice: Sequence[float], levels: Sequence[float]) -> list[int]:
    """Return, for each level, the index of the record whose Dice is nearest to `level` times the best.

    The best record itself is chosen only if it is the only one. If there are enough records, each level gets a different
    one, higher levels get later ones, and the total distance is smallest.

    Args:
        dice: Dice of the records, increasing.
        levels: fractions of the last and best Dice.
    """
    candidates = list(dice[:-1] or dice)
    distance = np.abs(np.subtract.outer(np.multiply(levels, dice[-1]), candidates))
    if len(candidates) < len(levels):
        return distance.argmin(axis=1).tolist()
    from scipy.optimize import linear_sum_assignment  # imported here: it takes a second, and few trainings need it

    _, chosen = linear_sum_assignment(distance)
    return np.sort(chosen)[np.argsort(np.argsort(levels))].tolist()
