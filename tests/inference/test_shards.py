"""Sampling in shards, and batch sizes found from the free memory (about 15 s)."""

import json
import os

import pandas as pd
import pytest
import torch
from torch import nn

from pd_ddpm.config.run import Shard
from pd_ddpm.inference import batch_size
from pd_ddpm.inference.batch_size import find_batch_size
from pd_ddpm.runtime.memory import available_memory
from pd_ddpm.runtime.sealed import write_sealed_json

SECONDS = ["seconds_shared", "seconds_per_member"]


@pytest.fixture
def sampling(prepared, random_network, sample_job, configured):
    """A function that returns the job that samples four test cases, or a shard of them."""
    splits = prepared / "splits.csv"
    rows = pd.read_csv(splits)
    rows.loc[rows["case"] != "two", "role"] = "test"
    rows.to_csv(splits, index=False)
    network = random_network(configured("network", "attunet", channels=[4, 8]))
    method = configured("method", "attunet")
    return lambda folder, batch=4, **fields: sample_job(folder, "attunet", method, batch=batch, **network, **fields)


def files(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.nii.gz"))}


@pytest.mark.parametrize("count", [2, 5])
def test_shards_write_the_files_of_one_job_in_its_order(tmp_path, sampling, script, count):
    """With five shards of four cases, one shard is empty."""
    whole, parts, sample = tmp_path / "whole", tmp_path / "parts", script("sample")
    sample(sampling(whole))
    for index in range(count, 0, -1):
        sample(sampling(parts, shard=Shard(index, count)))
    assert not (parts / "predictions.csv").exists()
    records = tuple(parts / "shards" / f"{index}-of-{count}.json" for index in range(1, count + 1))
    (parts / ".partial.one_mask.nii.gz").write_bytes(b"half")
    sample(sampling(parts, shard_records=records))
    assert len(files(whole)) == 4 * 3
    assert files(parts) == files(whole)
    assert not list(parts.glob(".partial.*"))
    one, other = (pd.read_csv(folder / "predictions.csv") for folder in (whole, parts))
    assert one["case"].tolist() == ["one", "three", "four", "five"]
    pd.testing.assert_frame_equal(one.drop(columns=SECONDS), other.drop(columns=SECONDS))
    metadata = [json.loads((folder / "method.json").read_text(encoding="utf-8")) for folder in (whole, parts)]
    assert [content.pop("shards") for content in metadata] == [1, count]
    assert all(content["provenance"].pop("seconds") >= 0 for content in metadata)
    assert metadata[0] == metadata[1]


def test_sampling_keeps_the_cases_of_another_number_of_shards(tmp_path, sampling, script):
    folder, sample = tmp_path / "folder", script("sample")
    sample(sampling(folder, shard=Shard(1, 2)))
    drawn = {path.name: path.stat().st_mtime_ns for path in folder.glob("*_samples.nii.gz")}
    assert sorted(drawn) == ["four_samples.nii.gz", "one_samples.nii.gz"]
    (folder / ".partial.three_mask.nii.gz").write_bytes(b"of a job that is still running")
    sample(sampling(folder, shard=Shard(1, 4)))
    assert (folder / ".partial.three_mask.nii.gz").exists()
    sample(sampling(folder))
    assert {name: (folder / name).stat().st_mtime_ns for name in drawn} == drawn
    assert len(pd.read_csv(folder / "predictions.csv")) == 4


def test_gather_rejects_incomplete_and_inconsistent_shards(tmp_path, sampling, script):
    folder, sample = tmp_path / "folder", script("sample")
    for index in (1, 2):
        sample(sampling(folder, shard=Shard(index, 2)))
    records = tuple(folder / "shards" / f"{index}-of-2.json" for index in (1, 2))
    gathering = sampling(folder, shard_records=records)
    (folder / "five_mask.nii.gz").unlink()
    with pytest.raises(ValueError, match=r"predictions\.csv: the files of five are incomplete .* --forcerun sample_shard`"):
        sample(gathering)
    other = json.loads(records[1].read_text(encoding="utf-8"))
    other["stamp"], other["method"]["provenance"]["device"] = "another", "a GPU"
    write_sealed_json(records[1], other)
    message = r"sampled on different devices or precisions \(.* in float32, a GPU in float32\), .* Set `device`"
    with pytest.raises(ValueError, match=message):
        sample(gathering)
    assert not (folder / "predictions.csv").exists()


# The batch


def test_batch_auto_gives_the_same_files_as_a_number(tmp_path, sampling, script, monkeypatch):
    sample = script("sample")
    sample(sampling(tmp_path / "number", batch=20))
    sample(sampling(tmp_path / "auto", batch="auto"))
    assert files(tmp_path / "auto") == files(tmp_path / "number")


class Layers(nn.Module):
    """Two layers whose outputs have 3 times and 1 times the bytes of the input."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(nn.Conv2d(1, 3, 1), nn.Conv2d(3, 1, 1))

    def forward(self, x):
        return self.inner(x)


@pytest.mark.parametrize(("free", "rows"), [(40_000, 1), (160_000, 6), (1_000_000, 20), (0, 1)])
def test_find_batch_size_on_a_cpu_fills_the_free_memory(monkeypatch, free, rows):
    """An image of 32 x 32 float32 has 4,096 bytes; the outputs of the layers have four times that."""
    monkeypatch.setattr(batch_size, "available_memory", lambda: free)
    network = Layers()
    with torch.inference_mode():
        assert find_batch_size(lambda size: network(torch.zeros(size, 1, 32, 32)), torch.device("cpu")) == rows
    assert not nn.modules.module._global_forward_hooks


@pytest.mark.parametrize(("free", "held", "rows"), [(500, 0, 16), (100, 400, 16), (10, 0, 1), (10**6, 0, 128)])
def test_find_batch_size_on_a_gpu_uses_the_peaks_of_two_batches(monkeypatch, free, held, rows):
    """Simulated counters: 70 bytes for any batch, and 17 per image."""
    taken = []
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 1000)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 1000 + held)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: None)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 1000 + 70 + 17 * taken[-1])
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 10**9))
    assert find_batch_size(taken.append, torch.device("cuda")) == rows
    assert len(taken) == 2


@pytest.mark.parametrize(("largest_that_fits", "rows"), [(1, 1), (2, 3), (6, 4)])
def test_find_batch_size_on_a_gpu_that_cannot_hold_the_probes(monkeypatch, largest_that_fits, rows):
    """Volumes of 17 bytes each, and 10 bytes for any batch, in 80 of 115 free bytes. One probe counts 22 bytes for each."""
    taken, emptied = [], []

    def evaluate(size):
        taken.append(size)
        if size > largest_that_fits:
            raise torch.OutOfMemoryError

    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 1000)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 1000)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: None)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 1000 + 10 + 17 * taken[-1])
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (115, 10**9))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(taken[-1]))
    assert find_batch_size(evaluate, torch.device("cuda")) == rows
    assert emptied == [size for size in (2, 6) if size > largest_that_fits]


@pytest.mark.parametrize(
    ("group", "files_of_the_group", "expected"),
    [
        ("0::/", {}, 8_000),
        ("0::/job", {"sys/fs/cgroup/job/memory.max": "5000000", "sys/fs/cgroup/job/memory.current": "1000000"}, 4_000),
        ("0::/job", {"sys/fs/cgroup/job/memory.max": "max", "sys/fs/cgroup/job/memory.current": "1000000"}, 8_000),
        ("0::/job/step", {"sys/fs/cgroup/job/memory.max": "3000000", "sys/fs/cgroup/job/memory.current": "0"}, 3_000),
        (
            "4:memory:/outside",
            {
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "2500000",
                "sys/fs/cgroup/memory/memory.usage_in_bytes": "500000",
            },
            2_000,
        ),
    ],
)
def test_available_memory_is_the_smallest_limit(tmp_path, monkeypatch, group, files_of_the_group, expected):
    for name in ("SLURM_MEM_PER_NODE", "SLURM_MEM_PER_CPU"):
        monkeypatch.delenv(name, raising=False)
    content = {"proc/meminfo": "MemTotal: 9999 kB\nMemAvailable: 7813 kB\n", "proc/self/statm": "900 250 0 0 0 0 0"}
    for name, text in (content | {"proc/self/cgroup": f"5:devices:/\n{group}\n"} | files_of_the_group).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    assert available_memory(tmp_path) == pytest.approx(expected * 1000, rel=1e-3)
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "2")  # MB, of which 250 pages are in use
    used = 250 * os.sysconf("SC_PAGE_SIZE")
    assert available_memory(tmp_path) == min(2 * 2**20 - used, available_memory(tmp_path))
    monkeypatch.delenv("SLURM_MEM_PER_NODE")
    monkeypatch.setenv("SLURM_MEM_PER_CPU", "1")
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "2")
    assert available_memory(tmp_path) == max(2 * 2**20 - used, 0)
