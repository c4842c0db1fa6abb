"""Remarks on methods, found in their scores: what to know before comparing a row with others."""

from collections.abc import Iterator, Mapping

import pandas as pd

from pd_ddpm.runtime.collapse import SIGNS


def collapse_remarks(scores: pd.DataFrame, labels: Mapping[str, str]) -> list[str]:
    """Return one remark for each sign that the generator of a method has collapsed.

    Args:
        scores: score rows of all methods.
        labels: method -> name in the table.
    """
    return [
        f"{label}: {remark}"
        for method, label in labels.items()
        for remark in _signs_of_collapse(scores[scores["method"] == method])
    ]


def _signs_of_collapse(rows: pd.DataFrame) -> Iterator[str]:
    """Yield the signs of collapse in the score rows of one method, with the mean over the trainings that show it."""
    trainings = rows.groupby(["split", "seed"])[list(SIGNS)].mean()
    for column, sign in SIGNS.items():
        collapsed = trainings[column][trainings[column].map(sign.is_present)]
        if len(collapsed):
            extent = f" in {len(collapsed)} of {len(trainings)} trainings" if len(trainings) > 1 else ""
            yield sign.describe(collapsed.mean(), extent)
