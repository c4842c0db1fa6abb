"""Figure 5 of PatchDDM: Dice and HD95 over the number of reverse steps and the size of the ensemble."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pd_ddpm.exhibits.figures import style

# Score -> heading, decimals, and colours, which are light for good values; white is left for cells that were not run.
PANELS = {"dice": ("Mean Dice", 3, "viridis"), "hd95_mm": ("Mean HD95 [mm]", 1, "viridis_r")}


def fig5_numbers(ensembles: pd.DataFrame, points: Sequence[Mapping[str, Any]], members: Sequence[int]) -> pd.DataFrame:
    """Return the numbers of Figure 5 of PatchDDM: one row per chain and ensemble size that was run.

    Args:
        ensembles: ensemble rows of all chains, with HD95.
        points: method, reverse steps and pool of each chain, fewest steps first.
        members: ensemble sizes.

    Returns:
        Columns `method`, `reverse_steps` and `members`; `dice` and `hd95_mm`, the mean over cases of the mean over subsets,
        splits and seeds; `network_evaluations` and `seconds` of a case; `cases`, and `cases_without_hd95`.

    Raises:
        ValueError: a chain has no ensembles.
    """
    rows = []
    for point in points:
        chain = ensembles[ensembles["method"] == point["method"]]
        if chain.empty:
            raise ValueError(f"{point['method']} has no ensembles. Run rule `resample_ensemble` for it.")
        for size in members:
            cases = chain[chain["size"] == size].groupby("case").mean(numeric_only=True)
            if cases.empty:
                continue
            row = {"method": point["method"], "reverse_steps": point["reverse_steps"], "members": size}
            row |= cases[["dice", "hd95_mm", "network_evaluations", "seconds"]].mean().to_dict()
            rows.append(row | {"cases": len(cases), "cases_without_hd95": int(cases["hd95_mm"].isna().sum())})
    return pd.DataFrame(rows)


def fig5(numbers: pd.DataFrame, members: Sequence[int], caption_note: str) -> Figure:
    """Draw both scores as heat maps. The best cell of each is framed, and cells that were not run are white.

    Args:
        numbers: table of `fig5_numbers`.
        members: ensemble sizes, also those that were not run.
        caption_note: dataset and scale that the numbers belong to.
    """
    style.apply()
    steps = sorted(numbers["reverse_steps"].unique())
    figure, axes = plt.subplots(1, 2, sharey=True, figsize=(6.9, 1.5 + 0.36 * len(steps)), layout="constrained")
    for axis, (score, (heading, decimals, colours)) in zip(axes, PANELS.items(), strict=True):
        table = numbers.pivot(index="reverse_steps", columns="members", values=score).reindex(index=steps, columns=members)
        image = axis.imshow(np.ma.masked_invalid(table.to_numpy(float)), cmap=colours, aspect="auto", origin="lower")
        _write_values(axis, table, image, decimals)
        best = table.stack().idxmax() if score == "dice" else table.stack().idxmin()
        corner = (list(members).index(best[1]) - 0.5, steps.index(best[0]) - 0.5)
        axis.add_patch(plt.Rectangle(corner, 1, 1, fill=False, edgecolor=style.INK, linewidth=1.4, clip_on=False))
        axis.set_xticks(range(len(members)), [str(size) for size in members])
        axis.set_yticks(range(len(steps)), [str(count) for count in steps])
        axis.grid(False)
        axis.set_xlabel("Ensemble size, members")
        axis.set_title(heading, fontsize="small", loc="left")
        figure.colorbar(image, ax=axis, pad=0.02)
    axes[0].set_ylabel("Reverse steps")
    figure.suptitle(f"{caption_note}. White: not run; framed: best", fontsize="small", x=0.01, ha="left")
    return figure


def _write_values(axis: Axes, table: pd.DataFrame, image: Any, decimals: int) -> None:
    """Write the value of each cell in black or white, whichever differs more from its colour."""
    for row, column in np.argwhere(table.notna().to_numpy()):
        value = table.iloc[row, column]
        luminance = np.dot(image.cmap(image.norm(value))[:3], (0.2126, 0.7152, 0.0722))
        axis.text(
            column,
            row,
            f"{value:.{decimals}f}",
            ha="center",
            va="center",
            fontsize=6.5,
            color=style.INK if luminance > 0.45 else "white",
        )
