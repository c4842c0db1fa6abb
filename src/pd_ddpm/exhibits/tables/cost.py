"""What the run took, beside what was planned: a row per rule, per trained network and per method that was drawn from."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from pd_ddpm.exhibits.document import Document, Part
from pd_ddpm.planning.device_rates import Rate

NOTES = (
    "Hours are summed over jobs, whatever ran side by side. They are those of Snakemake's benchmark file, which holds the last "
    "attempt of a job only, unless the job's own record is longer: the seconds that a network was trained, and those that the "
    "cases of a method took, count all attempts. What a killed job did after its last saved state is in neither.",
    "Evaluations and FLOPs are the planned ones: networks see the slices with brain of the test cases, padded to multiples of "
    "their divisor; a training includes its validations. FLOP/s: these FLOPs over the hours, so that reading, writing and the "
    "start of a job lower them.",
    "Planned hours: at the rate that `make plan` or the start of a run measured on this device; empty where there is none. "
    "GPU hours: hours times the GPUs of a job, where its network ran on one.",
)


class JobCost(NamedTuple):
    """One training, one sampling, or one job of another rule.

    seconds: NaN where they are not known; gpus: that the job had, 0 on a CPU; evaluations and flops: planned, of networks;
    planned_seconds: NaN where the rate of the device is not known. memory_mb: peak of the resident memory.
    """

    rule: str
    name: str
    seconds: float
    memory_mb: float
    gpus: int = 0
    device: str = ""
    number_format: str = ""
    evaluations: int = 0
    flops: int = 0
    planned_seconds: float = np.nan


def read_benchmarks(files: Iterable[Path]) -> tuple[float, float]:
    """Seconds, summed, and the peak of the resident memory in MB of Snakemake's benchmark files; NaN where none says so."""
    rows = [pd.read_csv(file, sep="\t") for file in files]
    if not rows:
        return np.nan, np.nan
    table = pd.concat(rows, ignore_index=True)[["s", "max_rss"]].apply(pd.to_numeric, errors="coerce")
    return float(table["s"].sum(min_count=1)), float(table["max_rss"].max())


def benchmark_files(folder: Path, rule: str, dataset: str, name: str, run: str) -> list[Path]:
    """The benchmark file of a job that is named by its run, or those of its shards in a folder of that name."""
    one = folder / rule / dataset / name / f"{run}.tsv"
    return [*([one] if one.exists() else []), *sorted((folder / rule / dataset / name / run).glob("*.tsv"))]


def other_jobs(folder: Path, dataset: str, names: Sequence[str], runs: Sequence[str]) -> list[JobCost]:
    """The jobs of all other rules on a data set: one for it, or one for each of these networks or methods and runs."""
    found = []
    for rule in sorted(path.name for path in folder.iterdir() if path.name not in ("train", "sample", "cost")):
        files = [folder / rule / f"{dataset}.tsv"]
        files += [file for name in names for run in runs for file in benchmark_files(folder, rule, dataset, name, run)]
        found += [JobCost(rule, "", *read_benchmarks([file])) for file in files if file.exists()]
    return found


def measured_seconds(rates: Sequence[Rate], flops: int, rule: str, on_gpu: bool, number_format: str) -> float:
    """Planned seconds at the rate that was measured last on this kind of device in this format; NaN where none was."""
    for rate in reversed(rates):
        if (rate.device != "CPU") == on_gpu and rate.number_format == number_format:
            return flops / (rate.training if rule == "train" else rate.sampling)
    return np.nan


def cost_table(jobs: Sequence[JobCost]) -> pd.DataFrame:
    """Rows of level rule, network and method, and the total of all rules last; NaN or empty where something is not known.

    planned_hours and planned_over_real are of the jobs whose device was measured and whose time is known.
    """
    table = pd.DataFrame(jobs, columns=JobCost._fields)
    rows = [_row("rule", rule, "", group) for rule, group in table.groupby("rule", sort=False)]
    for level, rule in (("network", "train"), ("method", "sample")):
        groups = table[table["rule"] == rule].groupby("name", sort=False)
        rows += [_row(level, rule, name, group) for name, group in groups]
    return pd.DataFrame([*rows, _row("total", "", "", table)])


def _row(level: str, rule: str, name: str, jobs: pd.DataFrame) -> dict[str, object]:
    seconds, networks = jobs["seconds"].sum(min_count=1), jobs[jobs["flops"] > 0].dropna(subset="seconds")
    compared = networks.dropna(subset="planned_seconds")
    planned = compared["planned_seconds"].sum(min_count=1)
    on_gpu = jobs["gpus"] > 0
    return {
        "level": level,
        "rule": rule,
        "name": name,
        "jobs": len(jobs),
        "jobs_without_time": int(jobs["seconds"].isna().sum()),
        "planned_evaluations": int(jobs["evaluations"].sum()),
        "planned_flops": int(jobs["flops"].sum()),
        "planned_hours": planned / 3600,
        "hours": seconds / 3600,
        "planned_over_real": planned / compared["seconds"].sum() if len(compared) else np.nan,
        "gpu_hours": float((jobs["seconds"] * jobs["gpus"])[on_gpu].sum() / 3600),
        "teraflops_per_second": networks["flops"].sum() / networks["seconds"].sum() / 1e12 if len(networks) else np.nan,
        "peak_memory_mb": jobs["memory_mb"].max(),
        "device": ", ".join(sorted(set(jobs["device"]) - {""})),
        "number_format": ", ".join(sorted(set(jobs["number_format"]) - {""})),
    }


def cost_document(table: pd.DataFrame, labels: dict[str, str], remark: str) -> Document:
    """The cost for reading: the rules with their total, the networks, the methods."""
    parts = []
    for heading, levels in (("Rules", ("rule", "total")), ("Networks", ("network",)), ("Methods", ("method",))):
        rows = table[table["level"].isin(levels)]
        names = rows["rule"].where(rows["level"] == "rule", rows["name"].map(lambda name: labels.get(name, name)))
        names = names.where(rows["level"] != "total", "Total")
        shown = pd.DataFrame({heading[:-1]: names, "Jobs": rows["jobs"]})
        shown["Hours"] = [_hours(*pair) for pair in zip(rows["hours"], rows["jobs_without_time"], strict=True)]
        shown["GPU hours"] = rows["gpu_hours"].map(lambda value: f"{value:.3f}")
        shown["Planned evaluations"] = rows["planned_evaluations"].map(lambda value: f"{value:,}" if value else "")
        shown["Planned TFLOP"] = rows["planned_flops"].map(lambda value: f"{value / 1e12:,.2f}" if value else "")
        shown["TFLOP/s"] = rows["teraflops_per_second"].map(_digits)
        shown["Planned / real hours"] = rows["planned_over_real"].map(_digits)
        shown["Peak memory [MB]"] = rows["peak_memory_mb"].map(lambda value: "" if pd.isna(value) else f"{value:,.0f}")
        shown["Device"] = [" ".join(pair) for pair in zip(rows["device"], rows["number_format"], strict=True)]
        parts.append(Part(heading, shown, NOTES if heading == "Rules" else (), left={"Device"}))
    return Document("Cost of the run", remark, parts)


def _hours(value: float, without: int) -> str:
    known = "unknown" if pd.isna(value) else f"{value:.3f}"
    return f"{known} ({without} jobs without time)" if without else known


def _digits(value: float) -> str:
    return "" if pd.isna(value) else f"{value:.3g}"
