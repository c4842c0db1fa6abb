"""Scores of label maps with several classes: one row per case and class, and one with the mean over the classes.

A class is scored as a binary mask against all others, with the metrics of `metrics.score`. Empty masks follow the policy of Fu
et al. 2024 instead of the challenge's:

====================  ===========  =====================================
class is absent from  Dice, IoU    HD95
====================  ===========  =====================================
both                  NaN          NaN
one of them           0            NaN
====================  ===========  =====================================

Metrics of lesions and of volume differences are also NaN if a class is absent from both. NaN is left out of means, and the
classes without a value are counted. `hd95_largest_mm` is HD95 as Fu et al. 2024 define it.

Probabilities are scored as those of one class against all others, too. The row of the mean has the class "mean". Its volumes
and voxels are sums over the classes, its uncertainty is `ClassSegmentation.variance`, and all else is the mean over the
classes without background.

Reference: Fu et al. 2024 (recycling), released code: metric/dice.py, metric/surface_distance.py.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from pd_ddpm.evaluation.mask_geometry import MaskGeometry
from pd_ddpm.evaluation.metrics import ReferenceMask, dice, hd95_largest_mm, score
from pd_ddpm.evaluation.probability_scores import members_dice, probability_scores, rater_scores
from pd_ddpm.evaluation.scores import MEAN
from pd_ddpm.inference.class_ensemble import ClassSegmentation
from pd_ddpm.inference.ensemble import Segmentation

# Columns that are sums over the classes. All others are means.
SUMS = (
    *("reference_volume_ml", "predicted_volume_ml", "reference_voxels", "predicted_voxels"),
    *("reference_lesions", "predicted_lesions"),
)
# Not defined for a class that neither truth nor prediction has.
_UNDEFINED_IF_ABSENT = ("dice", "jaccard", "avd_percent", "lesion_recall", "lesion_precision", "lesion_f1")


@dataclass(frozen=True, eq=False)
class ClassTruth:
    """The ground truth of one case.

    Attributes:
        raters: label maps (X, Y, Z) of all raters, the reference first.
        classes: label -> name of each class.
        region: (X, Y, Z) bool, where probabilities are scored.
        brain: (X, Y, Z) bool, where the uncertainty is averaged.
        spacing_mm: voxel size along X, Y, Z.
        name: name of the case.
    """

    raters: Sequence[np.ndarray]
    classes: Mapping[int, str]
    region: np.ndarray
    brain: np.ndarray
    spacing_mm: tuple[float, float, float]
    name: str


def score_classes(truth: ClassTruth, segmentation: ClassSegmentation, bins: int) -> list[dict[str, Any]]:
    """Return the scores of each class, in the order of the labels, and their mean.

    Args:
        truth: the ground truth.
        segmentation: members of classes in the same order.
        bins: number of bins of the calibration error.
    """
    rows = []
    for number, (label, name) in enumerate(truth.classes.items(), start=1):
        raters = [(labels == label).astype(np.uint8) for labels in truth.raters]
        binary = segmentation.of_class(number)
        row = {"class": name} | score_class(raters[0], binary, truth.spacing_mm, truth.name)
        row["uncertainty"] = _mean_uncertainty(binary.variance, truth.brain, binary.num_members)
        row |= probability_scores(segmentation.samples[..., number], raters[0], truth.region, bins)
        row |= {"members_dice": members_dice(binary)} | rater_scores(binary.samples, raters)
        rows.append(row)
    mean = mean_over_classes(rows)
    mean["uncertainty"] = _mean_uncertainty(segmentation.variance, truth.brain, segmentation.num_members)
    return [*rows, mean]


def score_class(truth: np.ndarray, binary: Segmentation, spacing_mm: Sequence[float], name: str) -> dict[str, float]:
    """Return the metrics of one class of a case; the module docstring defines them.

    Args:
        truth: (X, Y, Z) uint8, 1 where the reference has the class.
        binary: the class in the segmentation.
        spacing_mm: voxel size along X, Y, Z.
        name: name of the case in error messages.
    """
    reference = ReferenceMask.from_labels(truth, spacing_mm, name)
    scores = score(reference, binary.mask)
    predicted = MaskGeometry(binary.mask, reference.geometry.spacing_mm)
    scores["hd95_largest_mm"] = hd95_largest_mm(reference.geometry, predicted)
    members = np.moveaxis(binary.member_masks, -1, 0)
    scores["single_member_dice"] = float(np.mean([dice(reference.geometry.mask, mask) for mask in members]))
    if not (scores["reference_voxels"] or scores["predicted_voxels"]):
        scores |= dict.fromkeys(_UNDEFINED_IF_ABSENT, np.nan)
    return scores


def mean_over_classes(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the row of the mean over the classes of a case, with the number of classes without Dice and without HD95."""
    table = pd.DataFrame(rows).drop(columns="class").astype(float)
    sums = [column for column in SUMS if column in table]
    counts = {f"classes_without_{name.removesuffix('_mm')}": int(table[name].isna().sum()) for name in ("dice", "hd95_mm")}
    return {"class": MEAN} | table.mean().to_dict() | table[sums].sum().to_dict() | counts


def class_dice(truth: np.ndarray, index: np.ndarray, num_classes: int) -> float:
    """Return the mean Dice over the classes of a label map; NaN if neither map has any class.

    Args:
        truth: (N,) number of the class of each voxel, 0 is background.
        index: (N,) predicted numbers.
        num_classes: number of classes C, with background.
    """
    truth_counts, counts, shared = (
        np.bincount(values, minlength=num_classes)[1:] for values in (truth, index, truth[truth == index])
    )
    total = truth_counts + counts
    return float(np.mean(2 * shared[total > 0] / total[total > 0])) if total.any() else np.nan


def _mean_uncertainty(variance: np.ndarray, brain: np.ndarray, num_members: int) -> float | None:
    """Return the mean variance over the brain; None for a single member."""
    return float(variance[brain].mean()) if num_members > 1 else None
