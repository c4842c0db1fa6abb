"""What the denoisers of the leak table read in x_t: the Dice of their one-step estimates from right and wrong masks, over t."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from pd_ddpm.exhibits.figures import style
from pd_ddpm.exhibits.figures.leak import group_by_training, looks_of

# Start of x_t in the table of a probe, or a difference of two of them -> title of its column of panels.
PANELS = {
    "truth": "x$_t$ from the ground truth",
    "other_slice": "x$_t$ from the mask of another slice",
    "empty": "x$_t$ from a mask without lesion",
    "trust": "Trust: ground truth minus other slice",
}
KEYS = ("network", "split", "seed")


def leak_probe_numbers(probes: pd.DataFrame, denoisers: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return the numbers of the figure: one row per denoiser, start of x_t, and timestep.

    Args:
        probes: rows of all probes: network, split, seed, role, case, images, dimensions, start, t, dice.
        denoisers: network, label (denoiser), share, likelihood_skip, presegmented_share and raters of each denoiser.

    Returns:
        These fields, `start` (also "trust", the Dice from the ground truth minus that from the mask of another slice), `t`,
        `dice`, its lowest and highest value over trainings (`dice_low`, `dice_high`), and the number of `trainings`.

    Raises:
        ValueError: a denoiser has no probe.
    """
    if missing := [fields["network"] for fields in denoisers if fields["network"] not in set(probes["network"])]:
        raise ValueError(f"{', '.join(missing)} have no probe. Run rule `probe` for them.")
    by_run = probes.pivot_table(index=[*KEYS, "t"], columns="start", values="dice", aggfunc="mean")
    by_run["trust"] = by_run["truth"] - by_run["other_slice"]
    rows = by_run.reset_index().melt([*KEYS, "t"], list(PANELS), var_name="start", value_name="dice")
    grouped = rows.groupby(["network", "start", "t"])["dice"]
    numbers = grouped.agg(dice="mean", dice_low="min", dice_high="max", trainings="size").reset_index()
    order = {name: rank for rank, name in enumerate([*(fields["network"] for fields in denoisers), *PANELS])}
    numbers = pd.DataFrame(denoisers).merge(numbers, on="network")
    numbers = numbers.sort_values(["network", "start", "t"], key=lambda column: column.map(lambda key: order.get(key, key)))
    return numbers.reset_index(drop=True)


def leak_probe_figure(numbers: pd.DataFrame, caption_note: str) -> Figure:
    """Draw one row of panels for each kind of training, and one column for each start of x_t and for the trust in it.

    Args:
        numbers: table of `leak_probe_numbers`.
        caption_note: dataset and scale that the numbers belong to.
    """
    style.apply()
    groups = group_by_training(numbers)
    looks = looks_of(list(dict.fromkeys(numbers.sort_values("share", kind="stable")["denoiser"])))
    size = (2.9 * len(PANELS), 0.9 + 2.3 * len(groups))
    figure, axes = plt.subplots(
        len(groups), len(PANELS), sharex=True, sharey=True, squeeze=False, figsize=size, layout="constrained"
    )
    for row, (title, group) in zip(axes, groups.items(), strict=True):
        row[0].set_ylabel(f"{title}\nDice of one step")
        for axis, (start, heading) in zip(row, PANELS.items(), strict=True):
            for label, look in looks.items():
                curve = group[(group["denoiser"] == label) & (group["start"] == start)]
                axis.plot(curve["t"], curve["dice"], label=label, **look)
                if (curve["trainings"] > 1).all():
                    axis.fill_between(
                        curve["t"].astype(float),
                        curve["dice_low"],
                        curve["dice_high"],
                        color=look["color"],
                        alpha=0.1,
                        linewidth=0,
                    )
            if axis in axes[0]:
                axis.set_title(heading, fontsize="small")
            if axis in axes[-1]:
                axis.set_xlabel("Timestep t of x$_t$")
    axes[0, 0].set_ylim(-0.05, 1.03)
    over = "" if numbers["trainings"].max() < 2 else "; bands: range over trainings"
    figure.suptitle(f"{caption_note}{over}", fontsize="small", x=0.01, ha="left")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 6), fontsize="small")
    return figure
