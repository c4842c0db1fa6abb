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
    "members_dice": "Members' Dice",
    "uncertainty": "Uncertainty",
    "dice": "Dice",
}
SMALL = {"ece", "brier", "uncertainty"}  # in thousandths
INTER_RATER = "Inter-rater"


def uncertainty_table(scores: pd.DataFrame, labels: Mapping[str, str]) -> pd.DataFrame:
    """Return one row per method, in the order of `labels` (method -> name), and one row for the raters.

    The columns are mean and standard deviation over cases (n - 1) of the expected calibration error, Brier score, both AUROCs
    of error detection, squared generalised energy distance, members' Dice, uncertainty and Dice. Undefined values are empty.
    The row "Inter-rater" holds the mean Dice over pairs of raters in column `dice`. It covers the cases with several raters,
    and is missing if there are none.
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
        "Mean ± standard deviation over test cases; undefined values are empty. Of these measures the paper has only the "
        "uncertainty, in its Figure 3.",
        f"The first four measures are computed in the brain mask plus a margin of {margin_mm:g} mm, without what is not scored "
        "(other pathology). Nearly all of these voxels are easy background, which makes ECE and Brier small and AUROC high. "
        "Compare the rows with each other, not with other work. Measures of several classes are means over the classes.",
        f"ECE, expected calibration error: difference between mean probability and fraction of lesion voxels (voxels of a "
        f"class), in {bins} bins of equal width, averaged over voxels. Brier: mean squared difference between probability and "
        "ground truth. Lower is better for both.",
        "Error AUROC: probability that a wrong voxel of the mask has a higher uncertainty than a correct one; 0.5 is chance, "
        "1 is perfect. The first uncertainty is the variance over members, which needs two or more. The second is p(1−p) of "
        "the mean probability p, which every method has: only this one compares a single network with an ensemble.",
        "GED², squared generalised energy distance (Kohl et al. 2018) between the members, thresholded at 0.5, and all raters, "
        "with the distance 1 − Jaccard; 0 if the members vary like the raters. It is computed over all pairs of K members, "
        "including each member with itself. This adds the mean distance between members divided by K, so GED² is larger for "
        "small K. ECE, too, is larger for few nearly binary members (K + 1 levels of probability). Compare only rows with "
        "equal K.",
        "Members' Dice: Dice between members, mean over their pairs. At 1 the members are equal, and the ensemble is useless.",
        "Uncertainty: variance over members, mean over the brain. Neither a high nor a low value is better.",
        f"{INTER_RATER}: Dice between raters, mean over their pairs. It is no upper bound of a method's Dice, since methods "
        "are trained and scored with one reference only.",
    ]
    counts = table.loc[table["method"] == INTER_RATER, "cases"]
    if len(counts) and counts.item() != table["cases"].max():
        notes.append(f"Only {counts.item()} cases have more than one rater. Inter-rater Dice and GED² use these cases.")
    return Document("Uncertainty, calibration and agreement with raters", caption_note, [Part("Per method", cells, notes)])
