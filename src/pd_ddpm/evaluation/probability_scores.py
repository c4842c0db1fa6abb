"""Scores of probabilities and of uncertainty: calibration, error detection, agreement with several raters.

Scores of voxels in a region around the brain, where p is the mean of the members and y = 1 for lesion:

* Brier score: mean of (p - y)^2. 0 is perfect.
* Expected calibration error, of the lesion probability instead of the winning class: p is divided into bins of equal width.
  The score is the mean over voxels of |mean p - fraction of lesion| in the voxel's bin. A bin includes its lower edge; the
  last bin includes both edges.
* Error detection: AUROC of the uncertainty as a marker of voxels where the mask is wrong. It is computed for the variance of
  the members and for p (1 - p), which a single member also has. 0.5 is chance level. A larger region has more easy voxels.

Score of the whole case against several raters:

* Generalised energy distance, squared, of members S and raters Y, where d = 1 - Jaccard:
  2 E[d(S, Y)] - E[d(S, S')] - E[d(Y, Y')]. 0 if the members vary as the raters do.

Score of the members alone:

* Members' Dice: mean Dice of all pairs of members. Near 1 the members are copies of each other.

Voxels with label 2 (other pathology) are ignored, except in the members' Dice.

Reference: Naeini et al. 2015 and Guo et al. 2017 (calibration); Kohl et al. 2018, Sec. 3 (energy distance).
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import ndimage

from pd_ddpm.evaluation.metrics import LESION, OTHER_PATHOLOGY
from pd_ddpm.inference.ensemble import Segmentation, threshold

CALIBRATION_BINS = 15  # as Guo et al. 2017


def band(brain: np.ndarray, spacing_mm: Sequence[float], margin_mm: float) -> np.ndarray:
    """Dilate the brain mask by a margin.

    Args:
        brain: (X, Y, Z) bool.
        spacing_mm: voxel size along X, Y, Z.
        margin_mm: largest distance between the centres of a voxel and of a brain voxel.

    Returns:
        (X, Y, Z) bool.

    Raises:
        ValueError: the brain mask is empty or the margin is negative.
    """
    if not brain.any():
        raise ValueError("the brain mask is empty, so there is no region to score. Check the preprocessing.")
    if margin_mm < 0:
        raise ValueError(
            f"the margin around the brain ({margin_mm} mm) must not be negative. Set `evaluation.band_mm` to 0 or more."
        )
    margin = np.floor(margin_mm / np.asarray(spacing_mm, dtype=float)).astype(int)
    box = tuple(
        slice(max(part.start - size, 0), part.stop + size)
        for part, size in zip(ndimage.find_objects(brain.astype(np.uint8))[0], margin, strict=True)
    )
    region = np.zeros(brain.shape, dtype=bool)
    region[box] = ndimage.distance_transform_edt(~brain[box], sampling=spacing_mm) <= margin_mm + 1e-6
    return region


def probability_scores(
    samples: np.ndarray, labels: np.ndarray, region: np.ndarray, bins: int = CALIBRATION_BINS
) -> dict[str, float]:
    """Return calibration error, Brier score and error detection of one case; the module docstring defines them.

    Args:
        samples: (X, Y, Z, K) members in [0, 1].
        labels: (X, Y, Z) ground truth with the values 0, 1, 2.
        region: (X, Y, Z) bool, the voxels to score.
        bins: number of bins of the calibration error.

    Returns:
        Name -> score. The AUROC of the variance is NaN for a single member. Both AUROCs are NaN if all voxels are correct
        or all are wrong.

    Raises:
        ValueError: the shapes differ, samples are outside [0, 1], or the region has no voxel to score.
    """
    _check_shapes(samples, labels, region)
    scored_voxels = region & (labels != OTHER_PATHOLOGY)
    if not scored_voxels.any():
        raise ValueError("the region has no voxel to score: it is empty or has label 2 only. Check brain mask and labels.")
    members, lesion = samples[scored_voxels], labels[scored_voxels] == LESION
    if not (members.min() >= 0 and members.max() <= 1):
        raise ValueError("samples must be probabilities in [0, 1], without NaN. Sample the case again.")
    scored = Segmentation.from_members(members)
    probability, wrong = scored.mean, scored.mask != lesion
    return {
        "ece": expected_calibration_error(probability, lesion, bins),
        "brier": float(np.mean((probability - lesion) ** 2)),
        "error_auroc_variance": np.nan if scored.num_members == 1 else auroc(scored.variance, wrong),
        # float32, as the variance: values that differ by rounding only must be ties.
        "error_auroc_predictive": auroc((probability * (1 - probability)).astype(np.float32), wrong),
    }


def expected_calibration_error(probability: np.ndarray, ground_truth: np.ndarray, bins: int = CALIBRATION_BINS) -> float:
    """Return the mean over voxels of |mean probability - fraction of lesion| in the bin of the voxel.

    Args:
        probability: (N,) in [0, 1].
        ground_truth: (N,) bool.
        bins: number of bins of equal width.

    Returns:
        The error, in [0, 1].

    Reference: Guo et al. 2017, Eq. 3.
    """
    # Multiples of 1/255 are on the edges of 15 bins, and are read from a file with a small rounding error.
    bin_index = np.minimum(((probability + 1e-6) * bins).astype(np.intp), bins - 1)
    excess = np.bincount(bin_index, weights=probability - ground_truth, minlength=bins)
    return float(np.abs(excess).sum() / probability.size)


def auroc(marker: np.ndarray, positive: np.ndarray) -> float:
    """Return the probability that the marker is higher in a positive than in a negative voxel; ties count half.

    Args:
        marker: (N,) any real values.
        positive: (N,) bool.

    Returns:
        The AUROC, NaN if all voxels are positive or all are negative.

    Reference: Mann & Whitney 1947 (the U statistic).
    """
    positives = np.count_nonzero(positive)
    negatives = positive.size - positives
    if not positives or not negatives:
        return np.nan
    ranks = pd.Series(marker).rank().to_numpy()[positive].sum()
    return float((ranks - positives * (positives + 1) / 2) / (positives * negatives))


def rater_scores(samples: np.ndarray, raters: Sequence[np.ndarray]) -> dict[str, float]:
    """Return the number of raters, the squared generalised energy distance to them, and the mean Dice of pairs of raters.

    Expectations are means over all pairs, including pairs of a mask with itself (the estimator of Kohl et al. 2018). With K
    members this makes the distance too large by E[d(S, S')] / K, and likewise for the raters. Compare equal K only.

    Args:
        samples: (X, Y, Z, K) members, each thresholded at 0.5.
        raters: label maps (X, Y, Z) with the values 0, 1, 2. Voxels to which any rater gives label 2 are ignored.

    Returns:
        Name -> score. Two empty masks have distance 0 and Dice 1. Both scores are NaN with fewer than two raters.

    Raises:
        ValueError: the shapes differ.
    """
    _check_shapes(samples, *raters)
    if len(raters) < 2:
        return {"raters": len(raters), "ged_squared": np.nan, "interrater_dice": np.nan}
    members = samples.shape[-1]
    masks = np.concatenate([threshold(samples), np.stack([labels == LESION for labels in raters], axis=-1)], axis=-1)
    scored_voxels = masks.any(axis=-1) & ~np.any([labels == OTHER_PATHOLOGY for labels in raters], axis=0)
    overlap, total = _overlaps(masks[scored_voxels])
    # Two empty masks (0 / 0) agree.
    distance = 1 - np.divide(overlap, total - overlap, out=np.ones_like(overlap), where=total > 0)
    dice = np.divide(2 * overlap, total, out=np.ones_like(overlap), where=total > 0)
    between, within, raters_within = distance[:members, members:], distance[:members, :members], distance[members:, members:]
    return {
        "raters": len(raters),
        "ged_squared": float(2 * between.mean() - within.mean() - raters_within.mean()),
        "interrater_dice": float(dice[members:, members:][np.triu_indices(len(raters), k=1)].mean()),
    }


def members_dice(segmentation: Segmentation) -> float:
    """Return the mean Dice of all pairs of members, each thresholded at 0.5.

    Two empty masks say nothing about variation, so they are left out. NaN if no pair remains, as for a single member.
    """
    overlap, total = _overlaps(segmentation.member_masks[segmentation.union])
    pairs = np.triu_indices(segmentation.num_members, k=1)
    overlap, total = overlap[pairs], total[pairs]
    return float((2 * overlap[total > 0] / total[total > 0]).mean()) if total.any() else np.nan


def _overlaps(masks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return, for all pairs of masks (N voxels, M) bool, the number of common voxels and the sum of their voxels, (M, M)."""
    voxels = masks.astype(np.float64)
    overlap = voxels.T @ voxels
    return overlap, np.add.outer(overlap.diagonal(), overlap.diagonal())


def _check_shapes(samples: np.ndarray, *volumes: np.ndarray) -> None:
    """Raise ValueError unless samples are (X, Y, Z, K) and all volumes (X, Y, Z)."""
    if samples.ndim != 4 or not samples.shape[-1]:
        raise ValueError(
            f"samples must be members of a volume (X, Y, Z, K), not an array of shape {samples.shape}. Sample the case again."
        )
    for volume in volumes:
        if volume.shape != samples.shape[:-1]:
            raise ValueError(
                f"samples have the grid {samples.shape[:-1]}, a label map or region {volume.shape}. Resample them to one grid."
            )
