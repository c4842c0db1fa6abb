"""What the networks of a configuration cost: floating-point operations, parameters, and the rate of the device at hand.

PyTorch and the networks are loaded only when there is something to count. What has been counted is kept in a file, so that the
next run knows it at once.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pd_ddpm.config import resolve
from pd_ddpm.config.resolve import Config
from pd_ddpm.planning import jobs
from pd_ddpm.planning.case_sizes import CaseSize, CohortSizes
from pd_ddpm.planning.device_rates import Rate
from pd_ddpm.runtime.code_version import code_version
from pd_ddpm.runtime.files import fingerprint, write_json

COUNTING = Path(__file__).with_name("flop_counts.py")  # with the networks that it imports


class PlannedFlops:
    """Counts of FLOPs for one configuration.

    cohorts: the cases of each data set that is trained on or drawn from. kept: a file that holds what was counted before.
    """

    def __init__(self, config: Config, cohorts: Mapping[str, CohortSizes], kept: Path):
        self.config = config
        self.cohorts = cohorts
        self.kept = kept
        self._known: dict[str, list[int]] = read_kept(kept)
        self._answers: dict[tuple, list[int]] = {}
        self._code = code_version(COUNTING)

    def training(self, training: jobs.Training) -> int:
        """FLOPs of a whole training, its validations included."""
        chosen = resolve.network(self.config, training.network)
        channels = self._channels(training.dataset)
        validated = self.cohorts[training.dataset].of_role(training.split, "validation")
        per_case = max(1, chosen["validation_slices"] // max(1, len(validated)))
        at_once = 0
        if validated:
            of_patch = self._evaluation(training.network, channels, chosen["crop"])
            estimates = self._validation(training.network, channels) / of_patch
            for case in validated:
                one = self._evaluation(training.network, channels, case.size)
                at_once += round(min(per_case, case.with_brain) * estimates * one)
        validations = -(-chosen["steps"] // chosen["validate_every"])
        return self._steps(training.network, channels) + validations * at_once

    def sampling(self, sampling: jobs.Sampling) -> int:
        """FLOPs of the members that one method draws of its test cases."""
        network = resolve.method(self.config, sampling.method)["network"]
        shared, each = jobs.evaluations(self.config, sampling.method)
        total = 0
        for case in self.cohorts[sampling.dataset].of_role(sampling.split, "test"):
            once, per_member = self._per_slice(network, self._channels(sampling.dataset), case.size)
            passes = sampling.members * (each or shared)
            total += slices(case, sampling) * (once + passes * per_member)
        return total

    def parameters(self, training: jobs.Training) -> int:
        """Trainable parameters of a network, a discriminator's included."""
        (count,) = self._count(training.network, self._channels(training.dataset), "parameters")
        return count

    def _channels(self, dataset: str) -> int:
        return len(self.config["datasets"][dataset]["channels"])

    def _steps(self, network: str, channels: int) -> int:
        (total,) = self._count(network, channels, "steps")
        return total

    def _validation(self, network: str, channels: int) -> int:
        (total,) = self._count(network, channels, "validation")
        return total

    def _evaluation(self, network: str, channels: int, size: Sequence[int]) -> int:
        return sum(self._per_slice(network, channels, size))

    def _per_slice(self, network: str, channels: int, size: Sequence[int]) -> list[int]:
        (divisor,) = self._count(network, channels, "divisor")
        return self._count(network, channels, "evaluation", padded(size, divisor))

    def _count(self, network: str, channels: int, what: str, size: Sequence[int] = ()) -> list[int]:
        """Numbers that were counted before, in this run or an earlier one, or are counted now."""
        asked = (network, channels, what, *size)
        if asked not in self._answers:
            chosen = resolve.network(self.config, network)
            key = fingerprint([chosen, channels, what, list(size), self._code])
            if key not in self._known:
                from pd_ddpm.planning.flop_counts import count

                self._known[key] = count(chosen, channels, what, size)
                write_json(self.kept, self._known)
            self._answers[asked] = self._known[key]
        return self._answers[asked]


def padded(size: Sequence[int], divisor: int) -> tuple[int, int]:
    """(height, width) as the networks see it: multiples of their divisor."""
    height, width = (length + -length % divisor for length in size)
    return height, width


def slices(case: CaseSize, sampling: jobs.Sampling) -> int:
    """The slices of a case that go through the network."""
    return case.shape[2] if sampling.all_slices else case.with_brain


def network_evaluations(config: Config, cohorts: Mapping[str, CohortSizes], sampling: jobs.Sampling) -> int:
    """How often a network is asked for a mask of a slice."""
    shared, each = jobs.evaluations(config, sampling.method)
    test = cohorts[sampling.dataset].of_role(sampling.split, "test")
    return sum(slices(case, sampling) for case in test) * (shared + sampling.members * each)


def read_kept(path: Path) -> dict[str, Any]:
    """What a file of counts or rates holds; nothing where there is none, or none that can be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def rate_at_hand(config: Config, network: str, threads: int, kept: Path) -> Rate:
    """How fast the device that the configuration names trains and samples a network, measured in some seconds, or before.

    Raises ValueError for a device or number format that is not there, ImportError without PyTorch.
    """
    from pd_ddpm.inference.batch_size import LARGEST
    from pd_ddpm.planning import flop_counts

    chosen, channels = resolve.network(config, network), len(config["datasets"][config["dataset"]]["channels"])
    precisions = [chosen["precision"], config["sampling"]["precision"]]
    device, name, formats = flop_counts.device_at_hand(config["device"], precisions)
    batch, known = config["sampling"]["batch"], read_kept(kept)
    batch = LARGEST[device.type] if batch == "auto" else batch
    key = fingerprint([chosen, batch, channels, name, formats, threads, code_version(COUNTING)])
    if key not in known:
        rates = flop_counts.measure(chosen, channels, batch, threads, device, formats)
        known[key] = Rate(name, str(formats[1]), *rates, measured=True)._asdict()
        write_json(kept, known)
    return Rate(**known[key])
