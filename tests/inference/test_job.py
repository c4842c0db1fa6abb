"""Jobs of sampling, of the precision gate and of the probe, read from the object of Snakemake (below 1 s)."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from snakemake.iocontainers import Namedlist

from pd_ddpm.config.run import Run, Shard
from pd_ddpm.inference.job import GateJob, ProbeJob, SampleJob
from pd_ddpm.runtime.compute import Compute

NETWORK = Path("results/wmh/networks/denoiser/split-2_seed-5")
FOLDER = Path("results/wmh/predictions/pd-ddpm/split-2_seed-5")
SAMPLING = {"batch": "auto", "precision": "bfloat16", "samples": 5, "reverse_steps": 100}
INPUT = {
    "weights": f"{NETWORK}/model.safetensors",
    "metadata": f"{NETWORK}/model.json",
    "cases": "results/wmh/cases/prepared.csv",
    "splits": "results/wmh/splits.csv",
}


def named(values: dict[str, Any]) -> Namedlist:
    """Return the values as Snakemake passes them to a script."""
    return Namedlist(fromdict=values)


def snakemake(wildcards: dict[str, str], files: dict[str, Any], output: dict[str, str], **params: Any) -> SimpleNamespace:
    return SimpleNamespace(
        input=named(INPUT | files),
        output=named(output),
        params=named(params | {"code": "abc"}),
        wildcards=named({"dataset": "wmh", "split": "2", "seed": "5"} | wildcards),
        config={"device": "cuda", "compile": "auto", "sampling": SAMPLING},
        threads=4,
    )


def sample_job(wildcards: dict[str, str] | None = None, files: dict[str, Any] | None = None, **output: str) -> SampleJob:
    output = output or {"predictions": f"{FOLDER}/predictions.csv", "method_metadata": f"{FOLDER}/method.json"}
    wildcards = {"method": "pd-ddpm"} | (wildcards or {})
    return SampleJob.from_snakemake(snakemake(wildcards, files or {}, output, settings={"precision": "float32"}))


def test_sample_job_from_snakemake_holds_run_files_and_compute() -> None:
    job = sample_job(files={"presegmentation": "p.csv", "gate": "precision.json"})
    assert (job.run, job.shard) == (Run("wmh", "pd-ddpm", 2, 5), Shard(1, 1))
    assert job.compute == Compute("cuda", "float32", threads=4, batch="auto", compile="auto")
    assert (job.weights, job.network_metadata) == (NETWORK / "model.safetensors", NETWORK / "model.json")
    assert (job.cases, job.splits) == (Path(INPUT["cases"]), Path(INPUT["splits"]))
    assert (job.presegmentation, job.gate) == (Path("p.csv"), Path("precision.json"))
    assert (job.folder, job.predictions, job.method_metadata) == (FOLDER, FOLDER / "predictions.csv", FOLDER / "method.json")
    assert (job.shard_record, job.shard_records, job.code) == (None, (), "abc")
    assert job.title == "pd-ddpm, split 2, seed 5"


def test_sample_job_of_a_shard_writes_its_record_and_shares_the_folder() -> None:
    record = f"{FOLDER}/shards/2-of-3.json"
    job = sample_job({"shard": "2", "shards": "3"}, shard_record=record)
    assert (job.shard, job.shard_record, job.folder) == (Shard(2, 3), Path(record), FOLDER)
    assert (job.presegmentation, job.gate, job.method_metadata) == (None, None, None)
    assert job.title == "pd-ddpm, split 2, seed 5, shard 2 of 3"


def test_sample_job_that_gathers_reads_all_shard_records() -> None:
    records = [f"{FOLDER}/shards/{index}-of-2.json" for index in (1, 2)]
    job = sample_job(files={"shards": records})
    assert job.shard_records == tuple(map(Path, records))
    assert job.shard_record is None


def test_gate_job_from_snakemake_holds_run_and_limits() -> None:
    limits = {"cases": 2, "slices": 3, "forward_error": {}, "flipped_share": 0.1}
    given = snakemake({"network": "denoiser"}, {}, {"verdict": "precision.json"}, settings={"pool": 2}, gate=limits)
    job = GateJob.from_snakemake(given)
    assert job.run == Run("wmh", "denoiser", 2, 5)
    assert (job.limits, job.settings, job.device, job.threads, job.code) == (limits, {"pool": 2}, "cuda", 4, "abc")
    assert job.compute == Compute("cuda", "bfloat16", threads=4, batch="auto", compile="auto")
    assert job.evaluations_per_slice == 500
    assert (job.weights, job.network_metadata) == (NETWORK / "model.safetensors", NETWORK / "model.json")


def test_probe_job_from_snakemake_holds_run_and_settings() -> None:
    settings = {"slices": 40, "timesteps": [50, 300]}
    given = snakemake({"network": "denoiser"}, {}, {"table": "probe.csv"}, settings=settings)
    job = ProbeJob.from_snakemake(given)
    assert (job.run, job.title) == (Run("wmh", "denoiser", 2, 5), "denoiser, split 2, seed 5")
    assert (job.settings, job.device, job.threads, job.code, job.config) == (settings, "cuda", 4, "abc", given.config)
    assert (job.weights, job.network_metadata) == (NETWORK / "model.safetensors", NETWORK / "model.json")
    assert (job.cases, job.splits) == (Path(INPUT["cases"]), Path(INPUT["splits"]))


@pytest.mark.parametrize("key", ["weights", "metadata", "cases", "splits"])
def test_sample_job_without_a_required_input_fails(key: str) -> None:
    given = snakemake({"method": "unet"}, {}, {"predictions": "predictions.csv"}, settings={"precision": "float32"})
    given.input = named({name: path for name, path in INPUT.items() if name != key})
    with pytest.raises(KeyError, match=key):
        SampleJob.from_snakemake(given)
