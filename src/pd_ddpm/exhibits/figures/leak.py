"""Figure of the leak table: Dice against the pre-segmenter, and spread, over T' for each share of recycling."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pd_ddpm.exhibits.figures import style

MARKERS = ("o", "s", "D", "^", "v", "P", "X", "*")
COLOURS = "viridis"  # ordered as the shares are, also for colour-blind readers and in print
DODGE = 0.011  # distance of neighbouring lines, as a share of the axis


def leak_figure(table: pd.DataFrame, caption_note: str) -> Figure:
    """Draw one column of panels with and one without the likelihood skip, and one for each kind of further training.

    Further kinds are other strategies, pre-segmentations in training and random raters; their columns repeat the line of share
    0. The upper panels show the paired difference in Dice to the pre-segmenter with its 95 % interval, the lower ones the
    spread. Lines connect the starts from the pre-segmentation; noise is the start at T, at the right end. A column without
    denoisers is left out.

    Args:
        table: rows of `leak_table`.
        caption_note: dataset and scale that the numbers belong to.
    """
    style.apply()
    presegmenter = table["denoiser"].iloc[0]
    rows = table[table["start"].isin(["pre-segmentation", "noise"])]
    columns = group_by_training(rows)
    looks = looks_of(list(dict.fromkeys(rows.sort_values("share", kind="stable")["denoiser"])))
    size = (1.2 + 3.4 * len(columns), 5.2)
    figure, axes = plt.subplots(
        2, len(columns), sharex=True, sharey="row", squeeze=False, figsize=size, height_ratios=(3, 2), layout="constrained"
    )
    for (upper, lower), (title, panel) in zip(axes.T, columns.items(), strict=True):
        upper.axhline(0, color=style.INK, linewidth=1, label=presegmenter)
        _draw_lines(upper, panel, looks, "dice_to_presegmenter")
        _draw_lines(lower, panel.assign(spread=1000 * panel["uncertainty"]), looks, "spread")
        upper.set_title(title, fontsize="medium")
        lower.set_xlabel("Start timestep T' of the chain")
    _label_starts(axes[1, 0], rows)
    axes[0, 0].set_ylabel(f"Dice minus that of {presegmenter}")
    axes[1, 0].set_ylabel("Spread (variance of members\nin the brain, $10^{-3}$)")
    axes[1, 0].set_ylim(bottom=0)
    over = "cases, one training" if table["trainings"].min() < 2 else "trainings and cases"
    figure.suptitle(f"{caption_note}; bars: 95 % interval over {over}", fontsize="small", x=0.01, ha="left")
    figure.align_ylabels(axes[:, 0])
    handles = {label: handle for axis in axes[0] for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    order = [presegmenter, *(label for label in looks if label in handles)]
    figure.legend(
        [handles[label] for label in order], order, loc="outside lower center", ncols=min(len(order), 6), fontsize="small"
    )
    return figure


def group_by_training(rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return the rows of each kind of training by its title, without empty ones; further kinds include the share 0."""
    has_skip = rows["likelihood_skip"].eq(True).fillna(False).astype(bool)
    is_presegmented, is_random = rows["presegmented_share"].gt(0), rows["raters"].eq("random")
    is_changed = is_presegmented | is_random
    is_strategy = ~rows["strategy"].isin(["diffusion", "recycling_noise"]) & ~is_changed
    is_plain = ~(is_changed | is_strategy)
    is_share_0 = is_plain & rows["share"].eq(0)
    is_reference = is_share_0 & has_skip
    kinds = {
        "With likelihood skip": (is_plain & has_skip, False),
        "Without likelihood skip": (is_plain & ~has_skip, False),
        "Other strategies, with skip": (is_strategy & has_skip, is_reference),
        "Other strategies, without skip": (is_strategy & ~has_skip, is_share_0 & ~has_skip),
        "Trained on pre-segmentations": (is_presegmented, is_reference),
        "Trained on random raters": (is_random, is_reference),
    }
    return {title: rows[is_shown | further] for title, (is_shown, further) in kinds.items() if is_shown.any()}


def looks_of(labels: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return colour and marker of each denoiser, the same in all panels."""
    colours = plt.get_cmap(COLOURS)
    return {
        label: {"color": colours(0.85 * number / max(len(labels) - 1, 1)), "marker": MARKERS[number % len(MARKERS)]}
        for number, label in enumerate(labels)
    }


def _draw_lines(axis: Axes, panel: pd.DataFrame, looks: Mapping[str, Mapping[str, Any]], name: str) -> None:
    """Draw one line per denoiser, side by side so that their bars do not cover each other."""
    last = panel["t_start"].max()
    labels = [label for label in looks if label in set(panel["denoiser"])]
    for number, label in enumerate(labels):
        curve, look = panel[panel["denoiser"] == label].sort_values("t_start"), looks[label]
        x = curve["t_start"].astype(float) + DODGE * float(last) * (number - (len(labels) - 1) / 2)
        if f"{name}_low" in curve:
            low, high = (curve[name] - curve[f"{name}_low"]).fillna(0), (curve[f"{name}_high"] - curve[name]).fillna(0)
            axis.errorbar(x, curve[name], yerr=[low, high], linestyle="none", ecolor=look["color"], elinewidth=0.8, fmt="none")
        is_chain_from_mask = (curve["start"] == "pre-segmentation").to_numpy()
        axis.plot(x, curve[name], linestyle="none", **look)
        axis.plot(x[is_chain_from_mask], curve.loc[is_chain_from_mask, name], label=label, **look)


def _label_starts(axis: Axes, rows: pd.DataFrame) -> None:
    """Label each T' of a start from the pre-segmentation with its number, and the start at T as noise."""
    ticks = sorted(set(rows.loc[rows["start"] == "pre-segmentation", "t_start"]))
    noise = sorted(set(rows.loc[rows["start"] == "noise", "t_start"]))
    axis.set_xticks([float(tick) for tick in (*ticks, *noise)], [*map(str, ticks), *("noise" for _ in noise)])
