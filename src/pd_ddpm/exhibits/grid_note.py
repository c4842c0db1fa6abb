"""What captions say about a working grid that is coarser than the scan: the Dice of the ground truth through it."""

import pandas as pd

from pd_ddpm.evaluation.scores import GRID_DICE


def table_caption(caption_note: str, rows: pd.DataFrame) -> str:
    """Return the caption of a table, with the Dice of the ground truth if the grid is coarser than the scan.

    Args:
        caption_note: dataset and scale that the numbers belong to.
        rows: score rows or ensemble rows.
    """
    through_grid = _mean_grid_dice(rows)
    if through_grid is None:
        return caption_note
    soft, hard = through_grid
    return (
        f"{caption_note} The ground truth itself, mapped to the networks' larger pixels and back, has a Dice of {soft}, or "
        f"{hard} if it is made binary on them first."
    )


def figure_caption(caption_note: str, rows: pd.DataFrame) -> str:
    """Return the caption of a figure, with the Dice of the ground truth as a first line if the grid is coarser than the scan.

    Args:
        caption_note: dataset and scale that the numbers belong to.
        rows: score rows or ensemble rows.
    """
    through_grid = _mean_grid_dice(rows)
    if through_grid is None:
        return caption_note
    soft, hard = through_grid
    line = f"Dice of the ground truth through the networks' grid: {soft}, as binary mask {hard}"
    return f"{line}\n{caption_note}"


def _mean_grid_dice(rows: pd.DataFrame) -> tuple[str, str] | None:
    """Return the mean soft and hard Dice, each case counted once; None if no case has a coarser grid."""
    if not set(GRID_DICE) <= set(rows.columns):
        return None
    cases = rows.drop_duplicates("case")[list(GRID_DICE)].dropna()
    if cases.empty:
        return None
    soft, hard = (f"{cases[name].mean():.3f}" for name in GRID_DICE)
    return soft, hard
