"""Probe of the denoisers: Dice of their one-step estimates from x_t of the truth, an empty mask and another slice's mask."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pd_ddpm.exhibits.figures import style
from pd_ddpm.exhibits.figures.style import Look

# Start of x_t in the table of a probe -> its name and its look.
STARTS = {
    "truth": ("from the truth", Look("#0072B2", "o", ())),
    "other_slice": ("from the mask of another slice", Look("#E69F00", "^", (5, 2))),
    "empty": ("from an empty mask", Look("#D55E00", "s", (1, 1.5))),
}

# Least difference at t = 1 between the Dice from the truth and from the worse of both wrong masks. There x_t is almost the mask
# itself, so a network of lesions that reads it has 1 and 0. The demo's network had 0.02 to 0.06 without the likelihood skip,
# and has 0.996 with it. A network finds classes that the image shows well from an empty mask, too.
LEAST_GAIN = 0.2

PANELS_PER_ROW = 4

HOW_TO_READ = (
    "A denoiser that reads x$_t$ returns the truth near t = 1 from the truth, and less from other masks;\n"
    "where the curves coincide, it ignores x$_t$."
)


def probe_numbers(probes: pd.DataFrame, labels: Mapping[str, str]) -> pd.DataFrame:
    """Return the numbers of the figure: one row per network, start and timestep.

    Args:
        probes: rows of all probes: network, split, seed, role, case, images, dimensions, start, t, dice.
        labels: network -> names of the methods that use it.

    Returns:
        Columns `network`, `methods`, `role` of the probed cases, `start`, `t`; `dice`, the mean over runs (splits and seeds) of
        the mean over cases, with the lowest and highest mean of a run (`dice_low`, `dice_high`); `runs`, `cases` and `images`
        in total; `dimensions` of the images (2: slices, 3: volumes); and `runs_ignoring_x_t`, the number of runs whose Dice at
        t = 1 from the truth exceeds the lower one of both other starts by less than `LEAST_GAIN`.

    Raises:
        ValueError: a network has no probe.
    """
    if missing := [network for network in labels if network not in set(probes["network"])]:
        raise ValueError(f"{', '.join(missing)} have no probe. Run rule `probe` for them.")
    by_run = probes.groupby(["network", "split", "seed", "start", "t"])
    means = by_run.agg(dice=("dice", "mean"), cases=("case", "nunique"), images=("images", "sum")).reset_index()
    by_point = means.groupby(["network", "start", "t"])
    numbers = by_point.agg(
        dice=("dice", "mean"),
        dice_low=("dice", "min"),
        dice_high=("dice", "max"),
        runs=("dice", "size"),
        cases=("cases", "sum"),
        images=("images", "sum"),
    ).reset_index()
    roles = probes.groupby("network")["role"].agg(lambda roles: " and ".join(sorted(set(roles), reverse=True)))
    numbers["methods"], numbers["role"] = numbers["network"].map(labels), numbers["network"].map(roles)
    numbers["dimensions"] = numbers["network"].map(probes.groupby("network")["dimensions"].first())
    numbers["runs_ignoring_x_t"] = numbers["network"].map(_runs_ignoring_x_t(means))
    order = {name: rank for rank, name in enumerate([*labels, *STARTS])}
    numbers = numbers.sort_values(["network", "start", "t"], key=lambda column: column.map(lambda key: order.get(key, key)))
    columns = ["network", "methods", "role", "start", "t", "dice", "dice_low", "dice_high"]
    return numbers[[*columns, "runs", "cases", "images", "dimensions", "runs_ignoring_x_t"]].reset_index(drop=True)


def _runs_ignoring_x_t(means: pd.DataFrame) -> pd.Series:
    """Return network -> number of its runs that ignore x_t, from the mean Dice of each run, start and timestep."""
    at_one = means[means["t"] == 1].pivot_table(index=["network", "split", "seed"], columns="start", values="dice")
    wrong = at_one.drop(columns="truth").min(axis=1)
    return (at_one["truth"] - wrong < LEAST_GAIN).groupby("network").sum()


def probe_figure(numbers: pd.DataFrame, caption_note: str) -> Figure:
    """Draw one panel per network: Dice of the one-step estimate against t, from x_t of three masks.

    Args:
        numbers: table of `probe_numbers`.
        caption_note: dataset and scale that the numbers belong to.
    """
    style.apply()
    networks = list(dict.fromkeys(numbers["network"]))
    columns = min(len(networks), PANELS_PER_ROW)
    rows = -(-len(networks) // columns)
    size = (3.6 * columns if columns > 1 else 4.8, 0.6 + 2.8 * rows)
    figure, axes = plt.subplots(rows, columns, sharey=True, squeeze=False, figsize=size, layout="constrained")
    for axis, network in zip(axes.flat, networks, strict=False):
        _draw_panel(axis, numbers[numbers["network"] == network])
    for unused in axes.flat[len(networks) :]:
        unused.remove()
    for first in axes[:, 0]:
        first.set_ylabel("Dice of the one-step estimate")
    axes[0, 0].set_ylim(-0.03, 1.03)
    figure.suptitle(f"{caption_note}. {HOW_TO_READ}", fontsize="small", x=0.01, ha="left")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize="small")
    return figure


def _draw_panel(axis: Axes, rows: pd.DataFrame) -> None:
    """Draw the curves of one network, with bands if it has several runs, and the remark if it ignores x_t."""
    first = rows.iloc[0]
    for start, (label, look) in STARTS.items():
        curve = rows[rows["start"] == start]
        axis.plot(curve["t"], curve["dice"], label=label, color=look.colour, marker=look.marker, linestyle=look.line)
        if first["runs"] > 1:
            axis.fill_between(curve["t"], curve["dice_low"], curve["dice_high"], color=look.colour, alpha=0.15, linewidth=0)
    images = f"{first['images']} {'slices' if first['dimensions'] == 2 else 'volumes'}"
    cases = f"{first['cases']} {'training' if first['role'] == 'train' else first['role']} cases, {images}"
    axis.set_title(f"{first['network']}: {first['methods']}\n{cases}", fontsize="small", loc="left")
    axis.set_xlabel("Timestep t of x$_t$")
    if first["runs_ignoring_x_t"]:
        runs = "" if first["runs"] == 1 else f" in {first['runs_ignoring_x_t']} of {first['runs']} runs"
        style = {"fontsize": "large", "fontweight": "bold", "color": "#882211", "ha": "center", "va": "center"}
        axis.text(0.5, 0.35, f"ignores x$_t${runs}", transform=axis.transAxes, **style)
