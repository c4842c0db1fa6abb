"""The plan and its cost as lines of text. Does not import PyTorch."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

from pd_ddpm.config import resolve
from pd_ddpm.config.consistency import find_doubts
from pd_ddpm.config.resolve import Config
from pd_ddpm.config.run import Run
from pd_ddpm.planning.case_sizes import CohortSizes
from pd_ddpm.planning.device_rates import ASSUMED, Rate
from pd_ddpm.planning.jobs import NAIVE_PLAN, Job, Sampling, Work

UNITS = ((1e18, "EFLOP"), (1e15, "PFLOP"), (1e12, "TFLOP"), (1e9, "GFLOP"))

# Bytes of a voxel after compression, measured on simulated scans: for each channel of a prepared case, for each ensemble
# member, and for mask and uncertainty map together.
PREPARED_BYTES, MEMBER_BYTES, MAPS_BYTES = 2.5, 0.02, 0.06
WEIGHT_BYTES = 4
KEPT_COPIES = 2  # raw weights and their moving average, in each checkpoint
STATE_COPIES = 6  # weights, their moving average, the best ones of both, and Adam's two moments


@dataclass(frozen=True)
class Flops:
    """Floating-point operations of trainings and of samplings."""

    training: int
    sampling: int

    @property
    def total(self) -> int:
        return self.training + self.sampling


def jobs_line(jobs: Sequence[Job], work: Work) -> str:
    """Return the numbers of jobs, trainings and samplings."""
    return f"{len(jobs)} jobs, {len(work.trainings)} trainings, {len(work.samplings)} samplings"


def rules_line(jobs: Sequence[Job]) -> str:
    """Return the number of jobs of each rule, most frequent first; rules with one job are listed together."""
    counts = Counter(job.rule for job in jobs)
    repeated = ", ".join(f"{rule} {count}" for rule, count in counts.most_common() if count > 1)
    single = ", ".join(rule for rule, count in counts.items() if count == 1)
    return "; ".join(filter(None, [repeated, single and f"once each: {single}"]))


def doubt_lines(config: Config, jobs: Sequence[Job]) -> list[str]:
    """Return a line for each doubtful setting of Figure 3, if its job is among these."""
    if not any(job.rule == "fig3_tprime" for job in jobs):
        return []
    return [f"doubtful: {problem}" for problem in find_doubts(config)]


def patience_lines(config: Config, work: Work) -> list[str]:
    """Return a line with the networks whose trainings may end early, which the plan counts with all steps; none without."""
    names = dict.fromkeys(run.name for run in work.trainings if resolve.network(config, run.name)["patience"] is not None)
    return [f"counted with all steps, but may end early (patience): {', '.join(names)}"] if names else []


def evaluations_line(evaluations: int) -> str:
    """Return the number of network evaluations in sampling."""
    return f"{evaluations:,} network evaluations of a slice or volume in sampling"


def flops_line(flops: Flops) -> str:
    """Return the operations of training, of sampling, and of both."""
    parts = f"{operations(flops.training)} in training and {operations(flops.sampling)} in sampling"
    return f"{parts}, {operations(flops.total)} together"


def hours(flops: Flops, rate: Rate, num_parallel: int = 1) -> tuple[float, float]:
    """Return the hours of training and of sampling.

    Args:
        flops: operations of trainings and samplings.
        rate: speed of the device for each job.
        num_parallel: number of jobs that run at the same time.
    """
    return flops.training / rate.training / num_parallel / 3600, flops.sampling / rate.sampling / num_parallel / 3600


def hours_lines(flops: Flops, local_rate: Rate | None, num_parallel: int) -> list[str]:
    """Return a table of hours with one row for each device.

    Args:
        flops: operations of trainings and samplings.
        local_rate: measured speed of the local device, if known.
        num_parallel: number of jobs that the local device runs at the same time.
    """
    rates = [(rate, 1) for rate in ASSUMED]
    if local_rate:
        rates.insert(0, (local_rate, num_parallel))
    lines = [f"{'device':<30}{'TFLOP/s':>14}{'training':>12}{'sampling':>12}{'together':>12}   hours of network time"]
    for rate, jobs in rates:
        training, sampling = hours(flops, rate, jobs)
        name = f"{rate.device} {rate.precision}" + (f", {jobs} jobs at once" if jobs > 1 else "")
        speed = f"{rate.training / 1e12:.3g}/{rate.sampling / 1e12:.3g}" if rate.measured else f"{rate.training / 1e12:.3g}"
        cells = [_format_hours(value) for value in (training, sampling, training + sampling)]
        origin = "measured here" if rate.measured else "estimate"
        lines.append(f"{name:<30}{speed:>14}" + "".join(f"{cell:>12}" for cell in cells) + f"   {origin}")
    return lines


def hours_phrase(flops: Flops, local_rate: Rate | None, num_parallel: int) -> str:
    """Return the total hours on each device in one line.

    Args:
        flops: operations of trainings and samplings.
        local_rate: measured speed of the local device, if known.
        num_parallel: number of jobs that the local device runs at the same time.
    """
    estimates = [f"{_format_hours(sum(hours(flops, rate)))} on a {rate.device} in {rate.precision}" for rate in ASSUMED]
    phrase = f"hours of network time, estimated: {', '.join(estimates)}"
    if local_rate is None:
        return phrase
    local_hours = _format_hours(sum(hours(flops, local_rate, num_parallel)))
    parallel = f", {num_parallel} jobs at once" if num_parallel > 1 else ""
    return (
        f"{local_hours} hours of network time here ({local_rate.device}, {local_rate.precision}, measured{parallel}); {phrase}"
    )


def naive_lines(flops: Flops, naive_flops: Flops, by_exhibit: Mapping[str, int]) -> list[str]:
    """Return the cost of the naive plan, and the share of it that this plan takes.

    Args:
        flops: operations of this plan.
        naive_flops: operations of the naive plan.
        by_exhibit: operations of the naive plan's samplings for each exhibit.
    """
    parts = ", ".join(f"{name} {operations(count)}" for name, count in by_exhibit.items())
    return [
        f"{operations(naive_flops.training)} in training and {operations(naive_flops.sampling)} in sampling ({parts}), "
        f"{operations(naive_flops.total)} together: this plan takes {flops.total / naive_flops.total:.1%} of it",
        f"The naive plan: {NAIVE_PLAN}.",
    ]


def disk_lines(config: Config, work: Work, cohorts: Mapping[str, CohortSizes], parameters: Mapping[Run, int]) -> list[str]:
    """Return the disk space that the files of this work need.

    Args:
        config: a canonical configuration.
        work: trainings and samplings.
        cohorts: sizes of the cases of each dataset.
        parameters: number of parameters of each trained network.
    """
    networks = states = prepared = predictions = 0.0
    for training, count in parameters.items():
        checkpoints = 1 + len(resolve.network(config, training.name)["early_levels"])
        networks += WEIGHT_BYTES * count * KEPT_COPIES * checkpoints
        states += WEIGHT_BYTES * count * STATE_COPIES
    for dataset, cohort in cohorts.items():
        voxels = sum(prod(case.shape) for case in cohort.cases.values())
        prepared += voxels * PREPARED_BYTES * len(config["datasets"][dataset]["channels"])
    for sampling in work.samplings:
        voxels = sum(prod(case.shape) for case in cohorts[sampling.run.dataset].with_role(sampling.run.split, "test"))
        predictions += voxels * (MEMBER_BYTES * sampling.members + MAPS_BYTES)
    largest_state = WEIGHT_BYTES * STATE_COPIES * max(parameters.values(), default=0)
    return [
        f"prepared cases {_gigabytes(prepared)}, networks {_gigabytes(networks)}, predictions {_gigabytes(predictions)}",
        f"in work/ the last state of each training, {_gigabytes(states)}; "
        f"while one runs, up to {_gigabytes(2 * largest_state)} more",
    ]


def operations(flops: float) -> str:
    """Return a number of operations with three digits, such as "3.61 EFLOP"."""
    size, unit = next((unit for unit in UNITS if flops >= unit[0]), UNITS[-1])
    return f"{flops / size:.3g} {unit}"


def exhibit_flops(samplings: Sequence[Sampling], flops: Iterable[int]) -> dict[str, int]:
    """Return the FLOPs of the naive plan's samplings for each exhibit."""
    totals: Counter[str] = Counter()
    for sampling, count in zip(samplings, flops, strict=True):
        totals[sampling.exhibit or "all"] += count
    return dict(totals)


def _format_hours(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}" if value >= 0.01 else f"{value:.2f}"


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:.2g} GB" if size < 1e11 else f"{size / 1e9:.0f} GB"
