"""What captions say about a working grid that is coarser than the scan: the Dice of the ground truth through it."""

import pandas as pd

from pd_ddpm.evaluation.scores import GRID_DICE


def table_caption(caption_note: str, rows: pd.DataFrame) -> str:
    """Return the caption of a table, with the Dice of the ground truth if the grid is coarser than the scan.

    Args:
        caption_note: dataset and scale that the numbers belong to.
        rows: score rows or ensemble rows.
    """
    means = _mean_grid_dice(rows)
    if means is None:
        return caption_note
    soft, hard = (f"{means[name]:.3f}" for name in GRID_DICE)
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
    means = _mean_grid_dice(rows)
    if means is None:
        return caption_note
    soft, hard = (f"{means[name]:.3f}" for name in GRID_DICE)
    line = f"Dice of the ground truth through the networks' grid: {soft}, as binary mask {hard}"
    return f"{line}\n{caption_note}"


def _mean_grid_dice(rows: pd.DataFrame) -> pd.Series | None:
    """Return the means over cases, each counted once; None if no case has a coarser grid."""
    if not set(GRID_DICE) <= set(rows.columns):
        return None
    cases = rows.drop_duplicates("case")[list(GRID_DICE)].dropna()
    return None if cases.empty else cases.mean()
