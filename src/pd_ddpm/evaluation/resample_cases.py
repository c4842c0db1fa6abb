"""Dice and HD95 of smaller ensembles, resampled from the pool of members of each case of a run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pd_ddpm.data.label_maps import class_index
from pd_ddpm.data.prepared import read_ground_truth, read_scan
from pd_ddpm.evaluation.ensemble_curve import class_curve, curve, subsets
from pd_ddpm.evaluation.metrics import ReferenceMask
from pd_ddpm.inference.cost import Cost
from pd_ddpm.inference.prediction_store import read_predictions, read_samples
from pd_ddpm.runtime.progress import progress


def resample_cases(
    cases: Path,
    predictions: Path,
    identity: Mapping[str, Any],
    subsets_per_size: int,
    hd95: bool = False,
    classes: Mapping[int, str] | None = None,
    largest: int | None = None,
) -> pd.DataFrame:
    """Compute the Dice of ensembles of every size up to the whole pool.

    Args:
        cases: table of the preprocessed cases, in the folder of their images.
        predictions: table of the predictions, in the folder of their images.
        identity: columns that identify the run: dataset, method, split and seed.
        subsets_per_size: largest number of subsets of the pool per ensemble size.
        hd95: whether HD95 is computed, too.
        classes: label -> name of each class of the dataset, if it names classes.
        largest: largest size of ensembles; None: the whole pool.

    Returns:
        One row per case and subset: its Dice, on demand its HD95, of classes their means, and its cost.

    Reference: PD-DDPM, Sec. 3.5 and Fig. 4.
    """
    tables, labels = [], list(classes or ())
    for record in progress(read_predictions(predictions).to_dict("records"), f"ensembles of {identity['method']}"):
        case, pool = record["case"], record["pool"]
        truth = read_ground_truth(cases.parent, case, tuple(labels))
        samples = read_samples(predictions.parent, case, len(labels))
        members = subsets(pool, subsets_per_size, np.random.default_rng(identity["seed"]))
        members = {size: same_size for size, same_size in members.items() if largest is None or size <= largest}
        spacing_mm = read_scan(cases.parent, case).spacing_mm
        if labels:
            rows = class_curve(samples, class_index(truth, labels), members, spacing_mm if hd95 else None)
        else:
            rows = curve(samples, ReferenceMask.from_labels(truth, spacing_mm, case), members, hd95)
        costs = pd.DataFrame([Cost.from_record(record).total(size) for size in rows["size"]])
        tables.append(pd.concat([rows.assign(**identity, case=case, pool=pool), costs], axis=1))
    scores = ["dice", "hd95_mm"] if hd95 else ["dice"]
    return pd.concat(tables)[[*identity, "case", "pool", "size", "subset", *scores, "network_evaluations", "seconds"]]
