"""Table of calibration, error detection and agreement with the raters for each method. Not in the paper."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from pd_ddpm.evaluation.probability_scores import CALIBRATION_BINS
from pd_ddpm.evaluation.scores import average_over_seeds, select_method
from pd_ddpm.exhibits.document import Document, Part
from pd_ddpm.exhibits.tables.cells import mean_and_deviation

MEASURES = {
    "ece": "ECE",
    "brier": "Brier",
    "error_auroc_variance": "Error AUROC, variance",
    "error_auroc_predictive": "Error AUROC, p(1−p)",
    "ged_squared": "GED²",
    "uncertainty": "Uncertainty",
    "dice": "Dice",
}
SMALL = {"ece", "brier", "uncertainty"}  # in thousandths
INTER_RATER = "Inter-rater"


def uncertainty_table(scores: pd.DataFrame, labels: Mapping[str, str]) -> pd.DataFrame:
    """Return one row per method, in the order of `labels` (method -> name), and one row for the raters.

    The columns are mean and standard deviation over cases (n - 1) of the expected calibration error, Brier score, both AUROCs
    of error detection, squared generalised energy distance, uncertainty and Dice. Undefined values are empty. The row
    "Inter-rater" holds the mean Dice over pairs of raters in column `dice`. It covers the cases with several raters, and is
    missing if there are none.
    """
    cases = average_over_seeds(scores)
    rows = []
    for method, label in labels.items():
        method_cases = select_method(cases, method)
        row = {"method": label, "cases": len(method_cases)}
        row |= {"samples": method_cases["samples"].max(), "raters": method_cases["raters"].max()}
        for name in MEASURES:
            row |= {name: method_cases[name].mean(), f"{name}_sd": method_cases[name].std(ddof=1)}
        rows.append(row)
    agreement = cases.groupby("case")[["interrater_dice", "raters"]].mean().dropna(subset=["interrater_dice"])
    if len(agreement):
        dice = agreement["interrater_dice"]
        row = {"method": INTER_RATER, "cases": len(dice), "samples": np.nan, "raters": agreement["raters"].max()}
        rows.append(row | {"dice": dice.mean(), "dice_sd": dice.std(ddof=1)})
    return pd.DataFrame(rows).astype({"samples": "Int64", "raters": "Int64"})


def uncertainty_document(table: pd.DataFrame, margin_mm: float, caption_note: str, bins: int = CALIBRATION_BINS) -> Document:
    """Return the document of the table.

    Args:
        table: rows of `uncertainty_table`.
        margin_mm: width of the margin around the brain mask in which probabilities are scored.
        caption_note: dataset and scale that the numbers belong to.
        bins: number of bins of the calibration error.
    """
    cells = pd.DataFrame({"Method": table["method"]})
    cells["Cases"] = table["cases"]
    cells["K"] = ["" if pd.isna(samples) else str(samples) for samples in table["samples"]]
    for name, heading in MEASURES.items():
        scale, digits, unit = (1000, 2, " [10⁻³]") if name in SMALL else (1, 3, "")
        rows = [row for _, row in (table[[name, f"{name}_sd"]] * scale).iterrows()]
        cells[heading + unit] = ["" if pd.isna(row[name]) else mean_and_deviation(row, name, digits) for row in rows]
    notes = [
        "Mean ± standard deviation over test cases; empty: undefined for this row. The paper prints none of these but the "
        "uncertainty, in its Figure 3.",
        f"Region of the first four: the brain mask and {margin_mm:g} mm around it, without label 2 (other pathology). Nearly "
        "all of its voxels are easy background, which makes ECE and Brier small and AUROC high: compare the rows with each "
        "other, not with other work.",
        f"ECE, expected calibration error: how far the mean probability is from the share of lesion, in {bins} bins of equal "
        "width, averaged over voxels. Brier: mean squared difference of probability and truth. Lower is better for both.",
        "Error AUROC: the chance that a wrong voxel of the mask is given more uncertainty than a right one; 0.5 is chance, 1 "
        "perfect. By the variance of the members, which needs two or more; and by p(1−p) of the mean probability p, which "
        "every method has: only the latter compares a single network with an ensemble.",
        "GED², squared generalised energy distance (Kohl et al. 2018) between the members, each cut at 0.5, and all raters, "
        "with distance 1 − Jaccard: 0 if the members vary as the raters do. It is taken over all pairs of K members, a member "
        "with itself included, which adds the mean distance between members divided by K: the smaller K, the larger GED². ECE, "
        "too, is larger for few members that are nearly binary (K + 1 levels of probability). Compare rows of equal K only.",
        "Uncertainty: variance of the members, mean over the brain. It is not better when high or low.",
        f"{INTER_RATER}: Dice between raters, mean over their pairs: how well the raters agree with each other. It is no "
        "upper bound of a method's Dice, since methods learn from, and are scored against, one reference only.",
    ]
    counts = table.loc[table["method"] == INTER_RATER, "cases"]
    if len(counts) and counts.item() != table["cases"].max():
        notes.append(f"Only {counts.item()} cases have more than one rater: their Dice and GED² are those of these cases.")
    return Document("Uncertainty, calibration and agreement with raters", caption_note, [Part("Per method", cells, notes)])
