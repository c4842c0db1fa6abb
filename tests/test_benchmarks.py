"""Tests of `make bench`: statistics on artificial times, the table, the checks, and a very small run (about 20 s)."""

import json
import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks import gpu, gpu_rows, masks, patches, peers, run, sampling, table, training, volumes, workflow
from benchmarks.gpu_timing import Timing, union_length
from benchmarks.rows import Row, comparison
from benchmarks.timing import Implementation, Spread, noise, ratio, time_in_rounds
from pd_ddpm.runtime.cpu_info import cpu_has_bfloat16

SMALL = run.Scale(
    channels=32,
    size=(32, 32),
    batch=1,
    volume=(8, 8, 8),
    reverse_step=(2, 1, 8, 8),
    network_rounds=1,
    volume_rounds=1,
    rounds=2,
    random_cases=2,
)
ROW = Row("step", "peer", "ms", 2.0, 5.0, Spread(2.0, 2.5, 3.0), Spread(0.9, 1.0, 1.1), 2.5, 0.1)


class WithTimestep(nn.Module):
    """A layer that is called as a denoising network is."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


class FakeClock:
    """A clock that only implementations advance."""

    def __init__(self) -> None:
        self.now = 0.0
        self.order: list[str] = []

    def implementation(self, name: str, seconds: float, calls: int = 1, units: int = 1) -> Implementation:
        def call() -> None:
            self.now += seconds
            self.order.append(name)

        return Implementation(call, calls, units)

    def __call__(self) -> float:
        return self.now


def test_time_in_rounds_times_units_and_skips_the_first_call() -> None:
    clock = FakeClock()
    implementations = {"slow": clock.implementation("slow", 6.0, units=3), "fast": clock.implementation("fast", 0.5, calls=4)}
    times = time_in_rounds(implementations, 5, clock)
    np.testing.assert_allclose(times["slow"], np.full(5, 2000.0))
    np.testing.assert_allclose(times["fast"], np.full(5, 500.0))
    assert clock.order[:2] == ["slow", "fast"]
    assert clock.order.count("slow") == 1 + 5
    assert clock.order.count("fast") == 1 + 5 * 4


def test_time_in_rounds_shuffles_each_round() -> None:
    clock = FakeClock()
    time_in_rounds({name: clock.implementation(name, 1.0) for name in "abcd"}, 20, clock)
    rounds = ["".join(clock.order[first : first + 4]) for first in range(4, len(clock.order), 4)]
    assert {"".join(sorted(names)) for names in rounds} == {"abcd"}
    assert len(set(rounds)) > 8


def test_time_in_rounds_rejects_no_implementations_or_rounds() -> None:
    with pytest.raises(ValueError, match="0 implementations in 3 rounds give no times"):
        time_in_rounds({}, 3)
    with pytest.raises(ValueError, match="1 implementations in 0 rounds"):
        time_in_rounds({"a": Implementation(int)}, 0)


def test_ratio_is_computed_within_each_round() -> None:
    # The machine is ten times slower in every other round. This affects ratios of medians, but not ratios within rounds.
    slow_down = np.array([1.0, 10.0, 1.0, 10.0, 1.0])
    assert ratio(3.0 * slow_down, 1.5 * slow_down) == (2.0, 2.0, 2.0)
    assert ratio(np.array([1.0, 2.0, 3.0, 4.0, 5.0]), np.ones(5)) == Spread(2.0, 3.0, 4.0)


def test_noise_is_distance_from_one_or_interval_of_median() -> None:
    assert noise(Spread(1.2, 1.2, 1.2), 9) == pytest.approx(0.2)
    assert noise(Spread(0.8, 0.8, 0.8), 9) == pytest.approx(0.2)
    assert noise(Spread(0.85, 1.0, 1.15), 9) == pytest.approx(1.821 * 0.3 / 3, rel=1e-3)


def test_noise_covers_the_median_in_95_percent_of_samples() -> None:
    random = np.random.default_rng(0)
    rounds = 25
    misses = 0
    for _ in range(1000):
        samples = random.normal(1.0, 0.05, rounds)
        low, _, high = np.percentile(samples, (25, 50, 75))
        misses += abs(np.median(samples) - 1.0) > noise(Spread(low, 1.0, high), rounds)
    assert 10 < misses < 90


@pytest.mark.parametrize(
    ("changes", "reached"),
    [
        ({}, "yes"),
        ({"ratio": Spread(2.0, 2.3, 3.0)}, "within the noise"),
        ({"ratio": Spread(2.0, 2.2, 3.0)}, "no"),
        ({"ratio": Spread(2.0, 2.49, 3.0), "noise": 0.0}, "no"),
        ({"target": None}, "information"),
        ({"ours": None, "ratio": None}, "not measurable here"),
        ({"ratio": None, "ours": 2.5}, "yes"),
        ({"ratio": None, "ours": 2.6}, "no"),
    ],
)
def test_row_compares_its_ratio_with_the_target(changes: dict, reached: str) -> None:
    assert replace(ROW, **changes).reached == reached


def test_comparison_has_times_of_the_peer_over_ours() -> None:
    times = {"ours": np.array([1.0, 2.0, 4.0]), "again": np.array([1.0, 2.0, 5.0]), "peer": np.array([3.0, 6.0, 12.0])}
    row = comparison(times, "step", "the peer", "peer", target=2.9)
    assert (row.ours, row.theirs, row.ratio) == (2.0, 6.0, Spread(3.0, 3.0, 3.0))
    assert row.same == Spread(1.0, 1.0, 1.125)
    assert row.noise == pytest.approx(1.821 * 0.125 / 3**0.5, rel=1e-3)
    assert row.reached == "yes"


def recorded(rows: list[Row]) -> dict:
    here = {"cpu": "A CPU", "cores": 2, "flags": ["avx2"], "load_average": 0.5, "python": "3.11", "packages": {"torch": "2"}}
    return table.record(rows, {"answers are equal": "yes"}, 61.4, here)


def test_write_replaces_the_table_between_its_marks(tmp_path: Path) -> None:
    document, results = tmp_path / "performance.md", tmp_path / "results.json"
    document.write_text(f"# Title\n{table.BEGIN}\nold\n{table.END}\nbelow\n", encoding="utf-8")
    rows = [
        ROW,
        Row("step in bfloat16", "peer", "ms", target=1.5, remark="the CPU has no bfloat16"),
        Row("kernels", "peer", "kernels", 400, 500, Spread(1.25, 1.25, 1.25), target=1.3, remark="five members"),
        Row("plan", "", "s", 3.21987, target=15.0),
    ]
    for _ in range(2):
        table.write(recorded(rows), rows, results, document)
    text = document.read_text(encoding="utf-8")
    assert text.startswith(f"# Title\n{table.BEGIN}\nMeasured on 20")
    assert text.endswith(f"{table.END}\nbelow\n")
    assert "old" not in text
    assert "A CPU, 2 cores (avx2), load 0.5 when it began; Python 3.11, torch 2. It took 61 s." in text
    assert "* answers are equal: yes\n" in text
    table_lines = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in table_lines} == {9}
    assert table_lines[2:] == [
        "| step | peer | 2 ms | 5 ms | 2.50 [2.00, 3.00] | 1.00 [0.90, 1.10] | ≥ 2.5 | yes |",
        "| step in bfloat16 | peer |  |  |  |  | ≥ 1.5 | not measurable here: the CPU has no bfloat16 |",
        "| kernels; five members | peer | 400 kernels | 500 kernels | 1.25 |  | ≥ 1.3 | no |",
        "| plan |  | 3.22 s |  |  |  | ≤ 15 s | yes |",
    ]
    stored = json.loads(results.read_text(encoding="utf-8"))
    assert stored["rows"][0]["ratio"] == {"low": 2.0, "median": 2.5, "high": 3.0}
    assert [row["reached"] for row in stored["rows"]] == ["yes", "not measurable here", "no", "yes"]
    assert stored["machine"]["cores"] == 2


def test_write_rejects_document_without_marks(tmp_path: Path) -> None:
    document, results = tmp_path / "performance.md", tmp_path / "results.json"
    document.write_text(f"{table.END}\n{table.BEGIN}\n", encoding="utf-8")
    with pytest.raises(table.NoMarkError, match=r"performance\.md: it has no line .* Add both where"):
        table.write(recorded([ROW]), [ROW], results, document)
    assert not results.exists()


def test_record_names_machine_and_commit() -> None:
    here = table.machine()
    assert here["cpu"]
    assert here["cores"] >= 1
    assert here["packages"]["torch"] == torch.__version__.split("+")[0] or "+" in here["packages"]["torch"]


# -- Equality of results ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("build", "names"), [(peers.monai_network, peers.MONAI), (peers.diffusers_network, peers.DIFFUSERS)])
def test_largest_difference_finds_equal_and_different_architectures(build, names, monkeypatch: pytest.MonkeyPatch) -> None:
    with torch.device("meta"):
        sizes = [sum(parameter.numel() for parameter in make(128).parameters()) for make in (peers.our_network, build)]
    assert sizes == [113_670_913] * 2
    assert peers.largest_difference(build(32), names, 32) < run.SAME_OUTPUT
    # A different network of the same size must not pass.
    plain = peers.our_network

    def other(*architecture: object):
        network = plain(*architecture)
        network.middle["block_1"].attention.heads = 2
        return network

    monkeypatch.setattr(peers, "our_network", other)
    assert peers.largest_difference(build(32), names, 32) > run.SAME_OUTPUT


def test_our_network_of_volumes_gives_the_output_of_monai() -> None:
    """The architecture is PatchDDM's but for the skips and the attention, which have parameters: not its 24,260,299."""
    with torch.device("meta"):
        networks = [make(29, peers.PATCH_DDM) for make in (peers.our_network, peers.monai_network)]
    assert len({sum(parameter.numel() for parameter in network.parameters()) for network in networks}) == 1
    assert peers.largest_difference(peers.monai_network(29, peers.VOLUMES), peers.MONAI, 29, peers.VOLUMES) < run.SAME_OUTPUT


@pytest.mark.workflow  # follows every tensor of two large networks
def test_memory_of_volumes_is_that_of_all_tensors_alive_at_the_same_time() -> None:
    """A convolution's output, and the gradients of its weights. Our network needs at most as much as MONAI's."""
    size, convolution = (4, 4, 4), nn.Conv3d(3, 5, 3, padding=1, device="meta")
    network = WithTimestep(convolution)
    weights = sum(parameter.numel() for parameter in convolution.parameters())
    assert volumes.peak_bytes(network, 3, size, is_training=False) == 4 * 5 * 64
    assert volumes.peak_bytes(network, 3, size, is_training=True) >= 4 * (5 * 64 + weights)
    rows = volumes.memory_of_volumes(29, (64, 64, 64), (128, 64, 64))
    assert [row.reached for row in rows] == ["yes", "yes"]


def test_disagreements_reports_wrong_results(monkeypatch: pytest.MonkeyPatch) -> None:
    assert masks.disagreements(4) == []
    plain = masks.hd95_medpy_mm
    monkeypatch.setattr(masks, "hd95_medpy_mm", lambda first, second: plain(first, second) + 2e-9)
    assert [text.split(": ")[1][:7] for text in masks.disagreements(2)] == ["HD95 is"] * 2
    monkeypatch.setattr(masks, "hd95_medpy_mm", lambda first, second: float("nan"))
    assert len(masks.disagreements(2)) == 2
    monkeypatch.setattr(masks, "hd95_medpy_mm", plain)
    monkeypatch.setattr(masks, "lesion_detection", lambda truth, predicted: (1.0, 1.0, 1.0))
    assert "random case 0: lesion recall, precision or F1 is not scipy's" in masks.disagreements(4)


def test_with_far_positives_adds_a_block_in_each_corner() -> None:
    near = np.zeros((40, 40, 12), dtype=bool)
    near[18:22, 18:22, 5:7] = True
    far = masks.with_far_positives(near)
    assert np.count_nonzero(far & ~near) == 8 * 3 * 3 * 2
    assert np.argwhere(far).min(0).tolist() == [2, 2, 1]
    assert np.argwhere(far).max(0).tolist() == [37, 37, 10]


# -- Measurements ----------------------------------------------------------------------------------------------------


@pytest.mark.workflow  # samples with three libraries
def test_all_libraries_sample_five_members_of_a_slice() -> None:
    image = torch.zeros(1, 2, 32, 32)
    ours = sampling.our_sampling(peers.our_network(32), image, 5, 2, "float32")
    monai = sampling.monai_sampling(peers.monai_network(32), image, 5, 2)
    diffusers = sampling.diffusers_sampling(peers.diffusers_network(32), image, 5, 2, batch=5)
    for sample in (ours, monai, diffusers):
        assert sample().shape == (5, 1, 32, 32)
    assert torch.equal(ours(), ours())


def test_kernels_counts_operations_without_views() -> None:
    x = torch.ones(3, 4)
    assert sampling.kernels(lambda: x.T.reshape(2, 6)[0]) == 1  # the reshape copies
    assert sampling.kernels(lambda: x.view(4, 3).unsqueeze(0)[..., 1]) == 0
    assert sampling.kernels(lambda: (x + 1).mul_(2)) == 2


def test_our_step_changes_the_loss() -> None:
    step = training.our_step("float32", 32, 1, (32, 32))
    first, second = (float(step()["loss"]) for _ in range(2))
    assert np.isfinite([first, second]).all()
    assert first != second


def test_tracking_is_restored_after_a_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    from monai.data import MetaTensor, get_track_meta

    assert get_track_meta()
    slices = training.artificial_slices(1, 2, (24, 24))
    monkeypatch.setattr(patches, "CROP", (16, 16))
    monkeypatch.setattr(patches, "SLICES", 2)
    seen = []
    for tracked in (False, True):
        run_epoch = patches._with_tracking(tracked, lambda: patches.monai_epoch(patches.TrainingSlices(slices), seen.append))
        run_epoch()
        assert get_track_meta()
        assert isinstance(seen[-1]["image"], MetaTensor) == tracked
        assert seen[-1]["image"].shape == (2, 2, 16, 16)


def test_stand_in_for_run_only_touches_outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Snakemake:
        output = (str(tmp_path / "one.csv"), str(tmp_path / "two.csv"))

    (tmp_path / "job.py").write_text(f"import sys\nfrom pathlib import Path\n{workflow.STAND_IN}", encoding="utf-8")
    stand_in = runpy.run_path(str(tmp_path / "job.py"))["run"]
    monkeypatch.setattr("__main__.snakemake", Snakemake, raising=False)
    stand_in(lambda: pytest.fail("the script works"), str(tmp_path / "log"), cases="x")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["job.py", "log", "one.csv", "two.csv"]
    assert (tmp_path / "log").read_text(encoding="utf-8") == "torch"  # this test module imports it


def test_job_count_reads_total_of_snakemake() -> None:
    assert workflow.job_count("job  count\n---\ntrain  5\ntotal   12\n\nmore") == 12
    with pytest.raises(workflow.WorkflowError, match="printed no number of jobs"):
        workflow.job_count("Nothing to be done")


def test_snakemake_raises_workflow_error_on_failure(tmp_path: Path) -> None:
    with pytest.raises(workflow.WorkflowError, match="ended with code 1"):
        workflow.snakemake(tmp_path, "-n")


# -- Whole benchmark -------------------------------------------------------------------------------------------------


@pytest.mark.workflow  # runs every benchmark
def test_main_with_small_scale_writes_results_and_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document, results = tmp_path / "performance.md", tmp_path / "results.json"
    document.write_text(f"{table.BEGIN}\n{table.END}\n", encoding="utf-8")
    chosen = run.benchmarks(SMALL)
    names = ("member-steps", "kernels", "reverse steps", "training steps", "steps of volumes", "memory of volumes")
    few = {name: chosen[name] for name in names}
    code = run.main(SMALL, few, results, document)
    stored = json.loads(results.read_text(encoding="utf-8"))
    assert set(stored["checks"].values()) == {"yes"}
    whats = [row["what"] for row in stored["rows"]]
    assert whats[0] == "member-step, float32 (32 channels, 32 x 32, 5 members)"
    assert whats.count("kernels of a sampling step") == 2
    missed = [row for row in stored["rows"] if row["reached"] == "no"]
    printed = capsys.readouterr()
    assert code == (1 if missed else 0)
    assert printed.err.count("not reached") == len(missed)
    for row in stored["rows"]:
        if row["ours"] is None:
            assert row["remark"] == "the CPU has no bfloat16"
        else:
            assert row["ours"] > 0
    assert document.read_text(encoding="utf-8").count("\n| ") == len(whats) + 2  # head and rule


def test_main_returns_one_for_missed_target_or_wrong_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    document = tmp_path / "performance.md"
    document.write_text(f"{table.BEGIN}\n{table.END}\n", encoding="utf-8")
    files = (tmp_path / "results.json", document)
    monkeypatch.setattr(run, "checks", lambda scale: {"answers are equal": []})
    missed, noisy = replace(ROW, ratio=Spread(1, 1, 1)), replace(ROW, ratio=Spread(2.3, 2.3, 2.3))
    assert run.main(SMALL, {"good": lambda: [ROW, noisy]}, *files) == 0
    assert run.main(SMALL, {"bad": lambda: [ROW, missed]}, *files) == 1
    assert "error: step, peer: not reached" in capsys.readouterr().err
    monkeypatch.setattr(run, "checks", lambda scale: {"answers are equal": ["by 3 mm", "by 4 mm"]})
    assert run.main(SMALL, {"good": lambda: [ROW]}, *files) == 1
    assert "error: answers are equal: no, by 3 mm; by 4 mm" in capsys.readouterr().err
    assert "* answers are equal: by 3 mm; by 4 mm" in document.read_text(encoding="utf-8")


# -- On a GPU --------------------------------------------------------------------------------------------------------

TINY = gpu_rows.Sizes(
    channels=32,
    size=(32, 32),
    batch=2,
    further_batches=(1,),
    training_batch=1,
    training_steps=1,
    reverse_steps=2,
    matrix=64,
    copied_bytes=2**10,
    calls=1,
)
CPU = torch.device("cpu")


@pytest.mark.workflow  # ten networks in each of two libraries
def test_gpu_benchmark_measures_everything_at_a_small_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    document = tmp_path / "performance.md"
    document.write_text(f"# Title\n{gpu.BEGIN}\nold\n{gpu.END}\nbelow\n", encoding="utf-8")
    gpu.write_results(gpu_rows.Bench(CPU, TINY), 10, tmp_path / "gpu.json", document)
    rows = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))["rows"]
    # A CPU has no TF32 and no CUDA graphs; some have no bfloat16.
    missing = [row["remark"] for row in rows if row["timing"] is None]
    assert all("tf32" in row["what"] or "graph" in row["who"] or "bfloat16" in row["what"] for row in rows if not row["timing"])
    assert all(remark.startswith("not measured: ") for remark in missing)
    measured = {(row["what"], row["who"]): row for row in rows if row["timing"]}
    product = measured["matrix product, bfloat16, 64 x 64", "PyTorch"]
    assert product["flops"] == 2 * 64**3
    member_step = measured["member-step, bfloat16, 2 members in a batch", "ours"]
    assert member_step["flops"] == pytest.approx(gpu_rows.forward_flops(32, (32, 32)))
    assert member_step["timing"]["milliseconds"] > 0
    text = document.read_text(encoding="utf-8")
    assert text.startswith(f"# Title\n{gpu.BEGIN}\nMeasured on 20")
    assert text.endswith(f"{gpu.END}\nbelow\n")
    assert {row.count("|") for row in text.splitlines() if row.startswith("|")} == {9}
    if cpu_has_bfloat16():
        step = measured["training step, bfloat16, batch 1", "ours"]
        assert step["flops"] == pytest.approx(3 * gpu_rows.forward_flops(32, (32, 32)))
        assert sum("part of a training step" in what for what, _ in measured) == 5


def test_gpu_benchmark_without_diffusers_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    monkeypatch.setattr(gpu_rows, "unsupported_reason", lambda *_: None)
    row = gpu_rows.Bench(CPU, TINY)._peer_forward("diffusers", "bfloat16", 1)
    assert row.timing is None
    assert row.remark.startswith("not measured: ")
    assert "diffusers" in row.remark


def test_gpu_measurements_end_with_the_time_and_survive_a_failure() -> None:
    class Sections(gpu_rows.Bench):
        def sections(self):
            def fail():
                raise RuntimeError("CUDA out of memory.\nTried to allocate")
                yield

            return {"first": fail, "second": self.ceilings}

    failed, *rest = gpu.measure(Sections(CPU, TINY), 10)
    assert (failed.what, failed.remark) == ("first", "failed: CUDA out of memory.")
    assert len(rest) == 2
    assert [row.remark for row in gpu.measure(Sections(CPU, TINY), -1)] == ["not measured: it does not fit into -1 minutes"] * 2


def test_with_targets_judges_rate_ratio_and_busy_share() -> None:
    """At 186 GFLOP an image, 60 images in 40.5 ms are 276 TFLOP/s: 42 % of 660, 2.1 times 85.2 ms and 2.4 times 95.5 ms."""
    forward, step = "forward, bfloat16, 60 images", "training step, bfloat16, batch 12"
    rows = [
        gpu_rows.GpuRow("matrix product, bfloat16", "PyTorch", Timing(1.0), 660e9),
        gpu_rows.GpuRow(forward, "ours, compiled", Timing(40.5), 60 * 186.1e9),
        gpu_rows.GpuRow(forward, "diffusers", Timing(85.2), 60 * 186.1e9),
        gpu_rows.GpuRow(forward, "MONAI", Timing(95.5), 60 * 186.1e9),
        gpu_rows.GpuRow(step, "ours", Timing(126.0, 3000, 0.46), 36 * 186.1e9),
        gpu_rows.GpuRow("training step, tf32, batch 12", "MONAI", Timing(98.0), 36 * 186.1e9),
        gpu_rows.GpuRow("member-step, bfloat16, 60 members in a batch", "ours", Timing(0.7, 400, 0.96), 186.1e9),
    ]
    targets = [row.target for row in gpu_rows.with_targets(rows, 60, 12)]
    assert targets == [
        None,
        ("≥ 40 % of the matrix product (42%); ≥ 1.8 x diffusers (2.10); ≥ 2 x MONAI (2.36)", True),
        None,
        None,
        ("≤ 45 ms; ≥ 2 x MONAI's best (0.78); busy ≥ 85%", False),
        None,
        ("busy ≥ 95%", True),
    ]


@pytest.mark.parametrize(
    ("spans", "length"), [([], 0), ([(0, 2), (1, 3)], 3), ([(5, 6), (0, 1)], 2), ([(0, 10), (2, 3), (9, 12)], 12)]
)
def test_union_length_counts_overlaps_once(spans: list[tuple[float, float]], length: float) -> None:
    assert union_length(spans) == length


def test_forward_flops_of_the_papers_denoiser_are_186_gflop() -> None:
    assert gpu_rows.forward_flops(128, (128, 192)) / 1e9 == pytest.approx(186.1, abs=0.05)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_gpu_main_without_gpu_prints_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main([]) == 1
    assert capsys.readouterr().err == (
        "error: PyTorch sees no CUDA device here; run `make bench-gpu` on a machine that has one.\n"
    )


@pytest.mark.workflow  # imports PyTorch in a process of its own
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_gpu_session_without_gpu_stops_with_one_sentence(tmp_path: Path) -> None:
    script = Path(gpu.__file__).with_name("gpu_session.sh")
    run = subprocess.run(["bash", script, "1", tmp_path], capture_output=True, text=True)
    assert (run.returncode, run.stdout, run.stderr) == (1, "error: PyTorch sees no CUDA device here.\n", "")
