"""Scores of chains step by step, and how far they differ between seeds of sampling.

Each member of an ensemble is a chain with noise of its own. Members are therefore what Fu et al. 2024 call inference seeds.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from pd_ddpm.evaluation.scores import name_trainings
from pd_ddpm.evaluation.statistics import CASE, TRAINING

METRICS = ("dice", "hd95_mm")


def step_scores(ensembles: pd.DataFrame, points: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return the scores of single members at each reverse step.

    Args:
        ensembles: ensemble rows of `resample_cases` with HD95; those of one member count.
        points: one mapping for each chain and step, with the keys `method` (name in the rows), `label` and `step`.

    Returns:
        One row per chain, step, training and case: label, step, training, case; the mean of each metric over the members
        (`dice`, `hd95_mm`) and its spread, the largest minus the smallest value (`dice_spread`, `hd95_mm_spread`). The spread
        is NaN if a member's value is undefined, the mean if all are. Seeds of a training are averaged.

    Raises:
        ValueError: a method has no rows of single members.

    Reference: Fu et al. 2024, Table 4.
    """
    tables = []
    for point in points:
        rows = ensembles[(ensembles["method"] == point["method"]) & (ensembles["size"] == 1)]
        if rows.empty:
            raise ValueError(f"{point['method']}: has no scores of single members. Score its ensembles first.")
        of_case = rows.groupby(["split", "seed", CASE])[list(METRICS)]
        spread = of_case.agg(lambda values: values.max(skipna=False) - values.min(skipna=False))
        both = pd.concat([of_case.mean(), spread.add_suffix("_spread")], axis=1).reset_index()
        by_training = name_trainings(both).groupby([TRAINING, CASE], as_index=False).mean(numeric_only=True)
        columns = [TRAINING, CASE, *METRICS, *(f"{metric}_spread" for metric in METRICS)]
        tables.append(by_training[columns].assign(label=point["label"], step=point["step"]))
    return pd.concat(tables, ignore_index=True)
