"""Early checkpoints: weights whose validation Dice was a given share of the best."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np


def early_path(folder: Path, step: int) -> Path:
    return folder / "early" / f"step-{step}.safetensors"


def nearest_records(dice: Sequence[float], levels: Sequence[float]) -> list[int]:
    """For each level the index of the record whose Dice is nearest to level times the last and best one.

    dice: increasing. The best itself is chosen only where it is the only one. As long as there are enough records, no two
    levels share one and a higher level has a later one: then it is their total distance that is smallest.
    """
    earlier = list(dice[:-1] or dice)
    distance = np.abs(np.subtract.outer(np.multiply(levels, dice[-1]), earlier))
    if len(earlier) < len(levels):
        return distance.argmin(axis=1).tolist()
    from scipy.optimize import linear_sum_assignment  # whose import takes a second, which few trainings need

    _, chosen = linear_sum_assignment(distance)
    return np.sort(chosen)[np.argsort(np.argsort(levels))].tolist()
