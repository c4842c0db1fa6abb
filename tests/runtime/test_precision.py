"""Precisions: which a device supports, which are refused, and networks sampled from in half precision (about 10 s)."""

import copy
import weakref
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from pd_ddpm.diffusion import noise
from pd_ddpm.diffusion.noise import MemberNoise
from pd_ddpm.inference.factory import build_segmenter
from pd_ddpm.models.factory import build_model
from pd_ddpm.runtime import cpu_info, precision
from pd_ddpm.runtime.cpu_info import only_float32
from pd_ddpm.runtime.precision import (
    FLOAT32,
    PRECISIONS,
    choose_precision,
    move_model,
    precisions_by_speed,
    prepare_for_inference,
)

pytestmark = pytest.mark.usefixtures("matmul_flags")

CPU, GPU = torch.device("cpu"), torch.device("cuda")
METHOD = {"pool": 2, "sampler": "ancestral", "variance": "large", "eta": 0.0, "reverse_steps": 50}
TINY = {"channels": 8, "multipliers": [1, 2], "attention_at": [2], "residual_blocks": 1}
NETWORKS = {
    "unet": ({"channels": [8, 8, 12, 16, 16]}, {"segmenter": "deterministic"}),
    "attunet": ({"channels": [8, 12, 16]}, {"segmenter": "deterministic"}),
    "unet-plus-plus": ({"channels": [8, 8, 12, 16, 16]}, {"segmenter": "deterministic"}),
    "bayesian-unet": ({"channels": [8, 8, 12, 16, 16]}, {"segmenter": "dropout"}),
    "probabilistic-unet": ({"channels": [8, 12]}, {"segmenter": "latent"}),
    "denoiser": (TINY, {"segmenter": "diffusion", "start": "noise", "t_start": 1000}),
    "truncated-denoiser": (
        TINY | {"discriminator_channels": 4},
        {"segmenter": "diffusion", "start": "learned_prior", "t_start": 300},
    ),
}


@pytest.fixture
def machine(monkeypatch):
    """Has the CPU compute in bfloat16 or not, and the GPU have a compute capability."""

    def say(bfloat16, capability):
        monkeypatch.setattr(precision, "cpu_has_bfloat16", lambda: bfloat16)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)

    return say


@pytest.mark.parametrize(
    ("device", "bfloat16", "capability", "offered", "auto"),
    [
        (CPU, False, None, ["float32"], "float32"),
        (CPU, True, None, ["bfloat16", "float32"], "bfloat16"),
        (GPU, True, (7, 0), ["float16", "float32"], "float32"),
        (GPU, False, (8, 0), ["float16", "bfloat16", "tf32", "float32"], "bfloat16"),
        (GPU, False, (9, 0), ["float16", "bfloat16", "tf32", "float32"], "bfloat16"),
    ],
)
def test_choose_precision_offers_what_the_device_computes_natively(machine, device, bfloat16, capability, offered, auto):
    machine(bfloat16, capability)
    assert [str(precision) for precision in precisions_by_speed(device)] == offered
    assert str(choose_precision("auto", device)) == auto
    for name in PRECISIONS:
        if name in offered:
            assert choose_precision(name, device) is PRECISIONS[name]
        else:
            with pytest.raises(ValueError, match=f"`precision`: '{name}' is not supported: .* Use 'float32'"):
                choose_precision(name, device)


def test_choose_precision_refuses_with_the_reason(machine):
    machine(False, (7, 5))
    for name, reason in {
        "tf32": "it needs a GPU of compute capability 8.0 or above, unlike cuda. Use 'float32'",
        "bfloat16": "cuda does not compute in it natively. Use 'float32'",
    }.items():
        with pytest.raises(ValueError, match=reason):
            choose_precision(name, GPU)
    with pytest.raises(ValueError, match=r"'float16' is not supported: it needs a GPU\. Use 'float32' or 'bfloat16' on a CPU"):
        choose_precision("float16", CPU)


def test_choose_precision_allows_tf32_products_for_tf32_only(machine):
    machine(True, (8, 0))
    for name in ("tf32", "float32", "tf32", "bfloat16"):
        choose_precision(name, GPU)
        flags = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
        assert flags == ((name == "tf32"),) * 2, name
    assert PRECISIONS["tf32"].dtype == FLOAT32.dtype == torch.float32
    assert PRECISIONS["tf32"] != FLOAT32
    assert [str(one) for one in PRECISIONS.values()] == ["float32", "tf32", "bfloat16", "float16"]
    assert [name for name, one in PRECISIONS.items() if one.is_half] == ["bfloat16", "float16"]


def test_only_float32_recognises_a_cpu_without_bfloat16(monkeypatch):
    monkeypatch.setattr(cpu_info, "cpu_has_bfloat16", lambda: False)
    monkeypatch.setattr(cpu_info, "version", lambda package: "2.13.0+cpu")
    assert [only_float32(device) for device in ("cpu", "auto", "cuda")] == [True, True, False]
    monkeypatch.setattr(cpu_info, "version", lambda package: "2.13.0")  # the CUDA build, on a machine that may have a GPU
    assert [only_float32(device) for device in ("cpu", "auto", "cuda:1")] == [True, False, False]
    monkeypatch.setattr(cpu_info, "cpu_has_bfloat16", lambda: True)
    assert not only_float32("cpu")


def untrained(configured, name):
    """A network whose outputs vary and whose batch normalisations have statistics of their own, and its segmenter."""
    changes, method = NETWORKS[name]
    torch.manual_seed(0)
    built = build_model(configured("network", name, **changes), 2)
    for module in built.modules():
        if isinstance(module, nn.Conv2d | nn.Linear) and not module.weight.any():
            nn.init.normal_(module.weight, std=0.1)
    if not hasattr(built, "schedule"):
        built.train()
        for seed in range(30):
            built(normal(4, 2, 32, 48, seed=seed), *([torch.zeros(4, built.latent)] if hasattr(built, "latent") else []))
    return built, lambda placed: build_segmenter(METHOD | method, placed)


def normal(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape, dtype=np.float32))


@pytest.mark.parametrize("name", NETWORKS)
def test_network_in_bfloat16_stays_near_float32(configured, name):
    """A CPU without bfloat16 emulates it, slowly but with the same results."""
    built, draw = untrained(configured, name)
    image, members = normal(3, 2, 32, 48), [("member", number) for number in range(3)]
    outputs, seen = {}, {}
    for chosen in (FLOAT32, PRECISIONS["bfloat16"]):
        placed = prepare_for_inference(copy.deepcopy(built), CPU, chosen)
        network, kept = placed.network if hasattr(placed, "schedule") else placed, []
        network.register_forward_hook(lambda _, inputs, output, kept=kept: kept.append((inputs, output.clone())))
        convolution = next(module for module in network.modules() if isinstance(module, nn.Conv2d))
        convolution.register_forward_hook(lambda _, __, output, key=chosen: seen.update({key: output.dtype}))
        with torch.inference_mode():
            probabilities = draw(placed)(image, None, MemberNoise(members))
        assert probabilities.dtype == torch.float32
        assert {parameter.dtype for parameter in network.parameters()} == {chosen.dtype}
        outputs[chosen] = kept[0]
    assert seen == {one: one.dtype for one in outputs}
    (_, expected), (inputs, actual) = outputs.values()
    if len(inputs) == 2 and hasattr(built, "schedule"):
        assert not inputs[1].is_floating_point()  # the times, of which bfloat16 could not tell 999 from 1000
    error = (actual.float() - expected).norm() / expected.norm()
    assert 1e-5 < error < 2e-2


@pytest.mark.parametrize(
    ("name", "settings", "chosen", "channels_last"),
    [
        ("unet", {}, "float32", True),
        ("unet", {}, "bfloat16", True),
        ("denoiser", {}, "float32", True),
        ("denoiser", {}, "bfloat16", False),
        ("denoiser", {"spatial_dims": 3}, "float32", False),
    ],
)
def test_layout_is_channels_last_where_that_is_faster(configured, name, settings, chosen, channels_last):
    built = build_model(configured("network", name, **NETWORKS[name][0] | settings), 2)
    weights = [parameter for parameter in move_model(built, CPU, PRECISIONS[chosen]).parameters() if parameter.ndim >= 4]
    kernels = [weight for weight in weights if weight.shape[1] > 1 and weight.shape[2] > 1]
    assert [not kernel.is_contiguous() for kernel in kernels] == [channels_last] * len(kernels)
    assert {weight.dtype for weight in weights} == {torch.float32}


def test_chain_of_a_bfloat16_network_stays_float32(configured):
    """The sampler passes float32 states to the denoiser, whatever the precision of the network."""
    built, draw = untrained(configured, "denoiser")
    placed, states = prepare_for_inference(built, CPU, PRECISIONS["bfloat16"]), []
    placed.register_forward_pre_hook(lambda _, inputs: states.append(inputs[0]))
    with torch.inference_mode():
        draw(placed)(normal(2, 2, 32, 48), None, MemberNoise([("a", 0), ("a", 1)]))
    assert len(states) == 50
    assert {state.dtype for state in states} == {torch.float32}
    assert not torch.equal(states[9], states[9].bfloat16().float())


class Operators(TorchDispatchMode):
    """Counts operators by their names, those that copy between devices apart."""

    def __init__(self):
        super().__init__()
        self.names, self.copies = [], []

    def __torch_dispatch__(self, operator, types, arguments=(), keywords=None):
        result = operator(*arguments, **(keywords or {}))
        self.names.append(operator.overloadpacket.__name__)
        source = next((one for one in arguments if isinstance(one, torch.Tensor)), None)
        if isinstance(result, torch.Tensor) and source is not None and source.device != result.device:
            self.copies.append((tuple(result.shape), keywords.get("non_blocking", False)))
        return result


@pytest.mark.parametrize("predicts", ["noise", "mask"])
@pytest.mark.parametrize("sampler", ["ancestral", "ddim"])
def test_reverse_step_never_waits_for_the_device(configured, predicts, sampler):
    """On the device "meta", which holds no numbers: whoever asks it for one, fails. Only noise is copied, without waiting."""
    built = prepare_for_inference(
        build_model(configured("network", "denoiser", predicts=predicts, **TINY), 2), torch.device("meta"), FLOAT32
    )
    settings = METHOD | {"segmenter": "diffusion", "start": "noise", "t_start": 1000, "sampler": sampler, "eta": 1.0}
    draw, image = build_segmenter(settings | {"reverse_steps": 10}, built), torch.empty(3, 2, 16, 24, device="meta")
    members = MemberNoise([("member", number) for number in range(3)])
    with torch.inference_mode():
        draw(image, None, members)  # puts the schedule on the device
        with Operators() as seen:
            draw(image, None, members)
    # The start, and one for each of ten steps but the last.
    assert seen.copies == [((3, 1, 16, 24), seen.copies[0][1]), *[((3, 1, 16, 24), True)] * 9]
    assert "conv2d" in seen.names
    assert not {"_local_scalar_dense", "nonzero", "item", "is_nonzero"} & set(seen.names)


@pytest.mark.parametrize("threads", [1, 3, 9])
def test_prefetched_noise_equals_noise_sampled_on_demand(monkeypatch, threads):
    monkeypatch.setattr(noise, "_pinned_memory", torch.empty)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    names, shape = [("member", number) for number in range(5)], (1, 4, 5)
    plain, ahead = MemberNoise(names), MemberNoise(names)
    ahead.prefetch_normal(shape, SimpleNamespace(type="cuda"), 6)
    for number in range(8):  # two more than announced
        assert torch.equal(ahead.sample_normal(shape), plain.sample_normal(shape)), number
    assert torch.equal(ahead.sample_uniform((7,)), plain.sample_uniform((7,)))


@pytest.mark.parametrize(("limit", "expected"), [(10**6, 4), (2 * 4 * 100, 2), (4 * 100, 1), (0, 1)])
def test_prefetched_noise_holds_few_steps_in_memory(monkeypatch, limit, expected):
    """A step of five members of 20 values takes 400 bytes."""
    held = []

    def allocate(shape):
        step = torch.empty(shape)
        held.append(weakref.ref(step))
        return step

    monkeypatch.setattr(noise, "_pinned_memory", allocate)
    monkeypatch.setattr(noise, "_BYTES_AHEAD", limit)
    members = MemberNoise([("member", number) for number in range(5)])
    members.prefetch_normal((1, 4, 5), SimpleNamespace(type="cuda"), 10)
    for number in range(10):
        assert sum(step() is not None for step in held) == min(expected, 10 - number)
        members.sample_normal((1, 4, 5))
    assert len(held) == 10


def test_prefetch_on_a_cpu_does_nothing():
    """A CPU has no other work to sample next to."""
    members = MemberNoise([("member", 0)])
    members.prefetch_normal((1, 4, 5), CPU, 3)
    assert members._ahead is None
