"""The project's speed beside what a researcher would otherwise use: `make bench`.

    python -m benchmarks.run

One process, one thread. Contestants take turns in random order, each after an untimed call; CPU time; ratios are formed within
a round and given as median and quartiles; each row has an A/A pair, our code against itself, whose spread is the noise. Peers
are the installed packages, set up as their users would: `sampling`, `training`, `masks` and `patches` say how. Only the
rows on Snakemake use the wall clock and processes of their own; they want a machine that does nothing else.

It writes benchmarks/results.json and the table in docs/performance.md. The exit code is 1 where an answer differs from a
peer's, or a figure misses its target by more than the noise. About seven minutes on two cores.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks import masks, patches, peers, sampling, table, training, workflow
from benchmarks.rows import Row

ROOT = Path(__file__).parents[1]
RESULTS, DOCUMENT = ROOT / "benchmarks" / "results.json", ROOT / "docs" / "performance.md"
SAME_OUTPUT = 1e-5  # largest difference of two networks with the same weights, as a share of the largest output


@dataclass(frozen=True)
class Scale:
    """How large and how often. channels and size are those of the networks that are timed."""

    channels: int = 64
    size: tuple[int, int] = (64, 96)
    batch: int = 2
    reverse_step: tuple[int, int, int, int] = (60, 1, 128, 192)
    network_rounds: int = 9
    rounds: int = 15
    random_cases: int = 40


def checks(scale: Scale) -> dict[str, list[str]]:
    """What was found to be equal, and the differences if there are any."""
    found: dict[str, list[str]] = {}
    for library, build, names in (("MONAI", peers.monai, peers.MONAI), ("diffusers", peers.diffusers, peers.DIFFUSERS)):
        difference = peers.largest_difference(build(32), names, 32)
        wrong = [f"{difference:g} of the largest value"] if not difference <= SAME_OUTPUT else []
        found[f"with {library}'s weights our network gives {library}'s output"] = wrong
    name = (
        f"HD95 equals medpy's to {masks.TOLERANCE_MM:g} mm and lesion F1 scipy's exactly on {scale.random_cases} random cases"
    )
    found[name] = masks.disagreements(scale.random_cases)
    return found


def benchmarks(scale: Scale) -> dict[str, Callable[[], list[Row]]]:
    """What is measured, in the order of the table."""
    return {
        "member-steps": lambda: sampling.member_steps(scale.channels, scale.size, scale.network_rounds),
        "kernels": lambda: sampling.kernels_per_step(32, scale.size),
        "reverse steps": lambda: sampling.reverse_steps(scale.reverse_step, scale.rounds),
        "training steps": lambda: training.training_steps(scale.channels, scale.batch, scale.size, scale.network_rounds),
        "masks": lambda: masks.scored_masks(scale.rounds),
        "patches": lambda: patches.batches_of_patches(scale.rounds),
        "dry run": lambda: [workflow.dry_run_of_the_paper()],
        "overhead of jobs": workflow.overhead_per_job,
    }


def main(scale: Scale, measured: dict[str, Callable[[], list[Row]]], results: Path = RESULTS, document: Path = DOCUMENT) -> int:
    """Check, measure, write; returns the exit code."""
    torch.set_num_threads(1)
    started, here = time.monotonic(), table.machine()
    found = checks(scale)
    rows: list[Row] = []
    for name, measure in measured.items():
        print(f"{time.monotonic() - started:4.0f} s  {name}", file=sys.stderr, flush=True)
        for row in measure():
            rows.append(row)
            print(f"        {table.line(row)}", file=sys.stderr, flush=True)
    said = {name: "; ".join(wrong) or "yes" for name, wrong in found.items()}
    recorded = table.record(rows, said, time.monotonic() - started, here)
    table.write(recorded, rows, results, document)
    print(table.markdown(recorded, rows))
    failures = [f"{name}: no, {said[name]}" for name, wrong in found.items() if wrong]
    failures += [f"{row.what}, {row.against or 'target'}: not reached" for row in rows if row.reached == "no"]
    for failure in failures:
        print(f"error: {failure}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(Scale(), benchmarks(Scale())))
