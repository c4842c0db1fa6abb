"""Measure the paper's denoiser on a GPU next to MONAI and diffusers: `make bench-gpu`.

    python -m benchmarks.gpu [--minutes 4] [--output benchmarks/gpu.json]

The command prints a table, writes it to docs/performance.md, and every number to a JSON file. Measurements that do not fit into
the time are left out. Without a GPU it exits with an error. See `gpu_rows` for the measurements.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from benchmarks.gpu_rows import Bench, GpuRow, Sizes, with_targets
from benchmarks.table import commit, machine, replace_section
from pd_ddpm.runtime.files import write_json

ROOT = Path(__file__).parents[1]
DOCUMENT = ROOT / "docs" / "performance.md"
BEGIN, END = "<!-- make bench-gpu: begin -->", "<!-- make bench-gpu: end -->"
HEAD = (
    "| what | who | ms | TFLOP/s | kernels | GPU busy | target | remark |",
    "| --- | --- | ---: | ---: | ---: | ---: | --- | --- |",
)


# Of the measurement that takes longest, and is left out if less time is left: forward and backward are compiled.
EXPECTED_SECONDS = {"compiled training": 120}


def measure(bench: Bench, minutes: float) -> list[GpuRow]:
    """Run the measurements that fit into the time, and return their rows.

    Args:
        bench: the measurements.
        minutes: time after which no further one begins.
    """
    rows: list[GpuRow] = []
    deadline = time.monotonic() + 60 * minutes
    for name, section in bench.sections().items():
        if time.monotonic() + EXPECTED_SECONDS.get(name, 0) > deadline:
            rows.append(GpuRow(name, "", remark=f"not measured: it does not fit into {minutes:g} minutes"))
            continue
        try:
            for row in section():
                rows.append(row)
                print(line(row), file=sys.stderr, flush=True)
        except (RuntimeError, ValueError) as error:  # such as out of memory; the other measurements go on
            rows.append(GpuRow(name, "", remark=f"failed: {str(error).splitlines()[0]}"))
            print(line(rows[-1]), file=sys.stderr, flush=True)
        if bench.device.type == "cuda":
            torch.cuda.empty_cache()
    return with_targets(rows, bench.sizes.batch, bench.sizes.training_batch)


def line(row: GpuRow) -> str:
    """Return a row of the table as Markdown."""
    timing = row.timing
    cells = [
        row.what,
        row.who,
        "" if timing is None else f"{timing.milliseconds:.3g}",
        "" if row.teraflops is None else f"{row.teraflops:.3g}",
        "" if timing is None or timing.kernels is None else str(timing.kernels),
        "" if timing is None or timing.busy_share is None else f"{timing.busy_share:.0%}",
        "" if row.target is None else f"{row.target[0]}: {'yes' if row.target[1] else 'no'}",
        row.remark,
    ]
    return f"| {' | '.join(cells)} |"


def main(arguments: Sequence[str]) -> int:
    """Measure on the first GPU, write table and JSON file; return the exit code."""
    parser = argparse.ArgumentParser(description="Measure the paper's denoiser on a GPU next to MONAI and diffusers.")
    parser.add_argument("--minutes", type=float, default=4.0, help="time after which no further measurement begins")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "gpu.json", help="JSON file to write")
    parser.add_argument("--document", type=Path, default=DOCUMENT, help="document whose table is replaced")
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print("error: PyTorch sees no CUDA device here; run `make bench-gpu` on a machine that has one.", file=sys.stderr)
        return 1
    write_results(Bench(torch.device("cuda:0"), Sizes()), options.minutes, options.output, options.document)
    return 0


def write_results(bench: Bench, minutes: float, output: Path, document: Path) -> None:
    """Run the measurements, print the table, and write it and the JSON file.

    Args:
        bench: the measurements.
        minutes: time after which no further one begins.
        output: JSON file.
        document: Markdown document with the two marks of the table.
    """
    started, here = time.monotonic(), machine()
    rows = measure(bench, minutes)
    card = torch.cuda.get_device_name(bench.device) if bench.device.type == "cuda" else here["cpu"]
    facts = f"Measured on {time.strftime('%Y-%m-%d')} at commit {commit()}: {card}, torch {torch.__version__}, "
    facts += f"in {time.monotonic() - started:.0f} s."
    table = "\n".join([facts, "", *HEAD, *map(line, rows)])
    print(table)
    write_json(output, {"card": card, "commit": commit(), "machine": here, "rows": [asdict(row) for row in rows]})
    replace_section(document, BEGIN, END, table)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
