"""Remarks on trainings whose validation Dice still rose (below 1 s)."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pd_ddpm.exhibits.training_remarks import flattening, flattening_remarks, late_gain


def history(dice: list[float], every: int = 100) -> pd.DataFrame:
    """Return a history with a validation at the end of every `every` steps."""
    return pd.DataFrame({"step": [every * (n + 1) for n in range(len(dice))], "validation_dice": dice})


@pytest.mark.parametrize(
    ("dice", "expected"),
    [
        ([0.5, 0.7, 0.73], 0.03),  # the validation at two thirds of the steps is not late
        ([0.5, 0.7, 0.69], 0.0),
        ([0.5, 0.6, 0.4, 0.55, 0.61, 0.58], 0.01),  # best so far, not the last before
        ([np.nan, 0.6, 0.62], 0.02),
        ([np.nan, np.nan, 0.62], np.nan),
        ([0.62], np.nan),
        ([np.nan] * 3, np.nan),  # no validation cases
    ],
)
@pytest.mark.parametrize("every", [1, 100, 1000])
def test_late_gain_is_that_of_the_best_dice_in_the_last_third(dice: list[float], expected: float, every: int) -> None:
    assert late_gain(history(dice, every)) == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize(
    ("gains", "expected"),
    [
        ([0.0], "flattened"),
        ([0.01, np.nan], "flattened"),
        ([np.nan, np.nan], "unknown"),
        ([0.02], "not yet flattened (validation Dice rose by 0.020 in the last third)"),
        ([0.02, 0.0, 0.03], "not yet flattened in 2 of 3 trainings (validation Dice rose by up to 0.030 in the last third)"),
    ],
)
def test_flattening_counts_trainings_that_gain_more_than_the_limit(gains: list[float], expected: str) -> None:
    assert flattening(gains) == expected


def test_flattening_remarks_name_the_methods_of_each_network_that_still_rose(tmp_path: Path) -> None:
    files = []
    for name, split, dice in (("unet", 0, [0.7, 0.7, 0.7]), ("attunet", 0, [0.7, 0.7, 0.7]), ("attunet", 1, [0.7, 0.7, 0.75])):
        files.append(tmp_path / "wmh" / "networks" / name / f"split-{split}_seed-0" / "training.csv")
        files[-1].parent.mkdir(parents=True)
        history(dice).to_csv(files[-1], index=False)
    (remark,) = flattening_remarks(files, {"attunet": "AttUNet", "unet": "U-Net"})
    assert remark.startswith("AttUNet: not yet flattened in 1 of 2 trainings (validation Dice rose by 0.050 in the last third")
    assert flattening_remarks(files, {})[0].startswith("attunet: not yet flattened")
    assert flattening_remarks(files[:2], {}) == []
