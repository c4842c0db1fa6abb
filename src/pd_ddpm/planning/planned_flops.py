"""Planned cost of networks: floating-point operations, parameters, and the speed of the local device.

PyTorch is imported only if there is something to count. The counts are cached in a file, from which the next run reads them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pd_ddpm.config import methods, resolve
from pd_ddpm.config.resolve import Config
from pd_ddpm.config.run import Run
from pd_ddpm.planning.case_sizes import CohortSizes
from pd_ddpm.planning.device_rates import Rate
from pd_ddpm.planning.jobs import Sampling, evaluations_per_slice
from pd_ddpm.runtime.code_version import code_version
from pd_ddpm.runtime.files import fingerprint
from pd_ddpm.runtime.memory import LARGEST_BATCH
from pd_ddpm.runtime.sealed import read_sealed_json, write_sealed_json

COUNTING = Path(__file__).with_name("flop_counts.py")  # the hash of its code includes the networks that it imports


class PlannedFlops:
    """FLOPs of the trainings and samplings of one configuration.

    Args:
        config: a canonical configuration.
        cohorts: sizes of the cases of each dataset that is trained on or sampled from.
        cache: file of counts; it is extended.
    """

    def __init__(self, config: Config, cohorts: Mapping[str, CohortSizes], cache: Path):
        self.config = config
        self.cohorts = cohorts
        self.cache = cache
        self._cached: dict[str, list[int]] = read_cache(cache)
        self._counts: dict[tuple, list[int]] = {}
        self._code = code_version(COUNTING)

    def training(self, run: Run) -> int:
        """Return the FLOPs of training a network, including its validations."""
        settings = resolve.network(self.config, run.name)
        dataset, spatial_dims = run.dataset, settings["spatial_dims"]
        owner = methods.grid_owner(self.config, run.name)
        validation_cases = self.cohorts[run.dataset].with_role(run.split, "validation", owner)
        slices_per_case = max(1, settings["validation_slices"] // max(1, len(validation_cases)))
        per_validation = 0
        if validation_cases:
            per_patch = self._evaluation(run.name, dataset, settings["crop"])
            (validation,) = self._count(run.name, dataset, "validation")
            estimates = validation / per_patch
            for case in validation_cases:
                per_image = self._evaluation(run.name, dataset, case.image_size(spatial_dims))
                per_validation += round(min(slices_per_case, case.num_images(spatial_dims)) * estimates * per_image)
        validations = -(-settings["steps"] // settings["validate_every"])
        (steps,) = self._count(run.name, dataset, "steps")
        return steps + validations * per_validation

    def sampling(self, sampling: Sampling) -> int:
        """Return the FLOPs of sampling the test cases of a run; 0 if no network runs."""
        run = sampling.run
        shared, per_member = evaluations_per_slice(self.config, run.name)
        if not shared + per_member:
            return 0
        network = resolve.method(self.config, run.name)["network"]
        spatial_dims = resolve.network(self.config, network)["spatial_dims"]
        total = 0
        owner = methods.grid_owner(self.config, network)
        for case in self.cohorts[run.dataset].with_role(run.split, "test", owner):
            shared_flops, member_flops = self._per_slice(network, run.dataset, case.image_size(spatial_dims))
            evaluations = sampling.members * (per_member or shared)
            total += case.num_images(spatial_dims, sampling.all_slices) * (shared_flops + evaluations * member_flops)
        return total

    def parameters(self, run: Run) -> int:
        """Return the number of trainable parameters of a network, including those of a discriminator."""
        (count,) = self._count(run.name, run.dataset, "parameters")
        return count

    def _evaluation(self, network: str, dataset: str, size: Sequence[int]) -> int:
        return sum(self._per_slice(network, dataset, size))

    def _per_slice(self, network: str, dataset: str, size: Sequence[int]) -> list[int]:
        (divisor,) = self._count(network, dataset, "divisor")
        return self._count(network, dataset, "evaluation", padded(size, divisor))

    def _count(self, network: str, dataset: str, quantity: str, size: Sequence[int] = ()) -> list[int]:
        """Return a quantity of `flop_counts.count`, from this run, from the cache, or counted now."""
        key = (network, dataset, quantity, *size)
        if key not in self._counts:
            channels = len(self.config["datasets"][dataset]["channels"])
            settings = methods.training_settings(self.config, network, dataset)
            cache_key = fingerprint([settings, channels, quantity, list(size), self._code])
            if cache_key not in self._cached:
                from pd_ddpm.planning.flop_counts import count

                self._cached[cache_key] = count(settings, channels, quantity, size)
                write_sealed_json(self.cache, self._cached)
            self._counts[key] = self._cached[cache_key]
        return self._counts[key]


def padded(size: Sequence[int], divisor: int) -> tuple[int, ...]:
    """Return the lengths of an image rounded up to multiples of a network's divisor."""
    return tuple(length + -length % divisor for length in size)


def network_evaluations(config: Config, cohorts: Mapping[str, CohortSizes], sampling: Sampling) -> int:
    """Return the number of network evaluations of slices or volumes in a sampling; 0 if it evaluates none.

    Args:
        config: a canonical configuration.
        cohorts: sizes of the cases of each dataset.
        sampling: run and members.
    """
    shared, per_member = evaluations_per_slice(config, sampling.run.name)
    if not shared + per_member:
        return 0
    network = resolve.method(config, sampling.run.name)["network"]
    spatial_dims, owner = resolve.network(config, network)["spatial_dims"], methods.grid_owner(config, network)
    test_cases = cohorts[sampling.run.dataset].with_role(sampling.run.split, "test", owner)
    images = sum(case.num_images(spatial_dims, sampling.all_slices) for case in test_cases)
    return images * (shared + sampling.members * per_member)


def read_cache(path: Path) -> dict[str, Any]:
    """Return the content of a cache file, or nothing if it does not exist or is damaged."""
    try:
        return read_sealed_json(path)
    except (OSError, ValueError):
        return {}


def read_rates(path: Path) -> list[Rate]:
    """Return the rates that were measured on this machine, oldest first, without those of earlier versions of the file."""
    names = Rate.__dataclass_fields__.keys()
    return [Rate(**entry) for entry in read_cache(path).values() if entry.keys() == names]


def local_rate(config: Config, network: str, threads: int, cache: Path) -> Rate:
    """Return the speed of the configured device for a network: from the cache, or measured within some seconds.

    Args:
        config: a canonical configuration.
        network: name of the network.
        threads: CPU threads.
        cache: file of measured rates; it is extended.

    Raises:
        ValueError: this machine lacks the device, or the device does not support the precision.
        ImportError: PyTorch is not installed.
    """
    from pd_ddpm.planning import flop_counts

    dataset = methods.networks_from(config, config["dataset"])
    settings, channels = methods.training_settings(config, network, dataset), len(config["datasets"][dataset]["channels"])
    sampling_precision = config["sampling"]["precision"]
    device, title, precisions = flop_counts.local_device(config["device"], settings["precision"], sampling_precision)
    batch, cached = config["sampling"]["batch"], read_cache(cache)
    batch = LARGEST_BATCH[device.type] if batch == "auto" else batch
    key = fingerprint([settings, batch, channels, title, list(map(str, precisions)), threads, code_version(COUNTING)])
    if key not in cached:
        training, sampling = flop_counts.measure(settings, channels, batch, threads, device, precisions)
        cached[key] = asdict(Rate(title, str(precisions[1]), training, sampling, measured=True))
        write_sealed_json(cache, cached)
    return Rate(**cached[key])
