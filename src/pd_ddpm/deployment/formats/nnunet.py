"""Masks as `nnUNetv2_predict` writes them, with the folds for training nnU-Net on the same splits.

Reference: nnU-Net v2 documentation, dataset format (dataset.json) and manual data splits (splits_final.json).
"""

from typing import Any

import pandas as pd

from pd_ddpm.deployment.formats.layout import Layout
from pd_ddpm.deployment.formats.predictions import Predictions


def layout(predictions: Predictions, label: str) -> Layout:
    """Return the layout: `{case}.nii.gz` (1 is `label`, or the labels of the classes), dataset.json and splits_final.json.

    splits_final.json has one entry per split, in their order. Test cases are in neither of its lists. It is not written if all
    cases are only tested.
    """
    documents: dict[str, Any] = {
        "dataset.json": {
            "name": predictions.dataset,
            "channel_names": {str(number): name for number, name in enumerate(predictions.channels)},
            "labels": {"background": 0, **({name: value for value, name in predictions.classes.items()} or {label: 1})},
            "numTraining": int(predictions.splits["case"].nunique()),
            "file_ending": ".nii.gz",
        }
    }
    if not is_only_tested(predictions):
        documents["splits_final.json"] = [
            {"train": _cases(rows, "train"), "val": _cases(rows, "validation")}
            for _, rows in predictions.splits.groupby("split")
        ]
    images = {prediction.case: {f"{prediction.case}.nii.gz": "mask"} for prediction in predictions.cases}
    return Layout(images, documents)


def is_only_tested(predictions: Predictions) -> bool:
    """Return whether nothing is trained on the dataset, because the networks are those of another one."""
    return bool((predictions.splits["role"] == "test").all())


def splits_without_validation(predictions: Predictions) -> list[int]:
    """Return the splits that nnU-Net cannot be trained on, because it validates after every epoch."""
    if is_only_tested(predictions):
        return []
    return [int(split) for split, rows in predictions.splits.groupby("split") if not _cases(rows, "validation")]


def _cases(rows: pd.DataFrame, role: str) -> list[str]:
    return sorted(rows.loc[rows["role"] == role, "case"])
