"""Dice and HD95 against ensemble size, from one pool of members per case.

Reference: PD-DDPM, Sec. 3.5 and Fig. 4; Bieder et al. 2023 (PatchDDM), Fig. 4 and 5.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
import pandas as pd

from pd_ddpm.evaluation.class_scores import class_dice
from pd_ddpm.evaluation.mask_geometry import MaskGeometry
from pd_ddpm.evaluation.metrics import ReferenceMask, dice, hd95_mm
from pd_ddpm.inference.class_ensemble import most_probable
from pd_ddpm.inference.ensemble import ensemble_mask

Subset = tuple[int, ...]


def subsets(pool: int, per_size: int, stream: np.random.Generator) -> dict[int, list[Subset]]:
    """Choose the subsets of members that form the ensembles of each size.

    If a size has at most `per_size` subsets, all are used. Otherwise `per_size` distinct subsets are sampled, always including
    the first members (0, ..., size - 1). Random permutations of the pool are split into disjoint subsets. Only disjoint
    subsets are independent, and independent sampling would rarely give such pairs.

    Use an equally seeded generator for every case. All cases then have the same subsets, and each subset has a mean over the
    test set.

    Args:
        pool: the number of members.
        per_size: largest number of subsets per ensemble size.
        stream: random generator.

    Returns:
        Ensemble size 1..pool -> ascending tuples of members, in sorted order.

    Raises:
        ValueError: pool or per_size is less than 1.
    """
    if pool < 1 or per_size < 1:
        raise ValueError(
            f"subsets: pool ({pool}) and subsets per size ({per_size}) must be at least one. Correct the settings."
        )
    subsets_by_size = {}
    for size in range(1, pool + 1):
        if math.comb(pool, size) <= per_size:
            subsets_by_size[size] = list(combinations(range(pool), size))
            continue
        sampled: set[Subset] = set()
        order = list(range(pool))
        while len(sampled) < per_size:
            disjoint = [tuple(sorted(order[first : first + size])) for first in range(0, pool - size + 1, size)]
            sampled.update(disjoint[: per_size - len(sampled)])
            order = stream.permutation(pool).tolist()
        subsets_by_size[size] = sorted(sampled)
    return subsets_by_size


def curve(
    samples: np.ndarray, reference: ReferenceMask, subsets: Mapping[int, Sequence[Subset]], hd95: bool = False
) -> pd.DataFrame:
    """Compute the Dice of the ensemble of every subset, equal to `metrics.score` of its `ensemble_mask`.

    Args:
        samples: (X, Y, Z, N) the pool of one case, in [0, 1].
        reference: the ground truth of the case.
        subsets: subsets from `subsets`.
        hd95: whether HD95 is computed, too. It takes longer than Dice.

    Returns:
        Columns size, subset (text such as "0+3+4"), dice and, on demand, hd95_mm.

    Raises:
        ValueError: the shapes differ, or a subset names a member that the pool does not have.
    """
    pool = samples.shape[-1]
    if (highest := max(member for same_size in subsets.values() for subset in same_size for member in subset)) >= pool:
        raise ValueError(
            f"{reference.name}: a subset names member {highest}, but the pool has only members 0 to {pool - 1}. "
            "Use subsets of the pool."
        )
    # A voxel that no member marks as lesion is background in every ensemble. Few voxels remain.
    relevant = reference.geometry.mask.copy()
    for member in range(pool):
        relevant |= reference.scored_part(ensemble_mask(samples[..., member, None]))
    ground_truth = reference.geometry.mask[relevant]
    members = np.ascontiguousarray(samples[relevant].T, dtype=np.float64)
    rows = []
    for size, same_size in subsets.items():
        for subset in same_size:
            mask = ensemble_mask(members[list(subset)].T)
            rows.append({"size": size, "subset": "+".join(map(str, subset)), "dice": dice(ground_truth, mask)})
            if hd95:
                predicted = np.zeros_like(relevant)
                predicted[relevant] = mask
                rows[-1]["hd95_mm"] = hd95_mm(reference.geometry, MaskGeometry(predicted, reference.geometry.spacing_mm))
    return pd.DataFrame(rows)


def class_curve(
    samples: np.ndarray,
    truth: np.ndarray,
    subsets: Mapping[int, Sequence[Subset]],
    hd95_spacing_mm: tuple[float, float, float] | None = None,
) -> pd.DataFrame:
    """Compute the mean Dice over the classes of the ensemble of every subset, see `class_scores.class_dice`.

    Args:
        samples: (X, Y, Z, N, C) the pool of one case.
        truth: (X, Y, Z) number of the class of each voxel of the ground truth.
        subsets: subsets from `subsets`.
        hd95_spacing_mm: voxel size along X, Y, Z, if the mean HD95 over the classes that have one is computed, too.

    Returns:
        Columns as those of `curve`.
    """
    # If background is the most probable class of every member, it is that of every ensemble.
    relevant = truth > 0
    for member in range(samples.shape[3]):
        relevant |= most_probable(samples[..., member, :]) > 0
    members, index = np.moveaxis(samples[relevant], 1, 0).astype(np.float64), truth[relevant]
    num_classes, rows = samples.shape[-1], []
    for size, same_size in subsets.items():
        for subset in same_size:
            ensemble = most_probable(members[list(subset)].mean(axis=0))
            dice_of_classes = class_dice(index, ensemble, num_classes)
            rows.append({"size": size, "subset": "+".join(map(str, subset)), "dice": dice_of_classes})
            if hd95_spacing_mm is not None:
                predicted = np.zeros_like(truth)
                predicted[relevant] = ensemble
                rows[-1]["hd95_mm"] = _class_hd95(truth, predicted, num_classes, hd95_spacing_mm)
    return pd.DataFrame(rows)


def _class_hd95(truth: np.ndarray, predicted: np.ndarray, num_classes: int, spacing_mm: tuple[float, float, float]) -> float:
    """Return the mean HD95 over the classes of two maps of class numbers (X, Y, Z) that have one; NaN if none has."""
    pairs = ((MaskGeometry(labels == number, spacing_mm) for labels in (truth, predicted)) for number in range(1, num_classes))
    values = [value for pair in pairs if not math.isnan(value := hd95_mm(*pair))]
    return float(np.mean(values)) if values else math.nan


def variance_of_disjoint(scores: pd.Series) -> float:
    """Estimate the variance of a score over independent ensembles of one size, from subsets of one pool.

    The estimate is half the mean squared difference between disjoint subsets, which is unbiased for any score. The variance
    over all subsets is too low, because they share members. For a score that is an average over members, it is too low by the
    factor (N - n)/N for n of N members. Dice is no such average.

    Args:
        scores: score of each subset; the index names its members, such as "0+3+4".

    Returns:
        The variance; NaN if no two subsets are disjoint, as for more than half of the pool.

    Reference: Hoeffding 1948.
    """
    members = scores.index.to_series().astype(str).str.get_dummies("+").to_numpy()
    first, second = np.nonzero(np.triu(members @ members.T == 0, k=1))
    values = scores.to_numpy()
    return float(np.mean((values[first] - values[second]) ** 2) / 2) if first.size else math.nan


def subset_means(test: pd.DataFrame, score: str, method: str) -> pd.Series:
    """Return the mean of a score over the cases of one test set, by subset, without undefined values.

    Args:
        test: ensemble rows of one method, split, seed and size.
        score: column of the rows.
        method: name of the method in the message of the error.

    Raises:
        ValueError: the cases have different subsets.
    """
    by_subset = test.groupby("subset")[score]
    if (by_subset.size() != test["case"].nunique()).any():
        raise ValueError(f"the cases of {method} have different subsets of members. Choose the subsets with the same seed.")
    return by_subset.mean()
