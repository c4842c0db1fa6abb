"""Dropout with masks sampled per row (below 2 s)."""

import copy
import math
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from pd_ddpm.diffusion.noise import MemberNoise
from pd_ddpm.models.networks.dropout import Dropout, monte_carlo_dropout

NAMES = [(0, "case", 7, member) for member in range(4)]
PROBABILITIES = [0.1, 0.3, 0.5, 0.9]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("whole_channels", [True, False])
@pytest.mark.parametrize("probability", PROBABILITIES)
def test_dropout_drops_with_its_probability_and_keeps_mean(training, whole_channels, probability):
    layer = Dropout(probability, whole_channels=whole_channels).train(training)
    x = torch.ones(4, 5000, 2, 2)
    torch.manual_seed(0)
    with nullcontext() if training else monte_carlo_dropout(layer, MemberNoise(NAMES).sample_uniform):
        output = layer(x)
    num_samples = 20_000 if whole_channels else 80_000
    deviation = math.sqrt(probability * (1 - probability) / num_samples)  # binomial
    assert (output != 0).float().mean().item() == pytest.approx(1 - probability, abs=4.5 * deviation)
    torch.testing.assert_close(output.unique(), torch.tensor([0, 1 / (1 - probability)]))
    per_channel = (output != 0).flatten(2).float().mean(2)
    assert bool(((per_channel == 0) | (per_channel == 1)).all()) == whole_channels


@pytest.mark.parametrize("size", [(3, 4, 6, 8), (2, 4, 2, 6, 8)])
@pytest.mark.parametrize("probability", PROBABILITIES)
def test_dropout_in_training_equals_torch(size, probability):
    """Bit for bit from an equal state of the global generator, for single elements and whole channels."""
    x = torch.from_numpy(np.random.default_rng(0).standard_normal(size, dtype=np.float32))
    whole = {4: functional.dropout2d, 5: functional.dropout3d}[len(size)]
    for layer, theirs in ((Dropout(probability), functional.dropout), (Dropout(probability, whole_channels=True), whole)):
        torch.manual_seed(1)
        expected = theirs(x, probability)
        torch.manual_seed(1)
        torch.testing.assert_close(layer(x), expected)


def test_monte_carlo_dropout_mean_over_masks_is_input():
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((1, 6, 3, 3), dtype=np.float32))
    many = x.expand(4000, -1, -1, -1)
    names = [("mean", n) for n in range(len(many))]
    layer = Dropout(0.4).eval()
    torch.manual_seed(0)
    theirs = functional.dropout(many, 0.4).mean(0)
    with monte_carlo_dropout(layer, MemberNoise(names).sample_uniform):
        ours = layer(many).mean(0)
    deviation = x[0].abs() * math.sqrt(0.4 / 0.6 / len(many))  # of the mean of 4000 scaled Bernoulli samples
    assert ((ours - x[0]).abs() <= 4.5 * deviation).all()
    assert ((ours - theirs).abs() <= 4.5 * math.sqrt(2) * deviation).all()


def test_dropout_in_evaluation_without_a_source_changes_nothing_and_uses_no_generator():
    layer, x = Dropout(0.5).eval(), torch.ones(2, 3, 4, 4)
    state = torch.get_rng_state()
    assert layer(x) is x
    with monte_carlo_dropout(layer, MemberNoise(NAMES[:2]).sample_uniform):
        assert not torch.equal(layer(x), x)
    assert layer(x) is x
    assert torch.equal(torch.get_rng_state(), state)


def test_monte_carlo_dropout_masks_depend_on_own_stream_only():
    """With two layers, the second continues each stream after the first."""
    network = nn.Sequential(Dropout(0.5, whole_channels=True), Dropout(0.3)).eval()
    x = torch.ones(4, 16, 5, 3)

    def output(names):
        with monte_carlo_dropout(network, MemberNoise(names).sample_uniform):
            return network(x[: len(names)])

    together = output(NAMES)
    assert torch.equal(together, output(NAMES[::-1]).flip(0))
    assert torch.equal(together, torch.cat([output([name]) for name in NAMES]))
    assert torch.equal(together[[1, 3]], output([NAMES[1], NAMES[3]]))
    for a in range(4):
        for b in range(a):
            assert not torch.equal(together[a], together[b])
    noise = MemberNoise(NAMES)
    is_kept = (noise.sample_uniform((16, 1, 1)) >= 0.5) & (noise.sample_uniform((16, 5, 3)) >= 0.3)
    torch.testing.assert_close(together, is_kept / (0.5 * 0.7))


def test_monte_carlo_dropout_restores_the_source_after_errors_and_nested_blocks():
    layer, x = Dropout(0.5).eval(), torch.ones(1, 2, 8, 8)
    with (
        pytest.raises(RuntimeError, match="inside the block"),
        monte_carlo_dropout(layer, MemberNoise(NAMES[:1]).sample_uniform),
    ):
        raise RuntimeError("inside the block")
    assert layer.sample_uniform is None
    everything, nothing = (lambda shape, value=value: torch.full((1, *shape), value) for value in (0.5, 0.4999))
    with monte_carlo_dropout(layer, everything):
        with monte_carlo_dropout(layer, nothing):
            assert not layer(x).any()
        assert torch.equal(layer(x), 2 * x)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_monte_carlo_dropout_keeps_dtype_in_inference_mode(dtype):
    layer, x = Dropout(0.5).eval(), torch.ones(2, 3, 4, 4, dtype=dtype)
    with torch.inference_mode(), monte_carlo_dropout(layer, MemberNoise(NAMES[:2]).sample_uniform):
        output = layer(x)
    assert output.dtype == dtype
    assert set(output.unique().tolist()) == {0, 2}


def test_dropout_has_no_weights_and_can_be_copied():
    network = nn.Sequential(nn.Conv2d(1, 1, 1), Dropout(0.25, whole_channels=True))
    assert list(network.state_dict()) == ["0.weight", "0.bias"]
    assert "Dropout(0.25, whole_channels=True)" in repr(copy.deepcopy(network))


@pytest.mark.parametrize("probability", [-0.1, 0, 1, 1.5])
def test_dropout_rejects_invalid_probability(probability):
    with pytest.raises(ValueError, match="It must lie between 0 and 1"):
        Dropout(probability)


def test_monte_carlo_dropout_rejects_a_network_that_would_not_use_the_source():
    with (
        pytest.raises(ValueError, match="no dropout"),
        monte_carlo_dropout(nn.Conv2d(1, 1, 1).eval(), MemberNoise(NAMES).sample_uniform),
    ):
        pass
    with (
        pytest.raises(ValueError, match="training mode"),
        monte_carlo_dropout(Dropout(0.5).train(), MemberNoise(NAMES).sample_uniform),
    ):
        pass
