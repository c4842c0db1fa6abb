"""Training curves of every network: loss and validation Dice against the training step."""

from collections.abc import Iterable
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pd_ddpm.config.run import Run
from pd_ddpm.exhibits.figures import style
from pd_ddpm.exhibits.figures.log_axis import label_log_axis
from pd_ddpm.runtime.sealed import read_sealed_json
from pd_ddpm.runtime.sealed_tables import read_sealed_csv

COLUMNS = 4
COLOUR = "#0072B2"


def training_numbers(histories: Iterable[str | Path]) -> pd.DataFrame:
    """Return the histories of all trainings as one table.

    Args:
        histories: paths of the training.csv of all trainings, next to their metadata.

    Returns:
        Columns `network`, `split`, `seed`, `step`, `loss`, `validation_dice`, `seconds`, `selected`: whether the weights of
        this step are those that the methods use, and `ends_early`: whether the training ended here, before its last step.
    """
    tables = []
    for path in map(Path, histories):
        run, history = Run.parse(path), read_sealed_csv(path)
        metadata = read_sealed_json(path.with_name("model.json"))
        steps = history["step"]
        marks = {
            "selected": steps == metadata["selected_step"],
            "ends_early": (steps == steps.max()) & (steps < metadata["settings"]["steps"]),
        }
        identity = {"network": run.name, "split": run.split, "seed": run.seed}
        rows = history[["step", "loss", "validation_dice", "seconds"]].assign(**marks)
        tables.append(rows.assign(**identity)[[*identity, *rows.columns]])
    return pd.concat(tables, ignore_index=True)


def training_curves(numbers: pd.DataFrame, caption_note: str) -> Figure:
    """Draw two panels per network: its loss on a logarithmic axis, and below its validation Dice, one line per training.

    Args:
        numbers: table of `training_numbers`.
        caption_note: dataset and scale that the numbers belong to.
    """
    style.apply()
    networks = list(numbers["network"].unique())
    columns = min(COLUMNS, len(networks))
    lines = -(-len(networks) // columns)
    figure, axes = plt.subplots(
        2 * lines, columns, figsize=(max(1.75 * columns, 3.5), 2.9 * lines + 0.4), squeeze=False, layout="constrained"
    )
    for position in range(lines * columns):
        line, column = divmod(position, columns)
        loss, dice = axes[2 * line, column], axes[2 * line + 1, column]
        if position >= len(networks):
            loss.set_axis_off()
            dice.set_axis_off()
            continue
        network = networks[position]
        _draw_network(loss, dice, numbers[numbers["network"] == network])
        loss.set_title(network, fontsize="small", loc="left")
        if column == 0:
            loss.set_ylabel("Loss")
            dice.set_ylabel("Validation Dice")
            figure.align_ylabels([loss, dice])
    note = "one line per training; ringed: the step whose weights the methods use"
    if numbers["ends_early"].any():
        note += "; crossed: ended early (patience)"
    figure.suptitle(f"{caption_note}; {note}", fontsize="small", x=0.01, ha="left")
    return figure


def _draw_network(loss: Axes, dice: Axes, rows: pd.DataFrame) -> None:
    for _, training in rows.groupby(["split", "seed"]):
        validated = training.dropna(subset="validation_dice")
        selected = validated[validated["selected"]]
        marks = {"marker": "o", "markersize": 2.5, "color": COLOUR, "linewidth": 0.9}
        loss.plot(training["step"], training["loss"], **marks)
        dice.plot(validated["step"], validated["validation_dice"], **marks)
        rings = {"marker": "o", "s": 42, "facecolors": "none", "edgecolors": style.INK, "linewidths": 0.9, "zorder": 3}
        dice.scatter(selected["step"], selected["validation_dice"], **rings)
        end, cross = validated[validated["ends_early"]], {"marker": "x", "s": 30, "color": style.INK, "linewidths": 0.9}
        if len(end):
            dice.scatter(end["step"], end["validation_dice"], zorder=3, **cross)
    if (rows["loss"] > 0).all():
        loss.set_yscale("log")
        label_log_axis(loss.yaxis)
    dice.set_ylim(0, 1)
    dice.set_xlabel("Step")
    for axis in (loss, dice):
        axis.set_xlim(0, rows["step"].max() * 1.05)
        axis.xaxis.set_major_locator(MaxNLocator(3, integer=True))
    loss.tick_params(labelbottom=False)
