"""Dice against the size of the ensemble, from one pool of members of one case (PD-DDPM Sec. 3.5 and Fig. 4)."""

import math
from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
import pandas as pd

from pd_ddpm.evaluation.metrics import ReferenceMask, dice
from pd_ddpm.inference.ensemble import ensemble_mask

Subset = tuple[int, ...]


def subsets(pool: int, per_size: int, stream: np.random.Generator) -> dict[int, list[Subset]]:
    """Which members make the ensembles of each size 1..pool: size -> ascending tuples of members, in sorted order.

    All subsets where there are at most `per_size`, else that many distinct ones, the first members (0, ..., size - 1) always
    among them. These are drawn by cutting random orders of the pool into pieces, because only subsets that share no member are
    independent, and chance alone hardly finds such pairs. Nothing depends on a case: give every case the subsets of an equally
    seeded stream, so that a subset has a mean over the test set. Raises ValueError unless pool and per_size are at least 1.
    """
    if pool < 1 or per_size < 1:
        raise ValueError(f"subsets need at least one member and one subset per size, not {pool} and {per_size}")
    chosen = {}
    for size in range(1, pool + 1):
        if math.comb(pool, size) <= per_size:
            chosen[size] = list(combinations(range(pool), size))
            continue
        drawn: set[Subset] = set()
        order = list(range(pool))
        while len(drawn) < per_size:
            pieces = [tuple(sorted(order[first : first + size])) for first in range(0, pool - size + 1, size)]
            drawn.update(pieces[: per_size - len(drawn)])
            order = stream.permutation(pool).tolist()
        chosen[size] = sorted(drawn)
    return chosen


def curve(samples: np.ndarray, reference: ReferenceMask, subsets: Mapping[int, Sequence[Subset]]) -> pd.DataFrame:
    """Dice of the ensemble of every subset: columns size, subset (text such as "0+3+4") and dice.

    samples: the pool of one case, (X, Y, Z, N) in [0, 1]. Each Dice is that of `metrics.score` for the `ensemble_mask`
    of the subset's members. Raises ValueError if the shapes differ or the pool lacks a member that a subset names.
    """
    pool = samples.shape[-1]
    if (highest := max(member for of_size in subsets.values() for subset in of_size for member in subset)) >= pool:
        raise ValueError(f"{reference.name}: a subset names member {highest}, but the pool has only members 0 to {pool - 1}")
    # Where no member alone is lesion no mean of members is, so that all but a few voxels are background in every ensemble.
    relevant = reference.geometry.mask.copy()
    for member in range(pool):
        relevant |= reference.scored_part(ensemble_mask(samples[..., member, None]))
    truth = reference.geometry.mask[relevant]
    members = np.ascontiguousarray(samples[relevant].T, dtype=np.float64)
    rows = [
        {"size": size, "subset": "+".join(map(str, subset)), "dice": dice(truth, ensemble_mask(members[list(subset)].T))}
        for size, of_size in subsets.items()
        for subset in of_size
    ]
    return pd.DataFrame(rows)


def variance_of_disjoint(dice: pd.Series) -> float:
    """Variance of Dice over independent ensembles of one size, from subsets of one pool; the index names their members.

    Half the mean square difference between subsets that share no member, which is unbiased for any score. A variance over
    all subsets is too low, because they share members: by (N - n)/N for n of N where the score is an average over members
    (Hoeffding 1948), which Dice is not. NaN where no two subsets are disjoint, as for more than half of the pool.
    """
    members = dice.index.to_series().astype(str).str.get_dummies("+").to_numpy()
    first, second = np.nonzero(np.triu(members @ members.T == 0, k=1))
    values = dice.to_numpy()
    return float(np.mean((values[first] - values[second]) ** 2) / 2) if first.size else math.nan
