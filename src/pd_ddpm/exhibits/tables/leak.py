"""Leak table: what a denoiser adds to the mask that it starts from, by the share of recycled training samples.

At the paper's T' the diffused mask is still readable, so a denoiser that is trained on diffused ground truth trusts it and
copies the errors of the pre-segmentation. The table shows this leak, and what recycling does to accuracy and to spread.

Reference: Fu et al. 2024 (recycling); PD-DDPM, Sec. 3.4 and Table 2 (starts).
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd

from pd_ddpm.evaluation.scores import by_training, select_method
from pd_ddpm.evaluation.statistics import mean_interval, mean_over_cases, paired_differences
from pd_ddpm.exhibits.document import Document, Part
from pd_ddpm.exhibits.tables.cells import (
    METRICS_NOTE,
    cost_cell,
    counts_and_cost,
    effect_and_interval,
    interval_note,
    mean_and_deviation,
    missing_hd95_note,
    number,
    summary,
)
from pd_ddpm.exhibits.tables.leak_answer import PRESEGMENTER, add_answers, answer_part, row_denoiser, row_name, row_start
from pd_ddpm.exhibits.training_remarks import flattening

COMPARED_WITH_SHARE_0 = ("dice", "ged_squared", "error_auroc_variance")


@dataclass(frozen=True)
class Measure:
    """A column of scores: its heading, the factor of the shown values, and their decimals."""

    heading: str
    factor: float = 1.0
    digits: int = 3


MEASURES = {
    "dice": Measure("Dice"),
    "hd95_mm": Measure("HD95 [mm]", digits=2),
    "lesion_f1": Measure("F1"),
    "ece": Measure("ECE [10⁻³]", 1e3, 2),
    "ged_squared": Measure("GED²"),
    "uncertainty": Measure("Spread [10⁻³]", 1e3, 2),
    "error_auroc_variance": Measure("Error AUROC, variance"),
    "members_dice": Measure("Members' Dice"),
    "single_member_dice": Measure("One member's Dice"),
}


@dataclass(frozen=True)
class LeakRow:
    """A row of the leak table.

    Attributes:
        method: method whose scores the row shows.
        network: its denoiser, or the network of the pre-segmenter.
        denoiser: label of the denoiser, or of the pre-segmenter.
        share: share of recycled training samples; None for the pre-segmenter.
        likelihood_skip: whether the denoiser has the likelihood skip; None for the pre-segmenter.
        start: what the chain starts from, or the label of a mean of methods.
        t_start: start timestep T' of the chain; None for the pre-segmenter and for means.
        reference: method with share 0, the same skip and the same start; None for that method itself, or without one.
        presegmented_share: share of training samples from pre-segmentations; None for the pre-segmenter.
        raters: whose masks the denoiser learns, "first" or "random"; None for the pre-segmenter.
        strategy: training strategy of the denoiser; None for the pre-segmenter.
    """

    method: str
    network: str
    denoiser: str
    share: float | None
    likelihood_skip: bool | None
    start: str
    t_start: int | None
    reference: str | None
    presegmented_share: float | None = None
    raters: str | None = None
    strategy: str | None = None


def leak_table(
    scores: pd.DataFrame, rows: Sequence[LeakRow], flops: Mapping[str, float], seconds: Mapping[str, float]
) -> pd.DataFrame:
    """Return the leak table: one row per method, the pre-segmenter first.

    Args:
        scores: score rows of all methods.
        rows: rows in the order of the table; the first is the pre-segmenter.
        flops: network -> FLOPs of its training.
        seconds: network -> seconds of its training.

    Returns:
        Fields of the rows except `reference`. For each measure its mean over cases, the standard deviation (n - 1, `*_sd`) and
        the 95 % interval (`*_low`, `*_high`). `dice_to_presegmenter` is the paired difference in Dice to the first row, and
        `dice_to_share_0`, `ged_squared_to_share_0` and `error_auroc_variance_to_share_0` are those to the reference, each with
        its 95 % interval. `spread_ratio` is the spread divided by that of the reference. `network_evaluations` counts one
        slice with all members, `training_flops` and `training_seconds` one training of the row's network. Boolean columns say
        which conditions of the table's question a row meets, see `add_answers`.

    Raises:
        ValueError: a method has no score.
    """
    cases = by_training(scores)
    presegmenter = select_method(cases, rows[0].method)
    table = []
    for row in rows:
        values = select_method(cases, row.method)
        reference = select_method(cases, row.reference) if row.reference else None
        columns = asdict(row)
        del columns["reference"]
        for measure in MEASURES:
            columns |= summary(values[measure], measure)
        columns |= _difference(PRESEGMENTER, values["dice"], None if row is rows[0] else presegmenter["dice"])
        for measure in COMPARED_WITH_SHARE_0:
            name, others = f"{measure}_to_share_0", None if reference is None else reference[measure]
            columns |= _difference(name, values[measure], others)
        columns |= {
            "spread_ratio": _ratio(values, reference),
            **counts_and_cost(values),
            "training_flops": flops[row.network],
            "training_seconds": seconds[row.network],
        }
        table.append(columns)
    types = {"t_start": "Int64", "share": float, "likelihood_skip": "boolean", "presegmented_share": float}
    return add_answers(pd.DataFrame(table).astype(types))


def _difference(name: str, values: pd.Series, others: pd.Series | None) -> dict[str, float]:
    """Return the mean paired difference with its 95 % interval, in columns that begin with this name."""
    if others is None:
        return dict.fromkeys([name, f"{name}_low", f"{name}_high"], np.nan)
    differences = paired_differences(values, others)
    low, high = mean_interval(differences)
    return {name: mean_over_cases(differences), f"{name}_low": low, f"{name}_high": high}


def _ratio(values: pd.DataFrame, reference: pd.DataFrame | None) -> float:
    """Return the spread divided by that of the reference; NaN without a reference, or if that has no spread."""
    if reference is None:
        return np.nan
    spread = mean_over_cases(reference["uncertainty"])
    return mean_over_cases(values["uncertainty"]) / spread if spread > 0 else np.nan


def leak_document(table: pd.DataFrame, late_gains: Mapping[str, Sequence[float]], caption_note: str) -> Document:
    """Return the document of the leak table: scores and differences for each kind of skip, the answer, and the trainings.

    Args:
        table: rows of `leak_table`.
        late_gains: network -> rise of the validation Dice in the last third of each of its trainings.
        caption_note: dataset and scale that the numbers belong to.
    """
    parts = []
    for has_skip in (True, False):
        rows = table[table["likelihood_skip"].eq(has_skip).fillna(False)]
        if len(rows):
            skip = "with the likelihood skip" if has_skip else "without the likelihood skip"
            parts.append(_scores_part(pd.concat([table.iloc[:1], rows]), f"Scores {skip}"))
            parts.append(_differences_part(rows, table["denoiser"].iloc[0], f"Differences {skip}"))
    return Document(
        "Leak of the pre-segmentation", caption_note, [*parts, answer_part(table), _trainings_part(table, late_gains)]
    )


def _scores_part(rows: pd.DataFrame, heading: str) -> Part:
    cells = pd.DataFrame({"Denoiser": rows["denoiser"], "Start": [row_start(row) for _, row in rows.iterrows()]})
    for name, measure in MEASURES.items():
        scaled = rows[[name, f"{name}_sd"]] * measure.factor
        if name == "dice":
            cells[measure.heading] = [mean_and_deviation(row, name) for _, row in scaled.iterrows()]
        else:
            cells[measure.heading] = ["" if pd.isna(mean) else number(mean, measure.digits) for mean in scaled[name]]
    cells["K"] = rows["samples"]
    cells["Evaluations"] = rows["network_evaluations"].map(cost_cell)
    notes = [
        "Denoiser: share of the training samples whose x_t is made from the network's own estimate instead of the ground "
        "truth, or another strategy of training. Start: what the reverse chains begin with. A mean is that of the probability "
        "maps of both methods, thresholded at one half.",
        METRICS_NOTE,
        "Mean over test cases, for Dice ± standard deviation. Undefined values are empty. The csv has deviations and 95 % "
        "intervals of all measures.",
        "ECE: expected calibration error. GED²: squared generalised energy distance between members and raters; compare rows "
        "with equal K only. Spread: variance over the members, mean over the brain. Error AUROC: how well the variance detects "
        "wrong voxels. Members' Dice: mean over pairs of members. One member's Dice: mean over the members, each thresholded "
        "at one half. K: number of members. Evaluations: network evaluations for one slice with all members.",
        missing_hd95_note(rows.assign(row=[row_name(row) for _, row in rows.iterrows()]), "row"),
    ]
    return Part(heading, cells, notes, left={"Start"})


def _differences_part(rows: pd.DataFrame, presegmenter: str, heading: str) -> Part:
    cells = pd.DataFrame({"Denoiser": rows["denoiser"], "Start": [row_start(row) for _, row in rows.iterrows()]})
    columns = {
        f"Dice − {presegmenter}": PRESEGMENTER,
        "Dice − share 0": "dice_to_share_0",
        "GED² − share 0": "ged_squared_to_share_0",
        "Error AUROC − share 0": "error_auroc_variance_to_share_0",
    }
    for title, name in columns.items():
        cells[title] = ["" if pd.isna(row[name]) else effect_and_interval(row, name) for _, row in rows.iterrows()]
    cells["Spread / share 0"] = ["" if pd.isna(ratio) else number(ratio, 2) for ratio in rows["spread_ratio"]]
    notes = [
        "Mean over cases of the paired difference, in parentheses its 95 % interval. Share 0: the denoiser with the share 0, "
        "the same likelihood skip and the same start. The intervals are not corrected for the number of rows.",
        interval_note(int(rows["trainings"].min())),
    ]
    return Part(heading, cells, notes, left={"Start"})


def _trainings_part(table: pd.DataFrame, late_gains: Mapping[str, Sequence[float]]) -> Part:
    networks = table.drop_duplicates("network")
    first = networks.iloc[0]
    cells = pd.DataFrame({"Network": networks["network"], "Shown as": [row_denoiser(row) for _, row in networks.iterrows()]})
    for heading, name, form in (("Compute [TFLOP]", "training_flops", ",.2f"), ("Seconds", "training_seconds", ",.0f")):
        unit = 1e12 if name == "training_flops" else 1
        cells[heading] = [f"{value / unit:{form}} ({value / first[name]:.2f} ×)" for value in networks[name]]
    cells["Validation"] = [flattening(late_gains.get(name, [np.nan])) for name in networks["network"]]
    notes = [
        "Compute: planned TFLOP of one training with its validations and, for a denoiser that is trained on pre-segmentations, "
        "those of the networks that make them. Seconds: mean over trainings, with the same networks. In parentheses: as a "
        "multiple of the pre-segmenter's. Validation: whether the best validation Dice still rose in the last third of the "
        "steps.",
    ]
    return Part("Trainings", cells, notes, left={"Shown as", "Validation"})
