"""Measure the overhead of the workflow: the dry run of the paper's plan, and the time per job in addition to its work.

Both run in a copy of the repository and use the wall clock. For the overhead, the scripts of the copy perform their imports and
then only touch their outputs. The time of this run minus that of its dry run (start and planning) is the overhead: Snakemake's
handling of the jobs, the start of Python, and the imports. The import of PyTorch is timed separately and subtracted.
"""

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.rows import Row

ROOT = Path(__file__).parents[1]
PARTS = ("Snakefile", "rules", "workflow", "config", "profiles", "slurm", "envs", "src", "tests/small.yaml")
TARGET = "results/table1.csv"

# Appended to pd_ddpm/runtime/job.py. Its `run` only touches the outputs and logs whether torch was imported.
STAND_IN = """

def run(main, log_file, **arguments):
    import __main__  # the script
    for path in __main__.snakemake.output:
        Path(path).touch()
    Path(log_file).write_text("torch" if "torch" in sys.modules else "")
"""


class WorkflowError(RuntimeError):
    """Snakemake exited with an error."""


def snakemake(folder: Path, *arguments: str) -> tuple[float, str]:
    """Run Snakemake in a folder; return the seconds and the output. Raise WorkflowError if it fails."""
    environment = os.environ | {"PYTHONPATH": str(folder / "src"), "HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
    command = [sys.executable, "-m", "snakemake", *arguments]
    start = time.perf_counter()
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    if done.returncode:
        raise WorkflowError(f"{' '.join(command)} ended with code {done.returncode}:\n{(done.stdout + done.stderr)[-2000:]}")
    return seconds, done.stdout + done.stderr


@contextmanager
def copied_repository() -> Iterator[Path]:
    """Yield a temporary copy of the workflow without results."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for part in PARTS:
            target = folder / Path(part).name
            if (ROOT / part).is_dir():
                shutil.copytree(ROOT / part, target, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
            else:
                shutil.copy(ROOT / part, target)
        yield folder


def job_count(output: str) -> int:
    """Return the total number of jobs from the output of a dry run."""
    for line in output.splitlines():
        if line.split()[:1] == ["total"]:
            return int(line.split()[1])
    raise WorkflowError(f"Snakemake printed no number of jobs:\n{output[-2000:]}")


def dry_run_of_the_paper() -> Row:
    """Time the dry run of all experiments of the paper (five splits, all tables and figures) with the cluster profile."""
    with copied_repository() as folder:
        seconds, output = snakemake(folder, "-n", "--quiet", "rules", "--cores", "8", "--profile", "slurm")
    return Row(f"dry run of the paper's plan ({job_count(output)} jobs)", "", "s", seconds, target=15.0)


def import_of_torch(rounds: int = 5) -> float:
    """Return the median seconds of `import torch` in a new process, without the start of Python."""

    def seconds(program: str) -> float:
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", program], check=True)
        return time.perf_counter() - start

    return statistics.median(seconds("import torch") - seconds("pass") for _ in range(rounds))


def overhead_per_job() -> list[Row]:
    """Return the mean overhead in seconds of the jobs of Table 1, without and with the import of PyTorch."""
    with copied_repository() as folder:
        job_module = folder / "src" / "pd_ddpm" / "runtime" / "job.py"
        job_module.write_text(job_module.read_text(encoding="utf-8") + STAND_IN, encoding="utf-8")
        arguments = ("--configfile", "small.yaml", "--cores", "1", TARGET)
        planning, plan = snakemake(folder, "-n", *arguments)
        seconds, _ = snakemake(folder, *arguments)
        with_torch = [path.read_text(encoding="utf-8") for path in (folder / "results" / "logs").rglob("*.log")].count("torch")
    jobs, importing = job_count(plan), import_of_torch()
    total = seconds - planning
    return [
        Row(
            f"the workflow's own time per job ({jobs} jobs of Table 1), PyTorch's import apart",
            "",
            "s",
            (total - with_torch * importing) / jobs,
            target=2.0,
        ),
        Row(f"the same with PyTorch's import in {with_torch} of the jobs", "", "s", total / jobs),
        Row("PyTorch's import", "", "s", importing),
    ]
