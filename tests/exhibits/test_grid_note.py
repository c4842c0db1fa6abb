"""Captions on a working grid that is coarser than the scan (below 1 s)."""

import numpy as np
import pandas as pd

from pd_ddpm.exhibits.grid_note import figure_caption, table_caption

NOTE = "Demo scale."
# Case 1 occurs twice, and the grid of case 3 is not coarser than its scan.
ROWS = pd.DataFrame(
    {
        "case": ["1", "1", "2", "3"],
        "grid_dice_soft": [0.9, 0.9, 0.8, np.nan],
        "grid_dice_hard": [0.8, 0.8, 0.7, np.nan],
    }
)


def test_captions_name_the_mean_dice_of_the_ground_truth_over_cases() -> None:
    text = table_caption(NOTE, ROWS)
    assert text.startswith(NOTE)
    assert text.endswith("larger pixels and back, has a Dice of 0.850, or 0.750 if it is made binary on them first.")
    expected = "Dice of the ground truth through the networks' grid: 0.850, as binary mask 0.750\nDemo scale."
    assert figure_caption(NOTE, ROWS) == expected


def test_captions_name_the_methods_if_their_grids_differ() -> None:
    """Methods without some cases have the same grid as those with all of them; own pixels need no note."""
    half = ROWS.iloc[[0, 2]].assign(method="half")
    few, quarter, full = ROWS.iloc[[0]], half, half
    quarter = quarter.assign(method="quarter", grid_dice_soft=0.5, grid_dice_hard=0.4)
    full = full.assign(method="full", grid_dice_soft=np.nan, grid_dice_hard=np.nan)
    rows = pd.concat([half, few.assign(method="few"), quarter, full])
    expected = (
        "Dice of the ground truth through half and few's grid: 0.850, as binary mask 0.750\n"
        "Dice of the ground truth through quarter's grid: 0.500, as binary mask 0.400\nDemo scale."
    )
    assert figure_caption(NOTE, rows) == expected
    assert "mapped to quarter's larger pixels and back, has a Dice of 0.500" in table_caption(NOTE, rows)


def test_captions_are_unchanged_on_the_pixels_of_the_scan() -> None:
    for rows in (ROWS[["case"]], ROWS[ROWS["case"] == "3"]):
        assert table_caption(NOTE, rows) == figure_caption(NOTE, rows) == NOTE
