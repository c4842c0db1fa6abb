"""Sampling on a GPU: it computes what the CPU computes, up to rounding; compiled networks and half precision included."""

import json
import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import GRID, with_random_weights

from pd_ddpm.config.run import Run
from pd_ddpm.data.prepared import read_scan
from pd_ddpm.data.working_grid import GridSettings
from pd_ddpm.diffusion.noise import MemberNoise, MethodNoise
from pd_ddpm.inference.batch_size import probe_batch_size
from pd_ddpm.inference.compiled_network import CompiledNetwork, Compiler
from pd_ddpm.inference.factory import build_segmenter
from pd_ddpm.inference.gate_network import gate_network
from pd_ddpm.inference.job import GateJob
from pd_ddpm.inference.segment_case import segment_case
from pd_ddpm.runtime.compute import Compute
from pd_ddpm.runtime.memory import LARGEST_BATCH, MemoryShortageError
from pd_ddpm.runtime.precision import FLOAT32, PRECISIONS, prepare_for_inference, set_matmul_precision

# The import of inductor warns of its own use of torch.jit, and a warning in a test is an error.
pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

CPU = torch.device("cpu")
SIZE = (16, 32)
DENOISER = {"channels": 8, "multipliers": [1, 2], "attention_at": [2], "residual_blocks": 1}
NETWORKS = {
    "unet": {"channels": [8, 8, 12, 16, 16]},
    "attunet": {"channels": [8, 12, 16]},
    "unet-plus-plus": {"channels": [8, 8, 12, 16, 16]},
    "bayesian-unet": {"channels": [8, 8, 12, 16, 16]},
    "probabilistic-unet": {"channels": [8, 12]},
    "denoiser": DENOISER,
    "truncated-denoiser": DENOISER | {"discriminator_channels": 4},
}
METHODS = ("unet", "attunet", "unet-plus-plus", "bayesian-unet", "probabilistic-unet", "ddpm", "tdpm", "es-ddpm", "pd-ddpm")


@pytest.fixture(autouse=True)
def _own_cache_and_float32(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")  # so that the variable is restored afterwards
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(tmp_path / "inductor")
    set_matmul_precision(FLOAT32)
    yield
    set_matmul_precision(FLOAT32)


@pytest.fixture
def segmenter(configured):
    """A function that returns the segmenter of a method with ten reverse steps, on a device and in a precision."""

    def build(name, device, precision="float32", members=2):
        method = configured("method", name, reverse_steps=10, variance="small")
        if "t_start" in method:  # ten steps from any start
            method["reverse_steps"] = 10 * 1000 // method["t_start"]
        settings = configured("network", method["network"], **NETWORKS[method["network"]])
        model = prepare_for_inference(with_random_weights(settings), device, PRECISIONS[precision])
        return build_segmenter(method | {"pool": members}, model)

    return build


def sample(segmenter, device, rows=4):
    """Sample members of two slices, with masks of a square as pre-segmentations."""
    image = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 2, *SIZE), dtype=np.float32))
    image = image.repeat_interleave(rows // 2, dim=0).to(device)
    masks = torch.zeros(rows, 1, *SIZE)
    masks[:, :, 4:10, 4:12] = 1
    with torch.inference_mode():
        return segmenter(image, masks, MemberNoise([("gpu", row) for row in range(rows)])).cpu()


@pytest.mark.parametrize("name", METHODS)
def test_method_samples_two_slices_on_gpu_as_on_cpu(cuda, segmenter, name):
    """In float32, rounding moves probabilities by less than 1e-3 on average, and the mask of at most one pixel in a hundred."""
    on_gpu, on_cpu = (sample(segmenter(name, device), device) for device in (cuda, CPU))
    assert on_gpu.shape == on_cpu.shape
    assert (on_gpu - on_cpu).abs().mean() < 1e-3
    assert ((on_gpu >= 0.5) != (on_cpu >= 0.5)).float().mean() < 0.01


@pytest.mark.parametrize("precision", ["tf32", "bfloat16", "float16"])
def test_chain_in_lower_precision_is_close_to_float32(cuda, segmenter, precision):
    expected = sample(segmenter("pd-ddpm", cuda), cuda)
    set_matmul_precision(PRECISIONS[precision])
    assert (sample(segmenter("pd-ddpm", cuda, precision), cuda) - expected).abs().mean() < 0.05


@pytest.mark.parametrize("name", ["pd-ddpm", "tdpm"])
@pytest.mark.parametrize("batch", [6, 24])
def test_compiled_chain_samples_what_the_uncompiled_one_does(cuda, segmenter, name, batch):
    """Below 20 rows as a CUDA graph, whose outputs lie in the same memory in each step; the last rows are filled up."""
    compiled = segmenter(name, cuda)
    assert Compiler(True, batch, 2, cuda).compile(compiled, {SIZE: 1}) == {SIZE: batch}
    for rows in (batch, batch - 2):
        result, expected = sample(compiled, cuda, rows), sample(segmenter(name, cuda), cuda, rows)
        assert (result - expected).abs().mean() < 1e-3
    (function,) = compiled.denoiser.network._functions.values()
    assert function._compiled is not None, "it has not fallen back"


def test_prefetched_noise_on_gpu_equals_noise_sampled_on_demand(cuda):
    names, shape = [("member", number) for number in range(7)], (1, *SIZE)
    ahead, plain = MemberNoise(names), MemberNoise(names)
    ahead.prefetch_normal(shape, cuda, 50)
    sampled = [ahead.sample_normal(shape, cuda) for _ in range(50)]  # all copies are still on their way
    for number, noise in enumerate(sampled):
        assert torch.equal(noise.cpu(), plain.sample_normal(shape)), number


def test_automatic_batch_fits_into_the_memory(cuda, segmenter):
    built = segmenter("ddpm", cuda)
    with torch.inference_mode():
        batch = probe_batch_size(built, (2, *SIZE), cuda)
    assert batch == LARGEST_BATCH["cuda"]  # tiny images
    sample(built, cuda, batch)


def test_segment_case_on_gpu_equals_cpu_with_automatic_batch(cuda, segmenter, prepared):
    results = {}
    for device, batch in ((cuda, "auto"), (CPU, 3)):
        scan, noise = read_scan(prepared, "one"), MethodNoise("ddpm", 0)
        empty = np.zeros((*scan.brain.shape, 1), dtype=np.float32)
        results[device.type] = segment_case(
            segmenter("pd-ddpm", device),
            scan,
            GridSettings(**GRID),
            noise=noise,
            batch=batch,
            device=device,
            presegmentation=empty,
        ).samples
    assert np.abs(results["cuda"] - results["cpu"]).mean() < 1e-3


def gate_job(trained, prepared, **changes):
    chain = {"segmenter": "diffusion", "start": "noise", "t_start": 1000, "pool": 3, "reverse_steps": 10}
    chain |= {"sampler": "ancestral", "variance": "small", "eta": 0.0, "weights": "ema"}
    limits = {"tf32": 2e-3, "bfloat16": 2e-2, "float16": 2e-2}
    job = GateJob(
        run=Run("dataset", "denoiser", 0, 0),
        settings=chain,
        limits={"cases": 1, "slices": 2, "forward_error": limits, "flipped_share": 1.0},
        cases=prepared / "prepared.csv",
        splits=prepared / "splits.csv",
        device="cuda",
        threads=2,
        code="",
        compute=Compute("cuda", "auto", threads=2, batch=6, compile=True),
        evaluations_per_slice=10,
        **trained,
    )
    return replace(job, **changes)


def test_gate_tests_all_precisions_and_the_compiled_network(cuda, configured, random_network, prepared):
    trained = random_network(configured("network", "denoiser", **DENOISER, predicts="mask"))
    verdict = gate_network(gate_job(trained, prepared))
    assert verdict["device"] == "cuda"
    assert list(verdict["formats"]) == ["float16", "bfloat16", "tf32"]
    errors = {name: result["forward_error"] for name, result in verdict["formats"].items()}
    assert 0 < errors["tf32"] < errors["bfloat16"] < 2e-2
    assert 0 < errors["float16"] < errors["bfloat16"]
    (compiled,) = [result["compiled"] for result in verdict["formats"].values() if "compiled" in result]
    assert compiled["passed"]
    assert {rows for *_, rows in compiled["batches"]} == {6}


def test_sampling_job_uses_the_compiled_network(cuda, configured, random_network, prepared, sample_job, script, tmp_path):
    trained = random_network(configured("network", "denoiser", **DENOISER, predicts="mask"))
    (tmp_path / "gate.json").write_text(json.dumps(gate_network(gate_job(trained, prepared))), encoding="utf-8")
    method = configured("method", "ddpm", reverse_steps=5, samples=2, pool=2, variance="small", precision="auto")
    job = sample_job(tmp_path / "samples", "ddpm", method, batch=6, gate=tmp_path / "gate.json", **trained)
    rows = []
    with pytest.MonkeyPatch.context() as patch:
        forward = CompiledNetwork.forward
        patch.setattr(CompiledNetwork, "forward", lambda self, x, t: rows.append(len(x)) or forward(self, x, t))
        script("sample")(replace(job, compute=Compute("cuda", "auto", threads=2, batch=6, compile=True)))
    assert rows
    metadata = json.loads((tmp_path / "samples" / "method.json").read_text(encoding="utf-8"))
    assert metadata["device_type"] == "cuda"
    assert metadata["provenance"]["precision"] == "float16"


def test_sampling_without_gpu_memory_names_the_batch(cuda, configured, random_network, sample_job, script, tmp_path):
    trained = random_network(configured("network", "denoiser", **DENOISER, predicts="mask"))
    method = configured("method", "ddpm", reverse_steps=2, samples=2, pool=1000, variance="small")
    job = sample_job(tmp_path / "samples", "ddpm", method, batch=4000, **trained)
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(cuda).total_memory
    # Enough for the weights. A layer of eight channels takes 75 MB for 4000 slices of 27 x 21 pixels.
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved(cuda) + 40e6) / total, cuda)
    try:
        with pytest.raises(MemoryShortageError, match=r"out of memory .* Reduce `sampling.batch` \(4000\)"):
            script("sample")(replace(job, compute=Compute("cuda", "float32", threads=2, batch=4000)))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, cuda)
