"""Compare the speed of this project with the libraries that a researcher would use instead: `make bench`.

    python -m benchmarks.run

All implementations run in one process with one thread. They are timed in random order within each round, after an untimed call
of each. Times are CPU times. Ratios are computed within a round and reported as median and quartiles. Each row has an A/A ratio
of our code to itself, whose spread is the noise. The peers are the installed packages, used as by their users: see `sampling`,
`training`, `masks` and `patches`. The rows on Snakemake use the wall clock and separate processes, and need an idle machine.

The command writes benchmarks/results.json and the table in docs/performance.md. It exits with code 1 if a result differs from
the peer's, or if a ratio misses its target by more than the noise. It takes about seven minutes on two cores.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks import masks, patches, peers, sampling, table, training, volumes, workflow
from benchmarks.rows import Row

ROOT = Path(__file__).parents[1]
RESULTS, DOCUMENT = ROOT / "benchmarks" / "results.json", ROOT / "docs" / "performance.md"
SAME_OUTPUT = 1e-5  # largest difference of two networks with equal weights, relative to the largest output


@dataclass(frozen=True)
class Scale:
    """Sizes and repetitions of the measurements.

    Attributes:
        channels: width of the timed networks.
        size: (height, width) in pixels of their images.
        batch: patches per training step.
        volume: (height, width, depth) of the timed volumes and their patches.
        reverse_step: shape (members, 1, height, width) of the reverse steps without a network.
        network_rounds: rounds of measurements with networks of slices.
        volume_rounds: rounds of measurements with networks of volumes.
        rounds: rounds of the other measurements.
        random_cases: random cases on which the metrics are compared with the peers'.
    """

    channels: int = 64
    size: tuple[int, int] = (64, 96)
    batch: int = 2
    volume: tuple[int, int, int] = (32, 32, 32)
    reverse_step: tuple[int, int, int, int] = (60, 1, 128, 192)
    network_rounds: int = 9
    volume_rounds: int = 5
    rounds: int = 15
    random_cases: int = 40


def checks(scale: Scale) -> dict[str, list[str]]:
    """Compare our results with those of the peers; return check -> differences (none if all are equal)."""
    differences: dict[str, list[str]] = {}
    for library, build, names in (
        ("MONAI", peers.monai_network, peers.MONAI),
        ("diffusers", peers.diffusers_network, peers.DIFFUSERS),
    ):
        difference = peers.largest_difference(build(32), names, 32)
        wrong = [f"{difference:g} of the largest value"] if not difference <= SAME_OUTPUT else []
        differences[f"with {library}'s weights our network gives {library}'s output"] = wrong
    network = peers.monai_network(29, peers.VOLUMES)
    difference = peers.largest_difference(network, peers.MONAI, 29, peers.VOLUMES)
    wrong = [f"{difference:g} of the largest value"] if not difference <= SAME_OUTPUT else []
    differences["with the weights of MONAI's network of volumes our network gives its output"] = wrong
    name = (
        f"HD95 equals medpy's to {masks.TOLERANCE_MM:g} mm and lesion F1 scipy's exactly on {scale.random_cases} random cases"
    )
    differences[name] = masks.disagreements(scale.random_cases)
    return differences


def benchmarks(scale: Scale) -> dict[str, Callable[[], list[Row]]]:
    """Return name -> measurement, in the order of the table."""
    return {
        "member-steps": lambda: sampling.member_steps(scale.channels, scale.size, scale.network_rounds),
        "kernels": lambda: sampling.kernels_per_step(32, scale.size),
        "reverse steps": lambda: sampling.reverse_steps(scale.reverse_step, scale.rounds),
        "training steps": lambda: training.training_steps(scale.channels, scale.batch, scale.size, scale.network_rounds),
        "steps of volumes": lambda: volumes.steps_of_volumes(29, scale.volume, scale.volume_rounds),
        "memory of volumes": lambda: volumes.memory_of_volumes(29, (128,) * 3, (256,) * 3),
        "masks": lambda: masks.metric_rows(scale.rounds),
        "patches": lambda: patches.batches_of_patches(scale.rounds),
        "dry run": lambda: [workflow.dry_run_of_the_paper()],
        "overhead of jobs": workflow.overhead_per_job,
    }


def main(
    scale: Scale, measurements: dict[str, Callable[[], list[Row]]], results: Path = RESULTS, document: Path = DOCUMENT
) -> int:
    """Compare results, run the measurements, write the table; return the exit code.

    Args:
        scale: sizes and repetitions.
        measurements: name -> measurement, see `benchmarks`.
        results: path of the JSON file.
        document: path of the document with the table.
    """
    torch.set_num_threads(1)
    started, here = time.monotonic(), table.machine()
    differences = checks(scale)
    rows: list[Row] = []
    for name, measure in measurements.items():
        print(f"{time.monotonic() - started:4.0f} s  {name}", file=sys.stderr, flush=True)
        for row in measure():
            rows.append(row)
            print(f"        {table.line(row)}", file=sys.stderr, flush=True)
    outcomes = {name: "; ".join(wrong) or "yes" for name, wrong in differences.items()}
    recorded = table.record(rows, outcomes, time.monotonic() - started, here)
    table.write(recorded, rows, results, document)
    print(table.markdown(recorded, rows))
    failures = [f"{name}: no, {outcomes[name]}" for name, wrong in differences.items() if wrong]
    failures += [f"{row.what}, {row.against or 'target'}: not reached" for row in rows if row.reached == "no"]
    for failure in failures:
        print(f"error: {failure}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(Scale(), benchmarks(Scale())))
