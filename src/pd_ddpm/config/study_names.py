"""Names of the studies, and where a user sets their keys. Needs nothing else of the configuration."""

from collections.abc import Mapping
from typing import Any

FIRST = "pd_ddpm"
FURTHER = ("patchddm", "recycling")


def key_path(config: Mapping[str, Any], *keys: str) -> tuple[str, ...]:
    """Return where the user sets a key of a study's configuration: below the study's name, unless it is the first."""
    name = config.get("study")
    return (name, *keys) if name in FURTHER else keys


def dataset_key(config: Mapping[str, Any], dataset: str) -> str:
    """Return the key of a dataset as the user sets it, such as "datasets.wmh" or "patchddm.datasets.brats"."""
    return ".".join(key_path(config, "datasets", dataset))
