"""Dice of the ground truth through the working grid and back: what the grid alone costs any method."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pd_ddpm.data.label_maps import class_index, one_hot
from pd_ddpm.data.prepared import read_ground_truth, read_scan
from pd_ddpm.data.scan import Scan
from pd_ddpm.evaluation.class_scores import class_dice
from pd_ddpm.evaluation.metrics import ReferenceMask, dice
from pd_ddpm.inference.class_ensemble import most_probable
from pd_ddpm.inference.ensemble import threshold
from pd_ddpm.inference.prediction_store import as_stored
from pd_ddpm.runtime.progress import progress
from pd_ddpm.runtime.sealed_tables import read_sealed_csv


def grid_dice_table(cases: Path, grid: Mapping[str, Any], classes: Mapping[int, str] | None = None) -> pd.DataFrame:
    """Return `case_grid_dice` of all cases of a dataset, one row per case.

    Args:
        cases: table of the preprocessed cases, in the folder of their images.
        grid: section `grid` of the configuration.
        classes: label -> name of each class of the dataset, if it names classes.
    """
    values = tuple(classes or ())
    names = read_sealed_csv(cases)["case"]
    rows = []
    for case in progress(list(names), "ground truth through the working grid"):
        scan, labels = read_scan(cases.parent, case), read_ground_truth(cases.parent, case, values)
        rows.append({"case": case} | case_grid_dice(scan, labels, grid, values))
    return pd.DataFrame(rows)


def case_grid_dice(scan: Scan, labels: np.ndarray, grid: Mapping[str, Any], values: Sequence[int] = ()) -> dict[str, float]:
    """Return the Dice that a case's ground truth has after its way through the working grid.

    It takes the way of a sampled member: slices without enough brain are empty, and members are stored in steps of 1/255.

    Args:
        scan: the scan.
        labels: (X, Y, Z) the ground truth: 0 background, 1 lesion, 2 other pathology.
        grid: section `grid` of the configuration.
        values: labels of the dataset's classes; their Dice is the mean over the classes that the case has.

    Returns:
        `grid_dice_soft`, from the lesion's fraction of each pixel, and `grid_dice_hard`, from these fractions thresholded on
        the grid; NaN unless the grid is coarser than the scan.
    """
    # Tables and figures import this package, but need no PyTorch, which takes seconds to load.
    from pd_ddpm.data.working_grid import GridSettings

    working_grid, with_brain = GridSettings(**grid).working_grid(scan.brain, scan.spacing_mm)
    if not working_grid.is_coarser:
        return {"grid_dice_soft": math.nan, "grid_dice_hard": math.nan}
    if values:
        return _class_grid_dice(working_grid, with_brain, labels, values)
    fractions = working_grid.label_fractions(labels)[:, :1]
    fractions[~with_brain] = 0
    reference = ReferenceMask.from_labels(labels, scan.spacing_mm, scan.case)

    def dice_through_grid(slices: Any) -> float:
        mask = threshold(as_stored(working_grid.volume(slices)[..., 0]))
        return dice(reference.geometry.mask, reference.scored_part(mask))

    return {
        "grid_dice_soft": dice_through_grid(fractions),
        "grid_dice_hard": dice_through_grid(threshold(fractions).to(fractions.dtype)),
    }


def _class_grid_dice(working_grid: Any, with_brain: np.ndarray, labels: np.ndarray, values: Sequence[int]) -> dict[str, float]:
    """Return the Dice of a label map after its way through a coarser working grid; see `case_grid_dice`.

    Args:
        working_grid: the grid.
        with_brain: (Z,) bool, slices that are not empty.
        labels: (X, Y, Z) the ground truth.
        values: labels of the classes.
    """
    foreground = working_grid.label_fractions(labels, values)[:, :-1]
    foreground[~with_brain] = 0
    truth, num_classes = class_index(labels, values), len(values) + 1

    def with_background(fractions: np.ndarray) -> np.ndarray:
        return np.concatenate([1 - fractions.sum(axis=-1, keepdims=True), fractions], axis=-1)

    def dice_through_grid(slices: Any) -> float:
        index = most_probable(with_background(as_stored(working_grid.volume(slices))))
        return class_dice(truth.ravel(), index.ravel(), num_classes)

    index = most_probable(with_background(foreground.movedim(1, -1).numpy()))
    hard = foreground.new_tensor(one_hot(index, num_classes)[..., 1:]).movedim(-1, 1)
    return {"grid_dice_soft": dice_through_grid(foreground), "grid_dice_hard": dice_through_grid(hard)}
