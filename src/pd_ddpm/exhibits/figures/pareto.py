"""Dice against cost: what each method gives for the network evaluations and the seconds that it takes."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from pd_ddpm.exhibits.figures import style

COSTS = {"seconds": "Seconds per case", "network_evaluations": "Network evaluations per slice"}
FRONTS = {"seconds": "on_front_seconds", "network_evaluations": "on_front_evaluations"}

# A method without a reverse chain takes one pass of its network for each member.
ONE_PASS = "one pass"
MARKERS = {"ancestral": "o", "ddim": "^", ONE_PASS: "s"}


def pareto_numbers(ensembles: pd.DataFrame, description: pd.DataFrame, members: Sequence[int]) -> pd.DataFrame:
    """A row per method of `description` and number of members: Dice, its standard error over cases, cost, and the fronts.

    ensembles: rows per case, size and subset; the subsets of a size and the seeds are averaged first, so that a case counts
    once. description: columns method, label, t_start, reverse_steps and sampler, the last three empty where there is no chain.
    A method has a row for each number of `members` that its pool holds. A point is on a front if no other is both at most as
    costly and at least as good, and better in one of the two; equal points are on it together.

    Raises ValueError if a method of `description` has no ensemble of any of these sizes.
    """
    of_size = ensembles[ensembles["size"].isin(members)]
    if missing := set(description["method"]) - set(of_size["method"]):
        raise ValueError(f"no ensemble of {list(members)} members of {', '.join(sorted(missing))}; add a size that they have")
    cases = of_size.groupby(["method", "size", "case"], as_index=False)[["dice", *COSTS]].mean()
    by_point = cases.groupby(["method", "size"])
    points = by_point[["dice", *COSTS]].mean()
    points["dice_standard_error"] = by_point["dice"].sem()
    points["cases"] = by_point["case"].size()
    numbers = description.merge(points.reset_index().rename(columns={"size": "members"}), on="method", how="left")
    for cost, front in FRONTS.items():
        numbers[front] = pareto_front(numbers[cost].to_numpy(), numbers["dice"].to_numpy())
    columns = ["label", "method", "t_start", "reverse_steps", "sampler", "members", "dice", "dice_standard_error"]
    return numbers[[*columns, *COSTS, "cases", *FRONTS.values()]]


def pareto_front(cost: np.ndarray, quality: np.ndarray) -> np.ndarray:
    """Which points (N,) no other point dominates, that is, costs at most as much and is at least as good, and not equal."""
    no_worse = (cost[:, None] <= cost) & (quality[:, None] >= quality)
    better = (cost[:, None] < cost) | (quality[:, None] > quality)
    return ~(no_worse & better).any(axis=0) & np.isfinite(cost) & np.isfinite(quality)


def pareto(numbers: pd.DataFrame, remark: str) -> Figure:
    """Dice against seconds and against network evaluations, from the table of `pareto_numbers`.

    Colour is the method, the marker the sampler, and the area grows with the members; methods with a point on a front are
    numbered. remark: what data and scale the numbers are of.
    """
    style.apply()
    points = numbers.assign(sampler=numbers["sampler"].astype(object).where(numbers["sampler"].notna(), ONE_PASS))
    on_a_front = points[points[list(FRONTS.values())].any(axis=1)].drop_duplicates("method").sort_values("network_evaluations")
    key = {method: number for number, method in enumerate(on_a_front["method"], start=1)}
    figure, axes = plt.subplots(1, 2, sharey=True, figsize=(6.9, 4.6), layout="constrained")
    for axis, cost in zip(axes, COSTS, strict=True):
        axis.set_xscale("log")
        axis.margins(x=0.08)
        _draw_points(axis, points, cost)
        _draw_front(axis, points[points[FRONTS[cost]]].sort_values([cost, "dice"]), cost, key)
        axis.set_xlabel(COSTS[cost])
    axes[0].set_ylabel("Dice, mean over cases")
    title = f"{remark}. Thin lines: one method with more members; ringed: on the Pareto front"
    figure.suptitle(title, fontsize="small", x=0.01, ha="left")
    _add_legends(figure, points, [f"{key[row.method]}: {_name(row)}" for row in _rows(on_a_front)])
    return figure


def _draw_points(axis: Axes, points: pd.DataFrame, cost: str) -> None:
    looks = style.looks(points["label"])
    for _, of_method in points.sort_values("members").groupby("method", sort=False):
        look = {"color": looks[of_method["label"].iloc[0]].colour}
        axis.plot(of_method[cost], of_method["dice"], linewidth=0.6, alpha=0.6, zorder=1, **look)
        shape = MARKERS[of_method["sampler"].iloc[0]]
        areas = _area(of_method["members"].to_numpy(float))
        axis.scatter(of_method[cost], of_method["dice"], s=areas, marker=shape, edgecolors=style.INK, linewidths=0.3, **look)


def _draw_front(axis: Axes, front: pd.DataFrame, cost: str, key: Mapping[str, int]) -> None:
    """The front as a step line that goes on to the right, its points ringed, and a number where another method begins."""
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
        where = {"xy": (getattr(row, cost), row.dice), "xytext": (-6, 4), "textcoords": "offset points"}
        axis.annotate(str(key[row.method]), ha="right", va="bottom", fontsize="x-small", **where)


def _add_legends(figure: Figure, points: pd.DataFrame, numbered: list[str]) -> None:
    """Below the panels: the methods, the samplers and numbers of members, and the methods on a front by their number."""

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
        # What is only a number has no symbol, and needs no room for one.
        room = {"handlelength": 0, "handletextpad": 0, "markerscale": 0} if side == "right" else {}
        columns = 1 if side == "right" else 2
        figure.legend(handles=handles, loc=f"outside lower {side}", ncols=columns, fontsize="x-small", **room)


def _name(row: NamedTuple) -> str:
    if row.sampler == ONE_PASS:
        return row.label
    return f"{row.label}, T' {row.t_start:g}, {row.reverse_steps:g} steps, {row.sampler}"


def _rows(points: pd.DataFrame) -> list[NamedTuple]:
    return list(points.itertuples(index=False))


def _area(members: Any) -> Any:
    """The area of a marker in square points."""
    return 12.0 + 8.0 * members
