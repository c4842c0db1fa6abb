"""Scores of cases: reading, and averaging over seeds and splits (below 1 s)."""

from pathlib import Path

import pandas as pd
import pytest

from pd_ddpm.evaluation.scores import average_over_seeds, by_training, read_scores, select_method, with_grid_dice


def scores(method: str, dice: list[float], seed: int = 0) -> pd.DataFrame:
    cases = [f"{number:02d}" for number in range(len(dice))]
    return pd.DataFrame({"method": method, "split": 0, "seed": seed, "case": cases, "site": "s", "dice": dice})


def test_average_over_seeds_counts_each_case_once() -> None:
    two_seeds = pd.concat([scores("unet", [0.6, 0.8], seed=0), scores("unet", [0.7, 0.9], seed=1)])
    assert average_over_seeds(two_seeds)["dice"].tolist() == pytest.approx([0.65, 0.85])


def test_read_scores_keeps_leading_zeros_of_case_names(tmp_path: Path) -> None:
    scores("unet", [0.6, 0.8]).to_csv(tmp_path / "s.csv", index=False)
    assert list(read_scores([tmp_path / "s.csv"])["case"]) == ["00", "01"]


def test_read_scores_keeps_subsets_as_text(tmp_path: Path) -> None:
    scores("unet", [0.6]).assign(subset="0").to_csv(tmp_path / "e.csv", index=False)
    assert read_scores([tmp_path / "e.csv"])["subset"].tolist() == ["0"]


def test_with_grid_dice_adds_the_columns_of_each_case(tmp_path: Path) -> None:
    rows = pd.concat([scores("unet", [0.6, 0.8]), scores("ddpm", [0.5, 0.7])])
    assert with_grid_dice(rows, None) is rows
    table = pd.DataFrame({"case": ["02", "01", "00"], "grid_dice_soft": [1.0, 0.9, 0.8], "grid_dice_hard": [1.0, 0.7, 0.6]})
    table.to_csv(tmp_path / "grid_dice.csv", index=False)
    completed = with_grid_dice(rows, tmp_path / "grid_dice.csv")
    assert completed["grid_dice_soft"].tolist() == [0.8, 0.9, 0.8, 0.9]
    assert completed["grid_dice_hard"].tolist() == [0.6, 0.7, 0.6, 0.7]
    assert completed[rows.columns].to_numpy().tolist() == rows.to_numpy().tolist()


def test_select_method_names_a_method_without_scores() -> None:
    with pytest.raises(ValueError, match="ddpm: has no scores, unlike unet"):
        select_method(average_over_seeds(scores("unet", [0.6])), "ddpm")


def test_by_training_averages_seeds_of_each_split() -> None:
    rows = [scores("unet", [0.6, 0.8]), scores("unet", [0.7, 0.9], seed=1), scores("unet", [0.3, 0.4]).assign(split=1)]
    table = select_method(by_training(pd.concat(rows)), "unet")
    assert table["dice"].to_dict() == pytest.approx({(0, "00"): 0.65, (0, "01"): 0.85, (1, "00"): 0.3, (1, "01"): 0.4})


def test_by_training_of_one_split_keeps_seeds() -> None:
    table = select_method(by_training(pd.concat([scores("unet", [0.6], seed=2), scores("unet", [0.7], seed=5)])), "unet")
    assert table["dice"].to_dict() == pytest.approx({(2, "00"): 0.6, (5, "00"): 0.7})
