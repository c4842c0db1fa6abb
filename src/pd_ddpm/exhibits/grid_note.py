"""What captions say about a working grid that is coarser than the scan: the Dice of the ground truth through it."""

from collections.abc import Iterator

import pandas as pd

from pd_ddpm.evaluation.scores import GRID_DICE


def table_caption(caption_note: str, rows: pd.DataFrame) -> str:
    """Return the caption of a table, with the Dice of the ground truth if the grid is coarser than the scan.

    Args:
        caption_note: dataset and scale that the numbers belong to.
        rows: score rows or ensemble rows.
    """
    for owner, soft, hard in _mean_grid_dice(rows):
        caption_note += (
            f" The ground truth itself, mapped to {owner} larger pixels and back, has a Dice of {soft}, or "
            f"{hard} if it is made binary on them first."
        )
    return caption_note


def figure_caption(caption_note: str, rows: pd.DataFrame) -> str:
    """Return the caption of a figure, with the Dice of the ground truth as a first line if the grid is coarser than the scan.

    Args:
        caption_note: dataset and scale that the numbers belong to.
        rows: score rows or ensemble rows.
    """
    lines = [
        f"Dice of the ground truth through {owner} grid: {soft}, as binary mask {hard}"
        for owner, soft, hard in _mean_grid_dice(rows)
    ]
    return "\n".join([*lines, caption_note])


def _mean_grid_dice(rows: pd.DataFrame) -> Iterator[tuple[str, str, str]]:
    """Yield the mean soft and hard Dice of each grid that is coarser than the scan, each case counted once, after its users.

    These are the methods with this grid, in the genitive, or "the networks'" if all methods have the same.
    """
    if not set(GRID_DICE) <= set(rows.columns):
        return
    grids: list[tuple[list[str], dict[str, tuple[float, float]]]] = []
    for method, part in rows.groupby("method", sort=False) if "method" in rows else [("", rows)]:
        known = part.dropna(subset=list(GRID_DICE))
        values = dict(zip(known["case"], known[list(GRID_DICE)].itertuples(index=False, name=None), strict=True))
        for methods, others in grids:
            if bool(values) == bool(others) and all(others[case] == values[case] for case in values.keys() & others.keys()):
                methods.append(str(method))
                others.update(values)
                break
        else:
            grids.append(([str(method)], values))
    for methods, values in grids:
        if values:
            soft, hard = (f"{sum(column) / len(values):.3f}" for column in zip(*values.values(), strict=True))
            yield "the networks'" if len(grids) == 1 else f"{' and '.join(methods)}'s", soft, hard
