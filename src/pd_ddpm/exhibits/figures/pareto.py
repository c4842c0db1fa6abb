"""Pareto figure: Dice of each method against its network evaluations and its seconds."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from pd_ddpm.evaluation.scores import name_trainings
from pd_ddpm.evaluation.statistics import CASE, TRAINING, standard_error
from pd_ddpm.exhibits.figures import style
from pd_ddpm.exhibits.figures.log_axis import label_log_axis

COSTS = {"seconds": "Seconds per case", "network_evaluations": "Network evaluations per slice"}
FRONTS = {"seconds": "on_front_seconds", "network_evaluations": "on_front_evaluations"}

# Methods without a reverse chain evaluate their network once per member.
ONE_PASS = "one pass"
MARKERS = {"ancestral": "o", "ddim": "^", ONE_PASS: "s"}


def pareto_numbers(ensembles: pd.DataFrame, description: pd.DataFrame, members: Sequence[int]) -> pd.DataFrame:
    """Return one row per method and number of members: Dice with its standard error, cost, and fronts.

    Args:
        ensembles: ensemble rows. Subsets and seeds are averaged first. The standard error counts trainings and cases.
        description: columns `method`, `label`, `t_start`, `reverse_steps` and `sampler`; the last three are empty for methods
            without a reverse chain.
        members: numbers of members; a method has a row for each one that its pool contains.

    Returns:
        Columns of `description`, `members`, `dice`, `dice_standard_error`, the two costs, `cases`, and whether the point is on
        the front of each cost (see `pareto_front`).

    Raises:
        ValueError: a method has no ensemble of any of these sizes.
    """
    rows = ensembles[ensembles["size"].isin(members)]
    if missing := set(description["method"]) - set(rows["method"]):
        names = ", ".join(sorted(missing))
        raise ValueError(f"{names} have no ensemble of {list(members)} members. Add a size that all pools contain.")
    cases = rows.groupby(["method", "size", "case"], as_index=False)[["dice", *COSTS]].mean()
    by_point = cases.groupby(["method", "size"])
    points = by_point[["dice", *COSTS]].mean()
    by_training = name_trainings(rows).groupby(["method", "size", TRAINING, CASE])["dice"].mean()
    points["dice_standard_error"] = by_training.groupby(["method", "size"]).agg(lambda dice: standard_error(dice)[0])
    points["cases"] = by_point["case"].size()
    numbers = description.merge(points.reset_index().rename(columns={"size": "members"}), on="method", how="left")
    for cost, front in FRONTS.items():
        numbers[front] = pareto_front(numbers[cost].to_numpy(), numbers["dice"].to_numpy())
    columns = ["label", "method", "t_start", "reverse_steps", "sampler", "members", "dice", "dice_standard_error"]
    return numbers[[*columns, *COSTS, "cases", *FRONTS.values()]]


def pareto_front(cost: np.ndarray, quality: np.ndarray) -> np.ndarray:
    """Return which points no other point dominates.

    A point dominates another if its cost is not higher, its quality is not lower, and one of the two is better. Equal points
    are on the front together; points with NaN never are.

    Args:
        cost: (N,) costs.
        quality: (N,) qualities.

    Returns:
        (N,) bool.
    """
    no_worse = (cost[:, None] <= cost) & (quality[:, None] >= quality)
    better = (cost[:, None] < cost) | (quality[:, None] > quality)
    return ~(no_worse & better).any(axis=0) & np.isfinite(cost) & np.isfinite(quality)


def pareto(numbers: pd.DataFrame, caption_note: str) -> Figure:
    """Draw Dice against seconds and against network evaluations. A method whose cost is not known is a dashed line.

    The colour shows the method, the marker the sampler, and the area the number of members. Methods with a point on a front
    have a number.

    Args:
        numbers: table of `pareto_numbers`.
        caption_note: dataset and scale that the numbers belong to.
    """
    style.apply()
    points = numbers.assign(sampler=numbers["sampler"].astype(object).where(numbers["sampler"].notna(), ONE_PASS))
    on_a_front = points[points[list(FRONTS.values())].any(axis=1)].drop_duplicates("method").sort_values("network_evaluations")
    known, unknown = points.dropna(subset=list(COSTS)), points[points[list(COSTS)].isna().any(axis=1)]
    looks = style.looks(points["label"])
    key = {method: number for number, method in enumerate(on_a_front["method"], start=1)}
    figure, axes = plt.subplots(1, 2, sharey=True, figsize=(6.9, 4.6), layout="constrained")
    for axis, cost in zip(axes, COSTS, strict=True):
        axis.set_xscale("log")
        axis.margins(x=0.08)
        _draw_points(axis, known, cost, looks)
        for row in _rows(unknown):
            axis.axhline(row.dice, color=looks[row.label].colour, linewidth=0.9, linestyle="--", zorder=0.8)
        _draw_front(axis, points[points[FRONTS[cost]]].sort_values([cost, "dice"]), cost, key)
        label_log_axis(axis.xaxis)
        axis.set_xlabel(COSTS[cost])
    axes[0].set_ylabel("Dice, mean over cases")
    title = f"{caption_note}. Thin lines: one method with more members; ringed: on the Pareto front"
    title += "; dashed: cost not known" if len(unknown) else ""
    figure.suptitle(title, fontsize="small", x=0.01, ha="left")
    _add_legends(figure, points, [f"{key[row.method]}: {_name(row)}" for row in _rows(on_a_front)])
    return figure


def _draw_points(axis: Axes, points: pd.DataFrame, cost: str, looks: Mapping[str, style.Look]) -> None:
    for _, rows in points.sort_values("members").groupby("method", sort=False):
        look = {"color": looks[rows["label"].iloc[0]].colour}
        axis.plot(rows[cost], rows["dice"], linewidth=0.6, alpha=0.6, zorder=1, **look)
        shape = MARKERS[rows["sampler"].iloc[0]]
        areas = _area(rows["members"].to_numpy(float))
        axis.scatter(rows[cost], rows["dice"], s=areas, marker=shape, edgecolors=style.INK, linewidths=0.3, **look)


def _draw_front(axis: Axes, front: pd.DataFrame, cost: str, key: Mapping[str, int]) -> None:
    """Draw the front as a step line to the right edge, with rings around its points and the number of each method."""
    if front.empty:
        return
    end = axis.get_xlim()[1]
    steps = pd.concat([front[[cost, "dice"]], pd.DataFrame({cost: [end], "dice": [front["dice"].iloc[-1]]})])
    axis.plot(steps[cost], steps["dice"], drawstyle="steps-post", color=style.INK, linewidth=0.9, zorder=0.9)
    axis.set_xlim(right=end)
    rings = {"marker": "o", "facecolors": "none", "edgecolors": style.INK, "linewidths": 0.8}
    axis.scatter(front[cost], front["dice"], s=_area(front["members"].to_numpy(float)) + 45, **rings)
    begins = front["method"] != front["method"].shift()
    for row in _rows(front[begins]):
        position = {"xy": (getattr(row, cost), row.dice), "xytext": (-6, 4), "textcoords": "offset points"}
        axis.annotate(str(key[row.method]), ha="right", va="bottom", fontsize=7, **position)


def _add_legends(figure: Figure, points: pd.DataFrame, numbered: list[str]) -> None:
    """Add legends below the panels: methods, samplers and numbers of members, and the numbers of methods on a front."""

    def handle(label: str, **look: Any) -> Line2D:
        return Line2D([], [], label=label, **({"marker": "o", "linestyle": "none", "color": "0.5"} | look))

    methods = [handle(label, color=look.colour) for label, look in style.looks(points["label"]).items()]
    present = [handle(name, marker=shape) for name, shape in MARKERS.items() if name in set(points["sampler"])]
    sizes = [
        handle("1 member" if members == 1 else f"{members} members", markersize=_area(members) ** 0.5)
        for members in sorted(points["members"].unique())
    ]
    front = handle("Pareto front", marker="", linestyle="-", linewidth=0.9, color=style.INK)
    for side, handles in (
        ("left", methods),
        ("center", [*present, front, *sizes]),
        ("right", [handle(text) for text in numbered]),
    ):
        # The numbered methods have no symbol, so no room is left for one.
        room = {"handlelength": 0, "handletextpad": 0, "markerscale": 0} if side == "right" else {}
        columns = 1 if side == "right" else 2
        figure.legend(handles=handles, loc=f"outside lower {side}", ncols=columns, fontsize=7, **room)


def _name(row: NamedTuple) -> str:
    if row.sampler == ONE_PASS:
        return row.label
    steps = "1 step" if row.reverse_steps == 1 else f"{row.reverse_steps:g} steps"
    return f"{row.label}, T' {row.t_start:g}, {steps}, {row.sampler}"


def _rows(points: pd.DataFrame) -> list[NamedTuple]:
    return list(points.itertuples(index=False))


def _area(members: Any) -> Any:
    """Return the area of a marker in square points."""
    return 12.0 + 8.0 * members
