"""Table of the cost, from synthetic benchmark and metadata files (below 1 s)."""

import json
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from pd_ddpm.config import load
from pd_ddpm.config.resolve import overlay
from pd_ddpm.config.run import Run
from pd_ddpm.config.validate import validate
from pd_ddpm.exhibits.tables import cost
from pd_ddpm.planning.case_sizes import CaseSize, CohortSizes
from pd_ddpm.planning.device_rates import Rate
from pd_ddpm.planning.planned_flops import PlannedFlops

HEADER = "s\th:m:s\tmax_rss\tmax_vms\tmax_uss\tmax_pss\tio_in\tio_out\tmean_load\tcpu_time\n"


def benchmark(path: Path, seconds: float, memory: float | str) -> Path:
    """Write a benchmark file in the format of Snakemake."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{HEADER}{seconds}\t0:00:00\t{memory}\t1\t1\t1\t0\t0\t99\t{seconds}\n", encoding="utf-8")
    return path


def test_read_benchmarks_sums_shards_and_keeps_the_highest_memory(tmp_path: Path) -> None:
    for shard, (seconds, memory) in enumerate([(10, 300), (20, 500), (5, "-")]):
        benchmark(tmp_path / "sample" / "wmh" / "ddpm" / "split-0_seed-0" / f"shard-{shard}.tsv", seconds, memory)
    benchmark(tmp_path / "sample" / "wmh" / "ddpm" / "split-1_seed-0.tsv", 7, 100)
    sharded, whole, none = (
        cost.read_benchmarks(cost.benchmark_files(tmp_path, "sample", Run("wmh", "ddpm", split, 0))) for split in range(3)
    )
    assert sharded == (35, 500)
    assert whole == (7, 100)
    assert np.isnan(none).all()


def test_other_jobs_skips_runs_that_are_not_planned(tmp_path: Path) -> None:
    benchmark(tmp_path / "prepare" / "wmh.tsv", 60, 900)
    benchmark(tmp_path / "prepare" / "phantom.tsv", 1, 1)
    benchmark(tmp_path / "cost" / "wmh.tsv", 1, 1)
    benchmark(tmp_path / "train" / "wmh" / "unet" / "split-0_seed-0.tsv", 1, 1)
    for method, split in (("unet", 0), ("unet", 1), ("unet", 4), ("given-up", 0)):
        benchmark(tmp_path / "score" / "wmh" / method / f"split-{split}_seed-0.tsv", 3, 200)
    jobs = cost.other_jobs(tmp_path, "wmh", [Run("wmh", "unet", 0, 0), Run("wmh", "unet", 1, 0)])
    assert [(job.rule, job.seconds) for job in jobs] == [("prepare", 60), ("score", 3), ("score", 3)]


def test_cost_table_sums_jobs_and_compares_with_the_plan() -> None:
    gpu = {"gpus": 2, "device": "cuda:0", "precision": "bfloat16"}
    cpu = {"device": "cpu", "precision": "float32"}

    def training(name: str, seconds: float, memory_mb: float, **planned: float) -> cost.JobCost:
        return cost.JobCost(rule="train", name=name, seconds=seconds, memory_mb=memory_mb, **gpu, **planned)

    jobs = [
        cost.JobCost(rule="prepare", seconds=60.0, memory_mb=900.0),
        training("denoiser", 7200.0, 5000.0, flops=72 * 10**15, planned_seconds=3600.0),
        training("denoiser", 3600.0, 6000.0, flops=72 * 10**15, planned_seconds=3600.0),
        training("unet", np.nan, np.nan, flops=10**15, planned_seconds=50.0),
        cost.JobCost(rule="sample", name="ddpm", seconds=1800.0, memory_mb=800.0, evaluations=5000, flops=36 * 10**14, **cpu),
    ]
    table = cost.cost_table(jobs).set_index(["level", "rule", "name"])
    assert list(table.index) == [
        ("rule", "prepare", ""),
        ("rule", "train", ""),
        ("rule", "sample", ""),
        ("network", "train", "denoiser"),
        ("network", "train", "unet"),
        ("method", "sample", "ddpm"),
        ("total", "", ""),
    ]
    denoiser = table.loc[("network", "train", "denoiser")]
    assert (denoiser["jobs"], denoiser["hours"], denoiser["gpu_hours"]) == (2, 3.0, 6.0)
    assert denoiser["planned_over_real"] == pytest.approx(2 / 3)
    assert denoiser["teraflops_per_second"] == pytest.approx(144e15 / 10800 / 1e12)
    assert (denoiser["peak_memory_mb"], denoiser["device"], denoiser["number_format"]) == (6000, "cuda:0", "bfloat16")
    training = table.loc[("rule", "train", "")]
    # The job without a time is counted, but is in no ratio.
    assert (training["jobs"], training["jobs_without_time"], training["hours"]) == (3, 1, 3.0)
    assert training["planned_over_real"] == pytest.approx(2 / 3)
    ddpm = table.loc[("method", "sample", "ddpm")]
    assert (ddpm["gpu_hours"], ddpm["planned_evaluations"]) == (0, 5000)
    assert np.isnan(ddpm["planned_over_real"])
    total = table.loc[("total", "", "")]
    assert total["hours"] == pytest.approx(3 + 0.5 + 1 / 60)
    assert (total["jobs"], total["gpu_hours"], total["device"]) == (5, 6.0, "cpu, cuda:0")
    page = cost.cost_document(cost.cost_table(jobs), {"ddpm": "Vanilla DDPM"}, {}, "made up").markdown()
    assert "| Vanilla DDPM | 1 | 0.500 |" in page
    assert "| unet | 1 | not known (1 jobs without time) |" in page
    assert "| Total | 5 | 3.517 (1 jobs without time) |" in page


def test_cost_of_masks_from_files_is_not_known() -> None:
    jobs = [
        cost.JobCost(rule="import_masks", seconds=2.0, memory_mb=90.0),
        cost.JobCost(rule=cost.OTHER_PROGRAM, name="nnunet", seconds=np.nan, memory_mb=np.nan),
    ]
    page = cost.cost_document(cost.cost_table(jobs), {"nnunet": "nnU-Net"}, {}, "made up").markdown()
    assert "| nnU-Net | 1 | not known (1 jobs without time) |" in page
    assert "| Total | 2 | 0.001 (1 jobs without time) |" in page


def test_cost_document_shows_unequal_training_compute_and_unflattened_networks() -> None:
    def training(name: str, seconds: float, flops: int, late_gain: float, **fields: object) -> cost.JobCost:
        fields = {
            "steps": 1200,
            "batch": 8,
            "threads": 1,
            "validation_dice": 0.75,
            "device": "CPU",
            "precision": "float32",
        } | fields
        return cost.JobCost(rule="train", name=name, seconds=seconds, memory_mb=1.0, flops=flops, late_gain=late_gain, **fields)

    jobs = [
        training("attunet", 90.0, 4 * 10**12, 0.002),
        training("denoiser", 100.0, 8 * 10**12, 0.02, validation_dice=0.7),
        training("denoiser", 140.0, 8 * 10**12, -0.0, validation_dice=0.8),
        training("tdpm", 10.0, 10**12, np.nan, steps=60, batch=4, begins_with="denoiser", validation_dice=np.nan, threads=2),
    ]
    table = cost.cost_table(jobs)
    networks = table[table["level"] == "network"].set_index("name")
    assert networks.loc["denoiser", ["steps", "batch", "threads"]].tolist() == [1200, 8, 1]
    columns = ["seconds_per_training", "flops_per_training", "validation_dice", "late_gain"]
    assert networks.loc["denoiser", columns].tolist() == pytest.approx([120, 8e12, 0.75, 0.02])
    assert networks["flattening"].str.split(" \\(").str[0].tolist() == [
        "flattened",
        "not yet flattened in 1 of 2 trainings",
        "unknown",
    ]
    assert table.loc[table["level"] != "network", [*columns, "steps", "flattening"]].isna().all(axis=None)
    document = cost.cost_document(table, {}, {"denoiser": "Vanilla DDPM, PD-DDPM"}, "made up")
    cells = document.parts[2].table.set_index("Network")
    assert cells["Methods"].tolist() == ["", "Vanilla DDPM, PD-DDPM", ""]
    assert cells["Steps"].tolist() == ["1,200", "1,200", "60 after denoiser"]
    # The compute of the third is that of its own training and of the denoiser's.
    assert cells["Compute [TFLOP]"].tolist() == ["4.00 (1.0 ×)", "8.00 (2.0 ×)", "9.00 (2.2 ×)"]
    assert cells["s / training"].tolist() == ["90", "120", "10"]
    assert cells["Device"].tolist() == ["CPU float32, 1 thread", "CPU float32, 1 thread", "CPU float32, 2 threads"]
    assert cells["Dice"].tolist() == ["0.750", "0.750", ""]
    assert cells["Gain"].tolist() == ["+0.002", "+0.020", ""]


def test_measured_seconds_uses_the_latest_rate_of_the_device() -> None:
    rates = [
        Rate("CPU", "float32", 1e10, 2e10, True),
        Rate("NVIDIA A", "bfloat16", 1e14, 2e14, True),
        Rate("NVIDIA B", "bfloat16", 2e14, 4e14, True),
    ]
    assert cost.measured_seconds(rates, 10**12, "train", False, "float32") == 100
    assert cost.measured_seconds(rates, 10**12, "sample", False, "float32") == 50
    assert cost.measured_seconds(rates, 10**14, "sample", True, "bfloat16") == 0.25
    assert np.isnan(cost.measured_seconds(rates, 1, "train", False, "bfloat16"))


def test_cost_script_writes_the_table_of_a_finished_run(tmp_path: Path, script, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run has one resumed training and one method in two shards. FLOPs are set, so that no network is built."""
    changes = {"sampling": {"reverse_steps": 8}, "exhibits": {"fig4_ensemble": {"pool": 6}}}
    config = validate(overlay(load.read(None, {"scale": "demo"}), changes))
    monkeypatch.chdir(tmp_path)
    results, plan = tmp_path / "phantom", tmp_path / "work" / "plan"
    case = CaseSize("a", "s", (10, 10, 6), (10, 10), 4, (10, 10, 6))
    cohort = CohortSizes({"a": case}, pd.DataFrame({"split": [0], "role": ["test"], "case": ["a"]}), None)
    monkeypatch.setattr(cost, "cohort_sizes", lambda *_: cohort)
    monkeypatch.setattr(PlannedFlops, "training", lambda self, training: 36 * 10**12)
    monkeypatch.setattr(PlannedFlops, "sampling", lambda self, sampling: 10**12 * sampling.members)
    plan.mkdir(parents=True)
    rate = Rate("CPU", "float32", 1e10, 1e10, True)
    (plan / "rates.json").write_text(json.dumps({"one": asdict(rate)}), encoding="utf-8")
    made = {"device": "some CPU", "precision": "float32"}
    card = {"split": 0, "seed": 0, "device_type": "cpu"}
    trained = {"threads": 3, "settings": {"steps": 1200, "batch": 8, "initialise_from": None}}
    network = results / "networks" / "denoiser" / "split-0_seed-0" / "model.json"
    network.parent.mkdir(parents=True)
    network.write_text(json.dumps(card | trained | {"provenance": made | {"seconds": 7200.0}}), encoding="utf-8")
    history = network.with_name("training.csv")
    history.write_text("step,validation_dice\n300,0.5\n600,0.625\n", encoding="utf-8")
    method = results / "predictions" / "pd-ddpm" / "split-0_seed-0" / "method.json"
    method.parent.mkdir(parents=True)
    method.write_text(json.dumps(card | {"method": "pd-ddpm", "provenance": made | {"seconds": 18.0}}), encoding="utf-8")
    folder = tmp_path / "results" / "benchmarks"
    benchmark(folder / "train" / "phantom" / "denoiser" / "split-0_seed-0.tsv", 60, 700)
    for shard in (0, 1):
        benchmark(folder / "sample" / "phantom" / "pd-ddpm" / "split-0_seed-0" / f"shard-{shard}.tsv", 1800, 300)
    files = {
        key: str(tmp_path / f"cost.{end}")
        for key, end in (("table", "csv"), ("page", "html"), ("markdown", "md"), ("record", "json"))
    }
    metadata = {"network_metadata": [str(network)], "histories": [str(history)], "prediction_metadata": [str(method)]}
    job = SimpleNamespace(
        input=SimpleNamespace(splits=str(results / "splits.csv"), **metadata),
        output=SimpleNamespace(**files),
        params=SimpleNamespace(labels={}, users={}, caption_note="made up"),
        config=config,
    )
    script("cost")(job)
    table = pd.read_csv(files["table"]).set_index("level")
    # The benchmark of the training has only its last minute; the metadata has two hours.
    # It ended early, after half of its steps.
    assert table.loc["network", ["hours", "planned_hours", "peak_memory_mb"]].tolist() == [2, 0.5, 700]
    assert table.loc["network", ["steps", "threads", "validation_dice", "late_gain"]].tolist() == [600, 3, 0.625, 0.125]
    assert table.loc["method", ["hours", "planned_evaluations"]].tolist() == [1, 4 * 6 * 2]  # two reverse steps
    assert table.loc["total", "hours"] == 3
    assert "made up" in Path(files["page"]).read_text(encoding="utf-8")
