"""How much the members of an ensemble and their mean probability are worth, beyond the one mask that is cut from them.

In a region around the brain, voxel by voxel, with p the mean of the members and y = 1 for lesion:

* Brier score: mean of (p - y)^2. 0 is perfect.
* Expected calibration error (Naeini et al. 2015, Guo et al. 2017; here of the lesion's probability, not of the winning
  class): bins of equal width in p; the mean over voxels of |mean p - share of lesion| of a voxel's bin. A bin holds its lower
  edge, the last one both.
* Error detection: AUROC of an uncertainty as a marker of the voxels where the mask is wrong, once with the variance of the
  members, once with p (1 - p), which one mask alone has, too. 0.5 is chance. A wider region holds more easy voxels.

Against several raters, on the whole case:

* Generalised energy distance, squared (Kohl et al. 2018, Sec. 3), of members S and raters Y with d = 1 - Jaccard:
  2 E[d(S, Y)] - E[d(S, S')] - E[d(Y, Y')]. 0 if the members vary as the raters do.

Voxels of other pathology (label 2) count nowhere.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import ndimage

from pd_ddpm.evaluation.metrics import LESION, OTHER_PATHOLOGY
from pd_ddpm.inference.ensemble import Segmentation, threshold

CALIBRATION_BINS = 15  # as Guo et al. 2017


def band(brain: np.ndarray, spacing_mm: Sequence[float], margin_mm: float) -> np.ndarray:
    """The brain mask (X, Y, Z) bool and all voxels whose centre lies at most `margin_mm` from that of a brain voxel.

    Raises ValueError if the brain mask is empty or the margin negative.
    """
    if not brain.any():
        raise ValueError("the brain mask is empty, so that there is no region to score; check how it was made")
    if margin_mm < 0:
        raise ValueError(f"the margin around the brain must not be negative, but is {margin_mm} mm")
    reach = np.floor(margin_mm / np.asarray(spacing_mm, dtype=float)).astype(int)
    box = tuple(
        slice(max(part.start - more, 0), part.stop + more)
        for part, more in zip(ndimage.find_objects(brain.astype(np.uint8))[0], reach, strict=True)
    )
    widened = np.zeros(brain.shape, dtype=bool)
    widened[box] = ndimage.distance_transform_edt(~brain[box], sampling=spacing_mm) <= margin_mm + 1e-6
    return widened


def probability_scores(
    samples: np.ndarray, labels: np.ndarray, region: np.ndarray, bins: int = CALIBRATION_BINS
) -> dict[str, float]:
    """Calibration error, Brier score and error detection of one case, defined as in the module docstring.

    samples: members (X, Y, Z, K) in [0, 1]; labels: reference (X, Y, Z) of 0, 1, 2; region: (X, Y, Z) bool.
    The AUROC by variance is NaN for a single member; both are NaN where all voxels are right or all wrong.
    Raises ValueError on shapes that differ, on samples outside [0, 1] and on a region without a voxel to count.
    """
    _check_shapes(samples, labels, region)
    counted = region & (labels != OTHER_PATHOLOGY)
    if not counted.any():
        raise ValueError("the region holds no voxel to score: it is empty, or all of it is label 2")
    members, lesion = samples[counted], labels[counted] == LESION
    if not (members.min() >= 0 and members.max() <= 1):
        raise ValueError("samples must be probabilities in [0, 1], without NaN")
    scored = Segmentation.from_members(members)
    probability, wrong = scored.mean, scored.mask != lesion
    return {
        "ece": expected_calibration_error(probability, lesion, bins),
        "brier": float(np.mean((probability - lesion) ** 2)),
        "error_auroc_variance": np.nan if scored.num_members == 1 else auroc(scored.variance, wrong),
        # float32, as the variance is: equal values that differ by rounding must tie.
        "error_auroc_predictive": auroc((probability * (1 - probability)).astype(np.float32), wrong),
    }


def expected_calibration_error(probability: np.ndarray, truth: np.ndarray, bins: int = CALIBRATION_BINS) -> float:
    """Mean over voxels (N,) of |mean probability - share that is true| in the bin of the voxel; truth is boolean."""
    # Multiples of 1/255 lie on the edges of 15 bins, and come back from a file a rounding error too low.
    bin_of = np.minimum(((probability + 1e-6) * bins).astype(np.intp), bins - 1)
    excess = np.bincount(bin_of, weights=probability - truth, minlength=bins)
    return float(np.abs(excess).sum() / probability.size)


def auroc(marker: np.ndarray, positive: np.ndarray) -> float:
    """Chance that the marker (N,) is higher at a positive than at another voxel, ties counting half (Mann-Whitney).

    NaN where all voxels are positive or none is.
    """
    positives = np.count_nonzero(positive)
    negatives = positive.size - positives
    if not positives or not negatives:
        return np.nan
    ranks = pd.Series(marker).rank().to_numpy()[positive].sum()
    return float((ranks - positives * (positives + 1) / 2) / (positives * negatives))


def rater_scores(samples: np.ndarray, raters: Sequence[np.ndarray]) -> dict[str, float]:
    """Number of raters, squared generalised energy distance to them, and the mean Dice over pairs of raters.

    samples: members (X, Y, Z, K), each cut at 0.5; raters: their label maps (X, Y, Z) of 0, 1, 2. What any rater labels 2
    counts nowhere. Two empty masks have distance 0 and Dice 1. Both scores are NaN with fewer than two raters.

    Expectations are means over all pairs, a mask with itself included (the estimator of Kohl et al. 2018). With K members
    that puts E[d(S, S')] / K too much on the distance, and likewise with the raters: compare equal K only.
    Raises ValueError on shapes that differ.
    """
    _check_shapes(samples, *raters)
    if len(raters) < 2:
        return {"raters": len(raters), "ged_squared": np.nan, "interrater_dice": np.nan}
    members = samples.shape[-1]
    masks = np.concatenate([threshold(samples), np.stack([labels == LESION for labels in raters], axis=-1)], axis=-1)
    counted = masks.any(axis=-1) & ~np.any([labels == OTHER_PATHOLOGY for labels in raters], axis=0)
    chosen = masks[counted].astype(np.float64)
    shared = chosen.T @ chosen
    total = np.add.outer(shared.diagonal(), shared.diagonal())
    # Where both masks are empty, 0 / 0: they agree.
    distance = 1 - np.divide(shared, total - shared, out=np.ones_like(shared), where=total > 0)
    dice = np.divide(2 * shared, total, out=np.ones_like(shared), where=total > 0)
    between, within, spread = distance[:members, members:], distance[:members, :members], distance[members:, members:]
    return {
        "raters": len(raters),
        "ged_squared": float(2 * between.mean() - within.mean() - spread.mean()),
        "interrater_dice": float(dice[members:, members:][np.triu_indices(len(raters), k=1)].mean()),
    }


def _check_shapes(samples: np.ndarray, *volumes: np.ndarray) -> None:
    if samples.ndim != 4 or not samples.shape[-1]:
        raise ValueError(f"samples must be members of a volume (X, Y, Z, K), not an array of shape {samples.shape}")
    for volume in volumes:
        if volume.shape != samples.shape[:-1]:
            raise ValueError(
                f"samples have the grid {samples.shape[:-1]}, a label map or region {volume.shape}; bring both onto one grid"
            )
