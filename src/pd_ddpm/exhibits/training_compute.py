"""Compute of trainings: planned operations and measured seconds. Tables state them, because methods compete at equal compute.

The two may differ: on a CPU, wide layers run at more FLOP/s than narrow ones.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from pd_ddpm.config.exhibits import runs
from pd_ddpm.config.methods import inner_networks, networks_from
from pd_ddpm.config.resolve import Config, network
from pd_ddpm.config.run import Run
from pd_ddpm.planning.case_sizes import cohort_sizes
from pd_ddpm.planning.planned_flops import PlannedFlops
from pd_ddpm.runtime.sealed import read_sealed_json


def training_flops(config: Config, dataset: str, networks: Iterable[str], results: Path, plan: Path) -> dict[str, float]:
    """Return the FLOPs of training each network, with those of networks that are trained for it alone.

    These are the network that it begins with, and those that segment its training cases.

    Args:
        config: a canonical configuration.
        dataset: the dataset that is segmented.
        networks: the networks.
        results: folder of the results of all datasets.
        plan: folder of counts that earlier plans have saved.

    Returns:
        Network -> mean over its splits and seeds, with validations.
    """
    trained = networks_from(config, dataset)
    planned = PlannedFlops(config, {trained: cohort_sizes(config, trained, results / trained)}, plan / "flops.json")

    def flops(name: str) -> float:
        return float(np.mean([planned.training(run) for run in runs(config, trained, [name])]))

    parts = {}
    for name in networks:
        first = network(config, name)["initialise_from"]
        parts[name] = [name, *([first] if first else []), *inner_networks(config, name)]
    return {name: sum(map(flops, names)) for name, names in parts.items()}


def training_seconds(histories: Iterable[str | Path], inner: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """Return network -> mean wall time of its trainings in seconds, without that of a network that it begins with.

    Args:
        histories: paths of the training.csv of all trainings, next to their metadata.
        inner: network -> those that segment its training cases. Their seconds are added to its own, and they have no entry.
    """
    seconds: dict[str, list[float]] = {}
    for path in map(Path, histories):
        metadata = read_sealed_json(path.with_name("model.json"))
        seconds.setdefault(Run.parse(path).name, []).append(metadata["provenance"]["seconds"])
    means = {name: float(np.mean(values)) for name, values in seconds.items()}
    names = means.keys() - {part for parts in inner.values() for part in parts}
    return {name: mean + sum(means[part] for part in inner.get(name, ())) for name, mean in means.items() if name in names}


def compute_remark(flops: Mapping[str, float], seconds: Mapping[str, float], name: str) -> str:
    """Return a sentence on the training compute of one network and of all others.

    Args:
        flops: network -> FLOPs of its training.
        seconds: network -> seconds of its training.
        name: the network that the others are compared with.
    """
    return (
        f"Training compute of {name}: {flops[name] / 1e12:,.1f} TFLOP in {seconds[name]:,.0f} s. The others take "
        f"{_times(flops, name)} times its TFLOP and {_times(seconds, name)} times its seconds."
    )


def _times(values: Mapping[str, float], name: str) -> str:
    """Return the range of all other values as multiples of one, such as "0.97 to 1.02"."""
    ratios = [value / values[name] for other, value in values.items() if other != name]
    low, high = f"{min(ratios):.2f}", f"{max(ratios):.2f}"
    return low if low == high else f"{low} to {high}"
