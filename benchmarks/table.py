"""Write the rows of the benchmark to a JSON file and to the table of docs/performance.md."""

import os
import platform
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.rows import Row
from benchmarks.timing import Spread
from pd_ddpm.runtime.files import atomic_write, write_json

BEGIN, END = "<!-- make bench: begin -->", "<!-- make bench: end -->"
FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
PACKAGES = ("torch", "monai", "diffusers", "MedPy", "scipy", "numpy", "snakemake")
HEAD = ("what", "against", "ours", "theirs", "theirs / ours", "A/A", "target", "reached")


class NoMarkError(ValueError):
    """A document has no marks for the table."""


def machine() -> dict[str, Any]:
    """Return the properties of the machine and the package versions, on which the results depend."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text(encoding="utf-8").splitlines() if information.exists() else []
    facts = dict(reversed([[part.strip() for part in line.split(":", 1)] for line in lines if ":" in line]))
    flags = facts.get("flags", "").split()
    return {
        "cpu": facts.get("model name", platform.processor() or platform.machine()),
        "cores": os.cpu_count(),
        "flags": [flag for flag in FLAGS if flag in flags],
        "load_average": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "packages": {package: number for package in PACKAGES if (number := _version(package))},
    }


def _version(package: str) -> str | None:
    """Return the version of a package; None if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def commit() -> str | None:
    """Return the git commit, with the suffix "-dirty" if files were changed; None outside a repository."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--match", ""]
    done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else None


def record(rows: Iterable[Row], checks: Mapping[str, str], seconds: float, here: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of the JSON file.

    Args:
        rows: the measurements.
        checks: check of equal results -> "yes" or the differences.
        seconds: duration of the benchmark.
        here: result of `machine` at the start of the benchmark.
    """
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "machine": dict(here),
        "seconds": round(seconds),
        "checks": dict(checks),
        "rows": [row.as_record() for row in rows],
    }


def markdown(recorded: Mapping[str, Any], rows: Sequence[Row]) -> str:
    """Return a description of the machine, the checks, and the table as Markdown."""
    here = recorded["machine"]
    packages = ", ".join(f"{name} {number}" for name, number in here["packages"].items())
    flags = " ".join(here["flags"]) or "none of " + ", ".join(FLAGS)
    lines = [
        f"Measured on {recorded['date'][:10]} at commit {recorded['commit']}: {here['cpu']}, {here['cores']} cores ({flags}), "
        f"load {here['load_average']} when it began; Python {here['python']}, {packages}. It took {recorded['seconds']} s.",
        "",
        *(f"* {name}: {finding}" for name, finding in recorded["checks"].items()),
        "",
        _line(HEAD),
        _line(["---", "---", "---:", "---:", "---:", "---:", "---:", "---"]),
        *(line(row) for row in rows),
    ]
    return "\n".join(lines)


def line(row: Row) -> str:
    """Return a row of the table as Markdown."""
    return _line(_cells(row))


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cells(row: Row) -> list[str]:
    target = "" if row.target is None else f"≥ {row.target:g}" if row.against else f"≤ {row.target:g} {row.unit}"
    reached = f"{row.reached}: {row.remark}" if row.remark and row.ours is None else row.reached
    what = f"{row.what}; {row.remark}" if row.remark and row.ours is not None else row.what
    values = [_number(value, row.unit) for value in (row.ours, row.theirs)]
    return [what, row.against, *values, _spread(row.ratio), _spread(row.same), target, reached]


def _number(value: float | None, unit: str) -> str:
    if value is None:
        return ""
    return f"{value:.0f} {unit}" if value >= 100 or value == int(value) else f"{value:.3g} {unit}"


def _spread(spread: Spread | None) -> str:
    if spread is None:
        return ""
    if spread.low == spread.high:
        return f"{spread.median:.2f}"
    return f"{spread.median:.2f} [{spread.low:.2f}, {spread.high:.2f}]"


def write(recorded: Mapping[str, Any], rows: Sequence[Row], results: Path, document: Path) -> None:
    """Write the JSON file, and replace the table between the two marks of the document.

    Args:
        recorded: result of `record`.
        rows: the measurements.
        results: path of the JSON file.
        document: path of the Markdown document.

    Raises:
        NoMarkError: the document has no marks. Nothing is written.
    """
    replace_section(document, BEGIN, END, markdown(recorded, rows))
    write_json(results, recorded)


def replace_section(document: Path, begin: str, end: str, content: str) -> None:
    """Replace the text between two marks of a document.

    Args:
        document: path of the Markdown document.
        begin: mark before the text.
        end: mark after it.
        content: the new text.

    Raises:
        NoMarkError: the document has no marks. Nothing is written.
    """
    before, found_begin, rest = document.read_text(encoding="utf-8").partition(begin)
    _, found_end, after = rest.partition(end)
    if not found_begin or not found_end:
        raise NoMarkError(f"{document}: it has no line {begin} followed by {end}. Add both where the table belongs.")
    with atomic_write(document) as temporary:
        temporary.write_text(f"{before}{begin}\n{content}\n{end}{after}", encoding="utf-8")
