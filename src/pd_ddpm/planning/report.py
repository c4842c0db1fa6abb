"""The plan and its price in lines of text. Without torch."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from math import prod
from typing import NamedTuple

from pd_ddpm.config import resolve
from pd_ddpm.config.resolve import Config
from pd_ddpm.planning.case_sizes import CohortSizes
from pd_ddpm.planning.device_rates import ASSUMED, Rate
from pd_ddpm.planning.jobs import NAIVE_PLAN, Job, Sampling, Training, Work

UNITS = ((1e18, "EFLOP"), (1e15, "PFLOP"), (1e12, "TFLOP"), (1e9, "GFLOP"))

# Bytes after compression of a voxel of the scan, measured on the simulated scans: of a channel of a prepared case, of a
# member, and of mask and uncertainty map together.
PREPARED_BYTES, MEMBER_BYTES, MAPS_BYTES = 2.5, 0.02, 0.06
WEIGHT_BYTES = 4
STATE_COPIES = 5  # weights, their average, the best, and Adam's two moments


class Flops(NamedTuple):
    """Floating-point operations of trainings and of samplings."""

    training: int
    sampling: int

    @property
    def total(self) -> int:
        return self.training + self.sampling


def jobs_line(jobs: Sequence[Job], work: Work) -> str:
    """How many jobs there are, and what the networks do in them."""
    return f"{len(jobs)} jobs, {len(work.trainings)} trainings, {len(work.samplings)} samplings"


def rules_line(jobs: Sequence[Job]) -> str:
    """How many jobs of which rules, most frequent first; those of one job in one phrase."""
    counted = Counter(job.rule for job in jobs)
    often = ", ".join(f"{name} {number}" for name, number in counted.most_common() if number > 1)
    once = ", ".join(name for name, number in counted.items() if number == 1)
    return f"{often}; once each: {once}"


def evaluations_line(evaluations: int) -> str:
    """How often sampling asks a network."""
    return f"{evaluations:,} network evaluations of a slice in sampling"


def flops_line(flops: Flops) -> str:
    """What the networks do, in operations."""
    shares = f"{operations(flops.training)} in training and {operations(flops.sampling)} in sampling"
    return f"{shares}, {operations(flops.total)} together"


def hours(flops: Flops, rate: Rate, side_by_side: int = 1) -> tuple[float, float]:
    """Hours of training and of sampling with so many jobs side by side, each at this rate."""
    return flops.training / rate.training / side_by_side / 3600, flops.sampling / rate.sampling / side_by_side / 3600


def hours_lines(flops: Flops, at_hand: Rate | None, side_by_side: int) -> list[str]:
    """A row for each device: the one at hand if its rate is known, and those of the table."""
    rates = [(rate, 1) for rate in ASSUMED]
    if at_hand:
        rates.insert(0, (at_hand, side_by_side))
    lines = [f"{'device':<30}{'TFLOP/s':>14}{'training':>12}{'sampling':>12}{'together':>12}   hours of network time"]
    for rate, jobs in rates:
        training, sampling = hours(flops, rate, jobs)
        name = f"{rate.device} {rate.number_format}" + (f", {jobs} jobs at once" if jobs > 1 else "")
        speed = f"{rate.training / 1e12:.3g}/{rate.sampling / 1e12:.3g}" if rate.measured else f"{rate.training / 1e12:.3g}"
        cells = (speed, _hours(training), _hours(sampling), _hours(training + sampling))
        marked = "measured here" if rate.measured else "estimate"
        lines.append(f"{name:<30}{cells[0]:>14}" + "".join(f"{cell:>12}" for cell in cells[1:]) + f"   {marked}")
    return lines


def hours_phrase(flops: Flops, at_hand: Rate | None, side_by_side: int) -> str:
    """The same in one line, the hours of all together."""
    parts = [f"{_hours(sum(hours(flops, rate)))} on a {rate.device} in {rate.number_format}" for rate in ASSUMED]
    phrase = f"hours of network time, estimated: {', '.join(parts)}"
    if at_hand is None:
        return phrase
    here = _hours(sum(hours(flops, at_hand, side_by_side)))
    beside = f", {side_by_side} jobs at once" if side_by_side > 1 else ""
    return f"{here} hours of network time here ({at_hand.device}, {at_hand.number_format}, measured{beside}); {phrase}"


def naive_lines(flops: Flops, naive: Flops, by_exhibit: Mapping[str, int]) -> list[str]:
    """What a plan without sharing would cost, and the share of it that this one takes."""
    parts = ", ".join(f"{name} {operations(count)}" for name, count in by_exhibit.items())
    return [
        f"{operations(naive.training)} in training and {operations(naive.sampling)} in sampling ({parts}), "
        f"{operations(naive.total)} together: this plan takes {flops.total / naive.total:.1%} of it",
        f"The naive plan: {NAIVE_PLAN}.",
    ]


def disk_lines(config: Config, work: Work, cohorts: Mapping[str, CohortSizes], parameters: Mapping[Training, int]) -> list[str]:
    """How much room the files of this work take."""
    networks = states = prepared = predictions = 0.0
    for training, count in parameters.items():
        kept = 1 + len(resolve.network(config, training.network)["early_levels"])
        networks += WEIGHT_BYTES * count * kept
        states += WEIGHT_BYTES * count * STATE_COPIES
    for dataset, cohort in cohorts.items():
        voxels = sum(prod(case.shape) for case in cohort.cases.values())
        prepared += voxels * PREPARED_BYTES * len(config["datasets"][dataset]["channels"])
    for sampling in work.samplings:
        voxels = sum(prod(case.shape) for case in cohorts[sampling.dataset].of_role(sampling.split, "test"))
        predictions += voxels * (MEMBER_BYTES * sampling.members + MAPS_BYTES)
    largest = WEIGHT_BYTES * STATE_COPIES * max(parameters.values(), default=0)
    return [
        f"prepared cases {_gigabytes(prepared)}, networks {_gigabytes(networks)}, predictions {_gigabytes(predictions)}",
        f"in work/ the last state of each training, {_gigabytes(states)}; while one runs, up to {_gigabytes(2 * largest)} more",
    ]


def operations(flops: float) -> str:
    """A number of operations with three digits, such as "3.61 EFLOP"."""
    size, unit = next((one for one in UNITS if flops >= one[0]), UNITS[-1])
    return f"{flops / size:.3g} {unit}"


def exhibit_flops(samplings: Sequence[Sampling], flops: Iterable[int]) -> dict[str, int]:
    """FLOPs of the naive plan's samplings by the exhibit that they are for."""
    found: Counter[str] = Counter()
    for sampling, count in zip(samplings, flops, strict=True):
        found[sampling.exhibit or "all"] += count
    return dict(found)


def _hours(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}" if value >= 0.01 else f"{value:.2f}"


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:.2g} GB" if size < 1e11 else f"{size / 1e9:.0f} GB"
