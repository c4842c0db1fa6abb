"""Figures from the numbers they show: each takes a table and draws all of it."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from pd_ddpm import style
from pd_ddpm.tables import per_case


def fig3_numbers(scores: pd.DataFrame, curve: Mapping[str, int], labels: Mapping[str, str]) -> pd.DataFrame:
    """What Fig. 3 of PD-DDPM shows: a row per method, `t_start` filled for those on the curve (method -> T').

    Dice of the ensemble and uncertainty (mean variance of the members in the brain), each with the standard error over cases.
    """
    cases = per_case(scores)
    rows = []
    for method, label in labels.items():
        of_method = cases[cases["method"] == method]
        rows.append(
            {
                "label": label,
                "method": method,
                "t_start": curve.get(method),
                "dice": of_method["dice"].mean(),
                "dice_standard_error": of_method["dice"].sem(),
                "uncertainty": of_method["uncertainty"].mean(),
                "uncertainty_standard_error": of_method["uncertainty"].sem(),
                "network_evaluations": of_method["network_evaluations"].mean(),
                "cases": len(of_method),
            }
        )
    return pd.DataFrame(rows).astype({"t_start": "Int64"})


def fig3_tprime(numbers: pd.DataFrame, remark: str) -> Figure:
    """Dice and uncertainty against T' (PD-DDPM Fig. 3), with the methods that have no T' as level lines."""
    style.apply()
    curve = numbers[numbers["t_start"].notna()].sort_values("t_start")
    levels = numbers[numbers["t_start"].isna()]
    figure, axes = plt.subplots(2, 1, sharex=True, figsize=(4.6, 5.0), height_ratios=(3, 2), layout="constrained")
    label = curve["label"].iloc[0]
    t = curve["t_start"].astype(float)
    for axis, name in zip(axes, ("dice", "uncertainty"), strict=True):
        middle, spread = curve[name], curve[f"{name}_standard_error"].fillna(0)
        axis.fill_between(t, middle - spread, middle + spread, color=style.colour(label), alpha=0.15, linewidth=0)
        axis.plot(t, middle, marker="o", color=style.colour(label), label=label)
        for dashes, (_, level) in zip(("--", ":", "-."), levels.dropna(subset=[name]).iterrows(), strict=False):
            axis.axhline(level[name], linestyle=dashes, color=style.colour(level["label"]), label=level["label"])
    best = curve.loc[curve["dice"].idxmax()]
    axes[0].plot(float(best["t_start"]), best["dice"], marker="*", markersize=13, color=style.colour(label), linestyle="none")
    axes[0].annotate(
        f"best: T' = {best['t_start']}", (float(best["t_start"]), best["dice"]), (0, 9), textcoords="offset points", ha="center"
    )
    axes[0].margins(y=0.2)
    axes[0].set_ylabel("Dice")
    axes[0].legend(loc="lower left")
    axes[1].set_ylabel("Uncertainty\n(mean variance in the brain)")
    axes[1].set_ylim(bottom=0)
    axes[1].set_xlabel("T' (noising steps of the pre-segmentation, of T = 1000)")
    axes[0].set_title(remark, fontsize="small", loc="left")
    return figure
