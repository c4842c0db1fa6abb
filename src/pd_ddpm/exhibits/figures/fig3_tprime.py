"""Figure 3 of PD-DDPM: Dice and uncertainty against T'."""

import textwrap

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from pd_ddpm.evaluation.scores import by_training, select_method
from pd_ddpm.evaluation.statistics import CASE, mean_over_cases, num_trainings, standard_error
from pd_ddpm.exhibits.figures import style
from pd_ddpm.exhibits.step_sizes import step_sizes_phrase, unequal_steps


def fig3_numbers(scores: pd.DataFrame, points: pd.DataFrame) -> pd.DataFrame:
    """Return the numbers of Figure 3 of PD-DDPM: one row per method.

    Args:
        scores: score rows of all methods.
        points: columns `method`, `label`, `t_start` (T'; empty for methods that are not on the curve), and `reverse_steps` and
            `step_size` (in timesteps), which are empty for methods without a reverse chain.

    Returns:
        Columns of `points`, Dice of the ensemble and uncertainty (variance over the members, mean over the brain), each with
        its standard error (see `standard_error`), network evaluations, number of cases and number of trainings.

    Raises:
        ValueError: a method has no score.
    """
    cases = by_training(scores)
    rows = []
    for point in points.to_dict("records"):
        method_cases = select_method(cases, point["method"])
        rows.append(
            point
            | {
                "dice": mean_over_cases(method_cases["dice"]),
                "dice_standard_error": standard_error(method_cases["dice"])[0],
                "uncertainty": mean_over_cases(method_cases["uncertainty"]),
                "uncertainty_standard_error": standard_error(method_cases["uncertainty"])[0],
                "network_evaluations": method_cases["network_evaluations"].mean(),
                "cases": method_cases.index.get_level_values(CASE).nunique(),
                "trainings": num_trainings(method_cases["dice"]),
            }
        )
    return pd.DataFrame(rows).astype({"t_start": "Int64", "reverse_steps": "Int64"})


def paper_best_t_start(printed: pd.DataFrame) -> float:
    """Return the T' with the highest Dice in the paper, from the table of printed values."""
    is_best = (printed["exhibit"] == "fig3_tprime") & (printed["metric"] == "best_t_start")
    return printed.loc[is_best, "value"].item()


def fig3_tprime(numbers: pd.DataFrame, caption_note: str, paper_best: float) -> Figure:
    """Draw Figure 3: Dice and uncertainty against T', with methods that have no T' as horizontal lines.

    If the steps of the chains differ in size, the title says so: then a difference is not due to T' alone.

    Args:
        numbers: table of `fig3_numbers`.
        caption_note: dataset and scale that the numbers belong to.
        paper_best: T' with the highest Dice in the paper.
    """
    style.apply()
    curve = numbers[numbers["t_start"].notna()].sort_values("t_start")
    levels = numbers[numbers["t_start"].isna()]
    figure, axes = plt.subplots(2, 1, sharex=True, figsize=(4.4, 4.8), height_ratios=(3, 2), layout="constrained")
    label = curve["label"].iloc[0]
    looks = style.looks([label, *levels["label"]])
    colour = looks[label].colour
    t = curve["t_start"].astype(float)
    for axis, name, scale in zip(axes, ("dice", "uncertainty"), (1, 1000), strict=True):
        middle, spread = scale * curve[name], scale * curve[f"{name}_standard_error"].fillna(0)
        axis.fill_between(t, middle - spread, middle + spread, color=colour, alpha=0.15, linewidth=0)
        axis.plot(t, middle, marker=looks[label].marker, color=colour, label=label)
        for _, level in levels.dropna(subset=[name]).iterrows():
            look = looks[level["label"]]
            axis.axhline(scale * level[name], label=level["label"], color=look.colour, linestyle=look.line)
        axis.axvline(paper_best, color="grey", linewidth=0.8, label=f"best in the paper: {paper_best:g}")
    best = curve.loc[curve["dice"].idxmax()]
    star = {"marker": "*", "markersize": 13, "color": colour, "markeredgecolor": "white", "linestyle": "none"}
    axes[0].plot(float(best["t_start"]), best["dice"], label=f"best here: {best['t_start']}", **star)
    axes[0].set_ylabel("Dice")
    axes[1].set_ylabel("Uncertainty (variance\nin the brain, $10^{-3}$)")
    axes[1].set_ylim(bottom=0)
    axes[1].set_xlabel("T', noising steps of the pre-segmentation")
    over = "cases, one training" if numbers["trainings"].min() < 2 else "trainings and cases"
    notes = [f"{caption_note}; bands: standard error over {over}", *_step_notes(curve)]
    axes[0].set_title("\n".join(notes), fontsize="small", loc="left")
    figure.align_ylabels(axes)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize="small")
    return figure


def _step_notes(curve: pd.DataFrame) -> list[str]:
    """Return lines that name the step sizes of the curve's chains, or none if the sizes are equal."""
    step_sizes = dict(zip(curve["t_start"], curve["step_size"], strict=True))
    if not unequal_steps(step_sizes):
        return []
    text = f"Steps differ in size, not only T' (timesteps of a step: {step_sizes_phrase(step_sizes)})"
    return textwrap.wrap(text, 72)
