"""Metadata of methods that evaluate no network themselves: masks of other programs, and means of methods."""

from collections.abc import Mapping, Sequence
from typing import Any

from pd_ddpm.config.run import Run


def metadata_without_network(run: Run, settings: Mapping[str, Any], labels: Sequence[int]) -> dict[str, Any]:
    """Return the metadata of a method without a network, to which the job adds the record of its run.

    Args:
        run: dataset, method, split and seed.
        settings: the method's settings.
        labels: labels of the dataset's classes; empty if masks hold lesions.
    """
    metadata = {
        "method": run.name,
        "settings": settings,
        "split": run.split,
        "seed": run.seed,
        "network": None,
        "generator": {},
        "presegmentation": None,
        "device_type": "cpu",
    }
    return metadata | ({"labels": labels} if labels else {})
