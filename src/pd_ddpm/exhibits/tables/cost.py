"""Table of what a run cost next to what was planned: one row per rule, trained network and sampled method."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pd_ddpm.config.methods import averaged_methods, is_from_files, pool
from pd_ddpm.config.resolve import Config
from pd_ddpm.config.run import Run
from pd_ddpm.exhibits.document import Document, Part
from pd_ddpm.exhibits.training_remarks import LARGEST_LATE_GAIN, flattening, late_gain
from pd_ddpm.planning.case_sizes import cohort_sizes
from pd_ddpm.planning.device_rates import Rate
from pd_ddpm.planning.jobs import Sampling
from pd_ddpm.planning.planned_flops import PlannedFlops, network_evaluations, read_rates
from pd_ddpm.runtime.sealed import read_foreign, read_sealed_json
from pd_ddpm.runtime.sealed_tables import read_sealed_csv

NOTES = (
    "Hours are summed over jobs, including jobs that ran at the same time. They come from Snakemake's benchmark file, which "
    "covers only the last attempt of a job, or from the job's own record if that is longer: the seconds of a training, and "
    "those of the cases of a method, count all attempts. Work of a killed job after its last saved state is in neither. Hours "
    "of masks from files are those of another program, which are not known.",
    "Evaluations and FLOPs are planned values. Networks process the slices of the test cases that contain brain, or whole "
    "volumes, padded to a multiple of their divisor; a training includes its validations. FLOP/s are these FLOPs divided by "
    "the hours, which include reading, writing and the start of a job.",
    "Planned hours use the rate that `make plan` or the start of a run measured on this device; they are empty without a "
    "measurement. GPU hours are hours times the number of GPUs of a job, for jobs whose network ran on a GPU.",
)

# Rules that have rows of their own, and those that run after the table.
COUNTED_OTHERWISE = ("train", "sample", "average", "cost", "index")

OTHER_PROGRAM = "other program"  # stands for the rule that made masks which are read from files

TRAINING_NOTES = (
    "Compute: planned TFLOP of one training with its validations, plus those of the network that it begins with. In "
    "parentheses: the same as a multiple of the least in this table. Methods whose networks differ in it are compared at "
    "unequal training. Steps: mean over trainings, which may end early (`patience`). Seconds: mean over trainings, without "
    "those of the network that a training begins with.",
    "Dice: best validation Dice of a training, mean over trainings. Gain: rise of the best validation Dice in the last third "
    f"of the steps, largest over trainings. Up to {LARGEST_LATE_GAIN:g} the score counts as flattened; the paper's PD-DDPM "
    "leads ES-DDPM by 0.009. A learning rate that falls to 0 flattens any score: more steps may still help.",
)


@dataclass(frozen=True, kw_only=True)
class JobCost:
    """Cost of one job: a training, a sampling or a job of another rule.

    Attributes:
        rule: rule of the job.
        name: network or method; empty for other rules.
        seconds: wall time; NaN if unknown.
        memory_mb: peak of the resident memory; NaN if unknown.
        gpus: number of GPUs that the job used; 0 on a CPU.
        device: name of the GPU or the processor.
        precision: precision of the network, such as "float32".
        evaluations: planned network evaluations.
        flops: planned floating-point operations of the networks.
        planned_seconds: planned FLOPs at the measured rate of the device; NaN if no rate is known.
        steps: steps of a training, until it ended.
        batch: patches in a step of a training.
        threads: CPU threads of a training.
        begins_with: network that a training begins with; empty if it begins at random.
        validation_dice: best validation Dice of a training.
        late_gain: by how much that rose in the last third of the steps.
    """

    rule: str
    name: str = ""
    seconds: float
    memory_mb: float
    gpus: int = 0
    device: str = ""
    precision: str = ""
    evaluations: int = 0
    flops: int = 0
    planned_seconds: float = np.nan
    steps: int = 0
    batch: int = 0
    threads: int = 0
    begins_with: str = ""
    validation_dice: float = np.nan
    late_gain: float = np.nan


@dataclass(frozen=True)
class CostFolders:
    """Folders that hold the sources of the table.

    Attributes:
        results: results of one dataset, named like the dataset.
        benchmarks: benchmark files of Snakemake.
        plan: FLOP counts and device rates that earlier plans have saved.
    """

    results: Path
    benchmarks: Path
    plan: Path


def read_job_costs(
    config: Config,
    folders: CostFolders,
    network_metadata: Sequence[str],
    histories: Sequence[str],
    prediction_metadata: Sequence[str],
) -> list[JobCost]:
    """Return the costs of all jobs of a run, those of other rules first.

    Args:
        config: the resolved configuration.
        folders: where benchmarks, results and plans lie.
        network_metadata: paths of the metadata of all trained networks.
        histories: paths of the histories of their trainings, in the same order.
        prediction_metadata: paths of the metadata of all predictions.
    """
    dataset = folders.results.name
    cohorts = {dataset: cohort_sizes(config, dataset, folders.results)}
    planned = PlannedFlops(config, cohorts, folders.plan / "flops.json")
    rates = read_rates(folders.plan / "rates.json")
    trained, sampled = ([Run.parse(path) for path in paths] for paths in (network_metadata, prediction_metadata))
    costs = other_jobs(folders.benchmarks, dataset, [*trained, *sampled])

    def network_job(rule: str, run: Run, metadata: Mapping[str, Any], flops: int, **further: Any) -> JobCost:
        provenance, is_on_gpu = metadata["provenance"], metadata["device_type"] == "cuda"
        seconds, memory = read_benchmarks(benchmark_files(folders.benchmarks, rule, run))
        return JobCost(
            rule=rule,
            name=run.name,
            seconds=float(np.fmax(seconds, provenance["seconds"])),
            memory_mb=memory,
            gpus=max(1, config["resources"][rule]["gpu"]) if is_on_gpu else 0,
            device=provenance["device"],
            precision=provenance["precision"],
            flops=flops,
            planned_seconds=measured_seconds(rates, flops, rule, is_on_gpu, provenance["precision"]),
            **further,
        )

    for run, path, history in zip(trained, network_metadata, histories, strict=True):
        metadata = read_sealed_json(path)
        facts = _training_facts(metadata, history)
        flops = planned.training(run) * facts["steps"] // metadata["settings"]["steps"]  # of a training that ended early
        costs.append(network_job("train", run, metadata, flops, **facts))
    for run, path in zip(sampled, prediction_metadata, strict=True):
        if is_from_files(config, run.name):
            costs.append(JobCost(rule=OTHER_PROGRAM, name=run.name, seconds=np.nan, memory_mb=np.nan))
            continue
        sampling = Sampling(run, pool(config, run.name))
        evaluations = network_evaluations(config, cohorts, sampling)
        rule = "average" if averaged_methods(config, run.name) else "sample"
        costs.append(network_job(rule, run, read_sealed_json(path), planned.sampling(sampling), evaluations=evaluations))
    return costs


def _training_facts(metadata: Mapping[str, Any], history_file: str) -> dict[str, Any]:
    """Return the fields of a `JobCost` that only a training has."""
    settings, history = metadata["settings"], read_sealed_csv(history_file)
    return {
        "steps": int(history["step"].max()),
        "batch": settings["batch"],
        "threads": metadata["threads"],
        "begins_with": settings["initialise_from"] or "",
        "validation_dice": history["validation_dice"].max(),
        "late_gain": late_gain(history),
    }


def read_benchmarks(files: Iterable[Path]) -> tuple[float, float]:
    """Return the sum of the seconds and the peak memory (MB) in Snakemake's benchmark files; NaN for unknown values."""
    tables = [pd.read_csv(BytesIO(read_foreign(file)), sep="\t") for file in files]
    if not tables:
        return np.nan, np.nan
    table = pd.concat(tables, ignore_index=True)[["s", "max_rss"]].apply(pd.to_numeric, errors="coerce")
    return float(table["s"].sum(min_count=1)), float(table["max_rss"].max())


def benchmark_files(folder: Path, rule: str, run: Run) -> list[Path]:
    """Return the benchmark file of a run's job, and those of its shards.

    Args:
        folder: folder of all benchmarks.
        rule: rule of the job.
        run: network or method, dataset, split and seed of the job.
    """
    shards = folder / rule / run.dataset / run.name / run.slug
    whole = shards.with_name(f"{run.slug}.tsv")
    return [*([whole] if whole.exists() else []), *sorted(shards.glob("*.tsv"))]


def other_jobs(folder: Path, dataset: str, runs: Iterable[Run]) -> list[JobCost]:
    """Return the costs of all rules except `cost` and those of networks and predictions.

    Args:
        folder: folder of all benchmarks.
        dataset: dataset whose jobs are counted.
        runs: runs whose jobs are counted. Benchmarks of other runs are left from earlier configurations.
    """
    costs, runs = [], sorted(set(runs), key=lambda run: (run.name, run.slug))
    for rule in sorted(path.name for path in folder.iterdir() if path.name not in COUNTED_OTHERWISE):
        files = [folder / rule / f"{dataset}.tsv", *(file for run in runs for file in benchmark_files(folder, rule, run))]
        for file in files:
            if file.exists():
                seconds, memory = read_benchmarks([file])
                costs.append(JobCost(rule=rule, seconds=seconds, memory_mb=memory))
    return costs


def measured_seconds(rates: Sequence[Rate], flops: int, rule: str, is_on_gpu: bool, precision: str) -> float:
    """Return the planned seconds at the latest rate measured on this kind of device, or NaN if none was measured.

    Args:
        rates: measured rates, oldest first.
        flops: planned floating-point operations.
        rule: "train" or "sample".
        is_on_gpu: whether the job ran on a GPU.
        precision: precision of the network, such as "bfloat16".
    """
    for rate in reversed(rates):
        if (rate.device != "CPU") == is_on_gpu and rate.precision == precision:
            return flops / (rate.training if rule == "train" else rate.sampling)
    return np.nan


def cost_table(jobs: Sequence[JobCost]) -> pd.DataFrame:
    """Return one row per rule, network and method, and the total of all rules last.

    Unknown values are NaN or empty, and so are in other rows the columns that describe the training of a network.
    `planned_hours` and `planned_over_real` count only jobs with a known time, on a device
    whose rate was measured.
    """
    table = pd.DataFrame(jobs, columns=[field.name for field in fields(JobCost)])
    rows = [_row("rule", rule, "", group) for rule, group in table.groupby("rule", sort=False)]
    for level, rule in (("network", "train"), ("method", "sample"), ("method", OTHER_PROGRAM)):
        groups = table[table["rule"] == rule].groupby("name", sort=False)
        rows += [_row(level, rule, name, group) for name, group in groups]
    return pd.DataFrame([*rows, _row("total", "", "", table)])


def _row(level: str, rule: str, name: str, jobs: pd.DataFrame) -> dict[str, object]:
    seconds, networks = jobs["seconds"].sum(min_count=1), jobs[jobs["flops"] > 0].dropna(subset="seconds")
    compared = networks.dropna(subset="planned_seconds")
    planned = compared["planned_seconds"].sum(min_count=1)
    is_on_gpu = jobs["gpus"] > 0
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
        "gpu_hours": float((jobs["seconds"] * jobs["gpus"])[is_on_gpu].sum() / 3600),
        "teraflops_per_second": networks["flops"].sum() / networks["seconds"].sum() / 1e12 if len(networks) else np.nan,
        "peak_memory_mb": jobs["memory_mb"].max(),
        "device": ", ".join(sorted(set(jobs["device"]) - {""})),
        "number_format": ", ".join(sorted(set(jobs["precision"]) - {""})),
    } | (_training_columns(jobs) if level == "network" else {})


def _training_columns(trainings: pd.DataFrame) -> dict[str, object]:
    """Return the columns that describe the training of a network, which has equal settings in all splits and seeds."""
    first = trainings.iloc[0]
    return {
        **{key: first[key] for key in ("batch", "begins_with")},
        "steps": trainings["steps"].mean(),
        "threads": trainings["threads"].max(),
        "seconds_per_training": trainings["seconds"].mean(),
        "flops_per_training": trainings["flops"].mean(),
        "validation_dice": trainings["validation_dice"].mean(),
        "late_gain": trainings["late_gain"].max(),
        "flattening": flattening(trainings["late_gain"].tolist()),
    }


def cost_document(table: pd.DataFrame, labels: Mapping[str, str], users: Mapping[str, str], caption_note: str) -> Document:
    """Return the document: a part each for the rules with their total, the networks, their training and the methods.

    Args:
        table: rows of `cost_table`.
        labels: method -> name in tables.
        users: network -> names of the methods in Table 1 that use it.
        caption_note: dataset and scale that the numbers belong to.
    """
    parts = []
    for heading, levels in (("Rules", ("rule", "total")), ("Networks", ("network",)), ("Methods", ("method",))):
        rows = table[table["level"].isin(levels)]
        names = rows["rule"].where(rows["level"] == "rule", rows["name"].map(lambda name: labels.get(name, name)))
        names = names.where(rows["level"] != "total", "Total")
        cells = pd.DataFrame({heading[:-1]: names, "Jobs": rows["jobs"]})
        cells["Hours"] = [_hours(*pair) for pair in zip(rows["hours"], rows["jobs_without_time"], strict=True)]
        cells["GPU hours"] = rows["gpu_hours"].map(lambda value: f"{value:.3f}")
        cells["Planned evaluations"] = rows["planned_evaluations"].map(lambda value: f"{value:,}" if value else "")
        cells["Planned TFLOP"] = rows["planned_flops"].map(lambda value: f"{value / 1e12:,.2f}" if value else "")
        cells["TFLOP/s"] = rows["teraflops_per_second"].map(_three_digits)
        cells["Planned / real hours"] = rows["planned_over_real"].map(_three_digits)
        cells["Peak memory [MB]"] = rows["peak_memory_mb"].map(lambda value: "" if pd.isna(value) else f"{value:,.0f}")
        cells["Device"] = [" ".join(pair) for pair in zip(rows["device"], rows["number_format"], strict=True)]
        parts.append(Part(heading, cells, NOTES if heading == "Rules" else (), left={"Device"}))
        if heading == "Networks" and len(rows):
            parts.append(_training_part(rows, users))
    return Document("Cost of the run", caption_note, parts)


def _training_part(networks: pd.DataFrame, users: Mapping[str, str]) -> Part:
    """Return how long each network was trained, and whether its validation score has flattened."""
    begins_with = networks["begins_with"]
    own_flops = networks.set_index("name")["flops_per_training"]
    compute = networks["flops_per_training"] + begins_with.map(own_flops).fillna(0.0)
    steps = networks["steps"].map("{:,.0f}".format) + begins_with.map(lambda name: f" after {name}" if name else "")
    cells = pd.DataFrame({"Network": networks["name"], "Methods": networks["name"].map(lambda name: users.get(name, ""))})
    cells["Steps"] = steps
    cells["Batch"] = networks["batch"].map("{:.0f}".format)
    cells["s / training"] = networks["seconds_per_training"].map(
        lambda value: "not known" if pd.isna(value) else f"{value:,.0f}"
    )
    cells["Device"] = [_device(row) for _, row in networks.iterrows()]
    cells["Compute [TFLOP]"] = [f"{flops / 1e12:,.2f} ({flops / compute.min():.1f} ×)" for flops in compute]
    cells["Dice"] = networks["validation_dice"].map(lambda value: "" if pd.isna(value) else f"{value:.3f}")
    cells["Gain"] = networks["late_gain"].map(lambda value: "" if pd.isna(value) else f"{value:+.3f}")
    cells["Validation"] = networks["flattening"]
    return Part("Training", cells, TRAINING_NOTES, left={"Methods", "Device", "Validation"})


def _device(network: pd.Series) -> str:
    threads = f"{network['threads']:.0f} thread{'s' if network['threads'] > 1 else ''}"
    return f"{network['device']} {network['number_format']}, {threads}"


def _hours(hours: float, jobs_without_time: int) -> str:
    text = "not known" if pd.isna(hours) else f"{hours:.3f}"
    return f"{text} ({jobs_without_time} jobs without time)" if jobs_without_time else text


def _three_digits(value: float) -> str:
    return "" if pd.isna(value) else f"{value:.3g}"
