"""Compiled networks: which batches are filled up, when compiling pays, and the same masks (below 10 s)."""

import logging
import os

import pytest
import torch
from conftest import with_random_weights
from torch import nn

from pd_ddpm.diffusion.noise import MemberNoise
from pd_ddpm.inference import compiled_network
from pd_ddpm.inference.compiled_network import CompiledNetwork, Compiler, compiled_batch, time_evaluation
from pd_ddpm.inference.factory import build_segmenter
from pd_ddpm.inference.segmenters import DeterministicSegmenter
from pd_ddpm.runtime.compilation import CompiledFunction

CPU = torch.device("cpu")
TINY = {"channels": 8, "multipliers": [1, 2], "attention_at": [2], "residual_blocks": 1, "predicts": "mask"}
SIZE = (8, 6)


class RowSums(nn.Module):
    """The sum of each row plus its timestep; holds the batch sizes of all calls."""

    divisor = 2

    def __init__(self):
        super().__init__()
        self.rows = []

    def forward(self, x, t):
        self.rows.append(len(x))
        return x.sum(dim=1, keepdim=True) + t.reshape(-1, 1, 1, 1)


class Recorded:
    """Stands for a compiled function; holds the batch sizes of all calls and returns the same memory each time."""

    def __init__(self, function, name, mode):
        self.mode, self.rows, self.memory = mode, [], None

    def __call__(self, x, t):
        self.rows.append(len(x))
        output = x.sum(dim=1, keepdim=True) + t.reshape(-1, 1, 1, 1)
        self.memory = output if self.memory is None else self.memory.copy_(output)
        return self.memory


@pytest.fixture
def chain(configured):
    """A function that returns the segmenter of a chain of ten reverse steps from noise."""

    def build(**changes):
        model = with_random_weights(configured("network", "denoiser", **TINY | changes)).eval()
        return build_segmenter(configured("method", "ddpm", reverse_steps=10, pool=3, variance="small"), model)

    return build


def test_compiled_network_fills_up_batches_unless_few_rows_are_left(monkeypatch):
    monkeypatch.setattr(compiled_network, "CompiledFunction", Recorded)
    network = RowSums()
    compiled = CompiledNetwork(network, {SIZE: 10}, smallest_share=0.5)
    (function,) = compiled._functions.values()
    results = []
    for rows in (10, 5, 4, 11):
        x, t = torch.rand(rows, 3, *SIZE), torch.arange(rows)
        results.append((compiled(x, t), x.sum(dim=1, keepdim=True) + t.reshape(-1, 1, 1, 1)))
    compiled(torch.rand(10, 3, 4, 4), torch.arange(10))  # another image size
    for result, expected in results:  # after all calls, since a replayed graph overwrites its memory
        torch.testing.assert_close(result, expected)
    assert (function.rows, network.rows) == ([10, 10], [4, 11, 10])
    assert compiled.divisor == 2


def test_small_batches_are_launched_as_one_graph(monkeypatch):
    monkeypatch.setattr(compiled_network, "CompiledFunction", Recorded)
    functions = CompiledNetwork(RowSums(), {(8, 8): 19, (8, 6): 20})._functions
    assert [function.mode for function in functions.values()] == ["reduce-overhead", "default"]


@pytest.mark.parametrize(
    ("evaluations", "is_cached", "pays"), [(10_000, False, False), (10_000, True, True), (20_000, False, True)]
)
def test_compiler_auto_compiles_where_it_saves_more_than_it_takes(chain, monkeypatch, caplog, evaluations, is_cached, pays):
    """Of 10,000 evaluations of 7.24 ms, 44 % are 32 s: more than 10 s to load compiled code, less than 45 s to compile it."""
    monkeypatch.setattr(compiled_network, "time_evaluation", lambda *_: 7.24e-3)
    segmenter = chain()
    with caplog.at_level(logging.INFO):
        batches = Compiler("auto", 12, 2, CPU).compile(segmenter, {SIZE: evaluations}, {SIZE: 12} if is_cached else {})
    assert batches == ({SIZE: 12} if pays else {})
    assert compiled_batch(segmenter, SIZE) == (12 if pays else None)
    seconds = f"saves about {evaluations * 7.24e-3 * 0.44:.0f} s and takes about {10 if is_cached else 45} s"
    assert f"8 x 6 pixels, {evaluations} evaluations of 7.24 ms; compiling {seconds}" in caplog.text


def test_compiler_leaves_networks_of_one_evaluation_alone(configured):
    segmenter = DeterministicSegmenter(with_random_weights(configured("network", "attunet", channels=[4, 8])))
    assert Compiler(True, 12, 2, CPU).compile(segmenter, {SIZE: 10**9}) == {}
    assert compiled_batch(segmenter, SIZE) is None


def test_time_evaluation_is_per_image_without_the_first_call(chain, monkeypatch):
    times = iter([0.0, 60.0, 63.0])
    monkeypatch.setattr(compiled_network.time, "perf_counter", lambda: next(times))
    assert time_evaluation(chain(), (2, *SIZE), 3, CPU) == pytest.approx(1.0)


def _sample(segmenter, rows):
    image = torch.linspace(-1, 1, 2 * 8 * 6).reshape(1, 2, *SIZE).expand(rows, -1, -1, -1)
    with torch.inference_mode():
        return segmenter(image, None, MemberNoise([("compiled", row) for row in range(rows)]))


def test_traced_chain_samples_the_same_members(chain, without_code_generation):
    segmenter = chain()
    Compiler(True, 4, 2, CPU).compile(segmenter, {SIZE: 1})
    torch.testing.assert_close(_sample(segmenter, 3), _sample(chain(), 3), rtol=1e-4, atol=1e-5)
    assert without_code_generation == {SIZE}


@pytest.mark.workflow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiled_chain_samples_the_same_members_from_a_cache_in_the_folder_work(chain, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")  # so that the variable is restored afterwards
    del os.environ["TORCHINDUCTOR_CACHE_DIR"]
    smaller = {"multipliers": [1], "attention_at": [], "middle_attention": False}  # fewer kernels to compile
    segmenter = chain(**smaller)
    Compiler(True, 4, 2, CPU).compile(segmenter, {SIZE: 1})
    torch.testing.assert_close(_sample(segmenter, 3), _sample(chain(**smaller), 3), rtol=1e-4, atol=1e-5)
    (function,) = segmenter.denoiser.network._functions.values()
    assert isinstance(function, CompiledFunction)
    assert function._compiled is not None, "it has not fallen back"
    assert list((tmp_path / "work" / "inductor").rglob("*.so"))
