"""Counted memory against closed forms, against PyTorch's profiler, and at the sizes of PatchDDM (about 10 s, and 15 s more)."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from pd_ddpm.config import load, resolve
from pd_ddpm.models.factory import build_model
from pd_ddpm.planning import flops
from pd_ddpm.planning.activation_memory import LiveBytes
from pd_ddpm.planning.flops import META, empty_batch
from pd_ddpm.planning.memory_rows import MEASURED, MemoryTask, half_precision, memory_rows
from pd_ddpm.planning.memory_rows import META as COUNTED
from pd_ddpm.runtime.precision import FLOAT32, PRECISIONS
from pd_ddpm.training.factory import build_objective

CPU = torch.device("cpu")
VOLUMES = {"spatial_dims": 3, "attention_at": [], "middle_attention": False, "skip": "average", "coordinates": True}
SMALL = VOLUMES | {"channels": 4, "multipliers": [1, 2], "residual_blocks": 1, "groups": 4}
PATCH_DDM = VOLUMES | {"channels": 29, "multipliers": [1, 3, 4, 4, 4, 4, 4], "groups": 29}


def denoiser(**changes: Any) -> dict[str, Any]:
    config = load.read(None, {"scale": "paper", "networks": {"denoiser": changes}})
    return resolve.network(config, "denoiser")


@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_live_bytes_are_those_of_tensors_that_still_exist(device: str) -> None:
    with LiveBytes(torch.device(device)) as count:
        first = torch.zeros(1000, device=device)
        assert (count.live, count.peak) == (4000, 4000)
        view, second = first[:10], first + 1
        assert (count.live, count.peak) == (8000, 8000)
        del first
        assert count.live == 8000  # the view holds it
        del view
        assert (count.live, count.peak) == (4000, 8000)
        count.reset_peak()
        second = second.to(torch.float16)
        assert (count.live, count.peak) == (2000, 6000)
        torch.zeros(50, device="cpu" if device == "meta" else "meta")
        assert count.live == 2000
        del second
    assert count.live == 0


def test_backward_pass_of_linear_layers_holds_what_the_chain_rule_needs() -> None:
    """A sigmoid keeps its output, a linear layer its input; both are freed once the gradient has passed."""
    with META:
        network = nn.Sequential(*(layer for _ in range(3) for layer in (nn.Linear(64, 64, bias=False), nn.Sigmoid())))
        x = torch.zeros(1000, 64)
    matrix, activation = 64 * 64 * 4, 1000 * 64 * 4
    with LiveBytes(META) as count:
        output = network(x)
        assert count.live == 3 * activation  # the outputs of the sigmoids; those of the layers are freed
        output.sum().backward()
        assert count.live == activation + 3 * matrix  # the output and the gradients


def test_training_holds_weights_average_gradients_and_both_moments() -> None:
    settings = denoiser(**SMALL)
    task = MemoryTask(settings, 1, "training", 1, 4, FLOAT32)
    weights = sum(parameter.nbytes for parameter in task.model(META).parameters())
    assert 5 * weights < task.step(META).count().peak_bytes < 5 * weights + 60_000


def test_count_on_meta_equals_the_count_on_the_cpu() -> None:
    for phase, precision in (("training", FLOAT32), ("sampling", PRECISIONS["bfloat16"])):
        task = MemoryTask(denoiser(**SMALL), 2, phase, 1, 24, precision)
        assert task.step(META).count().peak_bytes == pytest.approx(task.step(CPU).count().peak_bytes, rel=0.01)


def test_count_of_what_is_kept_for_the_backward_pass_equals_the_profiler() -> None:
    """The profiler sees all memory, also within operations, but after the forward pass only what is kept remains."""
    settings = denoiser(**SMALL)
    model = build_model(settings, 2).train()
    (phase,) = build_objective(settings).phases(model)
    batch = empty_batch(5, 1, (16, 16, 16), CPU)
    with LiveBytes(CPU) as count, profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        values = phase.loss(model, batch, np.random.default_rng(0))
    assert values["loss"].requires_grad
    measured = sum(event.self_cpu_memory_usage for event in recorded.key_averages())
    assert count.live == pytest.approx(measured, rel=0.02)
    assert count.live > 2e6


def test_count_has_the_flops_of_an_evaluation_and_the_bytes_without_a_counter_of_flops() -> None:
    task = MemoryTask(denoiser(**SMALL), 2, "sampling", 1, 15, FLOAT32)
    step = task.step(META)
    with LiveBytes(META) as memory:
        memory.hold(step.held)
        step.run()
    assert step.count() == (memory.peak, sum(flops.evaluation(task.model(META), 5, (16, 16, 16))))


def test_activation_checkpointing_and_half_precision_are_counted() -> None:
    kept, saved = (
        MemoryTask(denoiser(**SMALL, activation_checkpointing=saves), 2, "training", 1, 32, FLOAT32)
        .step(META)
        .count()
        .peak_bytes
        for saves in (False, True)
    )
    assert saved < 0.6 * kept
    full, half = (
        MemoryTask(denoiser(**SMALL), 2, "sampling", 1, 32, PRECISIONS[name]).step(META).count().peak_bytes
        for name in ("float32", "float16")
    )
    assert 0.5 < half / full < 0.7  # the state and the image stay float32


def test_memory_rows_are_measured_if_quick_and_counted_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pd_ddpm.planning.memory_rows._probed_rate", lambda device: 2e8)
    monkeypatch.setattr("pd_ddpm.planning.memory_rows.REPEATED_SECONDS", 0.01)
    kind = {"label": "Patches", "network": "denoiser", "trained_share": 0.5, "sampled_share": 1.0}
    table = {"rows": [kind], "edges": [7, 64], "image_channels": 1, "batch": 2, "measured_seconds": 1}
    rows = memory_rows(table, {"denoiser": denoiser(**SMALL)}, CPU).set_index(["edge", "phase", "precision"])
    small, large = (rows.xs(edge)[lambda row: row.index.get_level_values("precision") == "float32"] for edge in (7, 64))
    assert (small["source"] == MEASURED).all()
    assert (small["peak_gb"] >= 0.99 * small["counted_gb"]).all()
    assert (small["seconds"] > 0).all()
    assert small["input_edge"].droplevel("precision").to_dict() == {"training": 4, "sampling": 8}
    assert (large["source"] == COUNTED).all()
    assert (large["peak_gb"] == large["counted_gb"]).all()
    assert large["seconds"].isna().all()
    convolutions = large["tflop"] / small["tflop"]  # the multiplications of the timestep are the same for all sizes
    assert convolutions.droplevel("precision").to_dict() == pytest.approx({"training": 512, "sampling": 512}, rel=0.01)


def test_speed_of_one_precision_does_not_tell_that_of_another(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def result(task: MemoryTask, device: torch.device, most_flops: float) -> dict[str, float]:
        asked.append((str(task.precision), most_flops))
        return {"seconds": 4.0, "tflop": 8.0 if task.precision.is_half else 2.0}

    monkeypatch.setattr("pd_ddpm.planning.memory_rows._probed_rate", lambda device: 1e9)
    monkeypatch.setattr("pd_ddpm.planning.memory_rows._result", result)
    kind = {"label": "Patches", "network": "denoiser", "trained_share": None, "sampled_share": 1.0}
    table = {"rows": [kind], "edges": [8, 16], "image_channels": 1, "batch": 2, "measured_seconds": 10}
    memory_rows(table, {"denoiser": denoiser(**SMALL)}, CPU)
    half = str(half_precision(CPU))
    assert asked == [("float32", 1e10), (half, 1e10), ("float32", 5e12), (half, 2e13)]


@pytest.mark.workflow
def test_patchddm_at_the_sizes_of_the_paper_needs_a_sixth_in_training_and_fits_a_small_gpu_in_sampling() -> None:
    settings = denoiser(**PATCH_DDM)
    model = MemoryTask(settings, 4, "sampling", 1, 64, FLOAT32).model(META)
    assert sum(parameter.numel() for parameter in model.parameters()) == 24_260_299
    patch, full = (MemoryTask(settings, 4, "training", 1, edge, FLOAT32).step(META).count().peak_bytes for edge in (128, 256))
    assert patch <= full / 6
    half = MemoryTask(settings, 4, "sampling", 1, 256, PRECISIONS["float16"]).step(META).count().peak_bytes
    assert half <= 24e9
