"""Remarks on trainings, which tables repeat in their notes: an unfinished training is no weak method."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from pd_ddpm.config.run import Run
from pd_ddpm.runtime.sealed_tables import read_sealed_csv

# A training has flattened if its best validation Dice rose by at most this in the last third of its steps. The paper's PD-DDPM
# leads ES-DDPM by 0.009: a network that still gains more than that may change the order of a table.
LATE_SHARE = 1 / 3
LARGEST_LATE_GAIN = 0.01


def late_gain(history: pd.DataFrame) -> float:
    """Return by how much the best validation Dice of a training rose in the last third of its steps.

    Args:
        history: rows of training.csv, with `step` and `validation_dice`.

    Returns:
        The difference to the best Dice of the first two thirds; NaN without a validation in them.
    """
    scores = history.dropna(subset="validation_dice")
    earlier = scores[scores["step"] <= (1 - LATE_SHARE) * history["step"].max()]
    return float(scores["validation_dice"].max() - earlier["validation_dice"].max()) if len(earlier) else np.nan


def late_gains(histories: Iterable[str | Path]) -> dict[str, list[float]]:
    """Return network -> late gain of each of its trainings, from the paths of the training.csv of all trainings."""
    gains: dict[str, list[float]] = {}
    for path in histories:
        gains.setdefault(Run.parse(path).name, []).append(late_gain(read_sealed_csv(path)))
    return gains


def flattening_remarks(histories: Iterable[str | Path], users: Mapping[str, str]) -> list[str]:
    """Return one sentence for each network whose validation Dice had not flattened at the end of a training.

    Args:
        histories: paths of the training.csv of all trainings.
        users: network -> names of the methods that use it.
    """
    return [
        f"{users.get(network) or network}: {flattening(values)}, so more training may raise the scores."
        for network, values in late_gains(histories).items()
        if any(value > LARGEST_LATE_GAIN for value in values)
    ]


def flattening(gains: Sequence[float]) -> str:
    """Return whether the trainings of a network have flattened, from the late gain of each; "unknown" without validations."""
    rising = [gain for gain in gains if gain > LARGEST_LATE_GAIN]
    if rising:
        runs = "" if len(gains) == 1 else f" in {len(rising)} of {len(gains)} trainings"
        up_to = "" if len(rising) == 1 else "up to "
        return f"not yet flattened{runs} (validation Dice rose by {up_to}{max(rising):.3f} in the last third)"
    return "unknown" if np.isnan(gains).all() else "flattened"
