"""Score all predictions of a run against the ground truth."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pd_ddpm.data.prepared import read_ground_truth, read_observer_masks, read_scan
from pd_ddpm.evaluation.class_scores import ClassTruth, score_classes
from pd_ddpm.evaluation.metrics import ReferenceMask, dice, score
from pd_ddpm.evaluation.probability_scores import band, members_dice, probability_scores, rater_scores
from pd_ddpm.inference.class_ensemble import ClassSegmentation
from pd_ddpm.inference.cost import Cost
from pd_ddpm.inference.ensemble import Segmentation
from pd_ddpm.inference.prediction_store import read_predictions, read_samples
from pd_ddpm.runtime.collapse import TRAINING_SIGNS, describe_signs
from pd_ddpm.runtime.progress import log, progress
from pd_ddpm.runtime.sealed import read_sealed_json
from pd_ddpm.runtime.sealed_tables import read_sealed_csv


def score_cases(
    cases: Path,
    predictions: Path,
    method_metadata: Path,
    identity: Mapping[str, Any],
    settings: Mapping[str, Any],
    classes: Mapping[int, str] | None = None,
) -> pd.DataFrame:
    """Score the predictions of one method, split and seed. Log signs of a collapsed generator.

    Args:
        cases: table of the preprocessed cases, in the folder of their images.
        predictions: table of the predictions, in the folder of their images.
        method_metadata: metadata file of the predictions.
        identity: columns that identify the run: dataset, method, split and seed.
        settings: section `evaluation` of the configuration.
        classes: label -> name of each class of the dataset, if it names classes.

    Returns:
        One row per case, or with classes one per case and class and one for their mean (see `class_scores`). It has metrics,
        uncertainty, calibration, agreement of the members with each other and with the raters,
        values of the network that show whether a generator has collapsed, and cost.
    """
    generator = read_sealed_json(method_metadata)["generator"]
    training_signs = {name: generator.get(name, np.nan) for name in TRAINING_SIGNS}
    sites = read_sealed_csv(cases).set_index("case")["site"]
    rows, classes = [], classes or {}
    for record in progress(read_predictions(predictions).to_dict("records"), f"scores of {identity['method']}"):
        case, num_samples = record["case"], record["samples"]
        scan, labels = read_scan(cases.parent, case), read_ground_truth(cases.parent, case, tuple(classes))
        samples = read_samples(predictions.parent, case, len(classes))[:, :, :, :num_samples]
        raters = [labels, *read_observer_masks(cases.parent, case, tuple(classes))]
        region = band(scan.brain, scan.spacing_mm, settings["band_mm"])
        row = {**identity, "case": case, "site": sites[case], "samples": num_samples}
        if classes:
            truth = ClassTruth(raters, classes, region, scan.brain, scan.spacing_mm, case)
            scored = score_classes(truth, ClassSegmentation.from_members(samples), settings["calibration_bins"])
            cost = Cost.from_record(record).total(num_samples)
            rows += [row | class_row | training_signs | cost for class_row in scored]
            continue
        segmentation = Segmentation.from_members(samples)
        reference = ReferenceMask.from_labels(labels, scan.spacing_mm, case)
        row |= score(reference, segmentation.mask)
        row["uncertainty"] = float(segmentation.variance[scan.brain].mean()) if num_samples > 1 else None
        row |= probability_scores(segmentation.samples, labels, region, settings["calibration_bins"])
        row |= {"members_dice": members_dice(segmentation)} | training_signs
        row["single_member_dice"] = single_member_dice(reference, segmentation)
        row |= rater_scores(segmentation.samples, raters)
        rows.append(row | Cost.from_record(record).total(num_samples))
    scores = pd.DataFrame(rows)
    for sign in describe_signs({"members_dice": scores["members_dice"].mean()}):
        log.warning("%s: %s", identity["method"], sign)
    return scores


def single_member_dice(reference: ReferenceMask, segmentation: Segmentation) -> float:
    """Return the mean over the members of each member's own Dice, as `metrics.score` defines it."""
    masks = np.moveaxis(segmentation.member_masks, -1, 0)
    return float(np.mean([dice(reference.geometry.mask, reference.scored_part(mask)) for mask in masks]))
