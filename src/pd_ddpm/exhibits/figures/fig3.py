"""Figure 3 of Fu et al. 2024: quality of the estimate after each reverse step."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from pd_ddpm.evaluation.statistics import CASE, TRAINING, mean_interval, mean_over_cases, num_trainings
from pd_ddpm.evaluation.step_scores import step_scores
from pd_ddpm.exhibits.figures import style

AXES = {"dice": "Dice", "hd95_mm": "HD95 [mm]"}


def fig3_numbers(ensembles: pd.DataFrame, points: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return the mean scores of single members of each chain at each step.

    Args:
        ensembles: see `step_scores`.
        points: as above.

    Returns:
        One row per label and step: each metric with its 95 % interval (`*_low`, `*_high`), cases and trainings.
    """
    rows = []
    for (label, step), group in step_scores(ensembles, points).groupby(["label", "step"], sort=False):
        row, indexed = {"label": label, "step": step}, group.set_index([TRAINING, CASE])
        for metric in AXES:
            low, high = mean_interval(indexed[metric])
            row |= {metric: mean_over_cases(indexed[metric]), f"{metric}_low": low, f"{metric}_high": high}
        rows.append(row | {"cases": group[CASE].nunique(), "trainings": num_trainings(indexed["dice"])})
    return pd.DataFrame(rows)


def fig3(numbers: pd.DataFrame, caption_note: str) -> Figure:
    """Draw Dice and HD95 against the reverse step, one line per chain.

    Args:
        numbers: table of `fig3_numbers`.
        caption_note: dataset and scale that the numbers belong to.
    """
    style.apply()
    figure, axes = plt.subplots(1, 2, figsize=(7.0, 3.2), layout="constrained")
    looks = style.looks(numbers["label"])
    for axis, (metric, name) in zip(axes, AXES.items(), strict=True):
        for label, line in numbers.groupby("label", sort=False):
            look = looks[label]
            axis.plot(line["step"], line[metric], label=label, color=look.colour, marker=look.marker, linestyle=look.line)
        axis.set(xlabel="Reverse step", ylabel=name, xticks=sorted(numbers["step"].unique()))
    figure.suptitle(f"Single members, after each reverse step\n{caption_note}", fontsize="small")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize="small")
    return figure
