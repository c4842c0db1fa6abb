"""Noise of members: each its own stream (below 1 s)."""

import numpy as np
import pytest
import torch
from scipy import stats

from pd_ddpm.diffusion.noise import MemberNoise, stream

NAMES = [(0, "Utrecht-3", 17, member) for member in range(4)]


def test_a_stream_is_its_name():
    assert np.array_equal(stream("train", 0, 5).random(8), stream("train", 0, 5).random(8))
    others = [("train", 0, 6), ("train", 1, 5), ("validate", 0, 5), ("train", 0, "5"), ("train", 0), ("train", 5, 0)]
    first = {stream(*name).random() for name in [("train", 0, 5), *others]}
    assert len(first) == 7


def test_streams_are_the_same_on_every_machine_and_in_every_process():
    """Python's own hash of a string is not; a change here changes every published sample."""
    assert stream(0, "Utrecht-3", 17, 2).integers(2**32, size=3).tolist() == [741695939, 2928957184, 3945573116]


kinds = pytest.mark.parametrize("draw", [MemberNoise.sample_normal, MemberNoise.sample_uniform])


@kinds
def test_each_row_is_its_members_own_whatever_stands_beside_it(draw):
    together = MemberNoise(NAMES)
    drawn = [draw(together, (1, 5, 6)) for _ in range(3)]
    for row, name in enumerate(NAMES):
        alone = MemberNoise([name])
        for noise in drawn:
            assert torch.equal(draw(alone, (1, 5, 6))[0], noise[row])
    backwards = MemberNoise(NAMES[::-1])
    assert torch.equal(draw(backwards, (1, 5, 6)), drawn[0].flip(0))


@kinds
@pytest.mark.parametrize("shape", [(1, 7, 9), (2, 3, 4, 5)])
def test_shape_and_type(draw, shape):
    noise = MemberNoise(NAMES)
    assert len(noise) == 4
    drawn = draw(noise, shape)
    assert drawn.shape == (4, *shape)
    assert drawn.dtype == torch.float32


@pytest.mark.parametrize(
    ("draw", "distribution"), [(MemberNoise.sample_normal, "norm"), (MemberNoise.sample_uniform, "uniform")]
)
def test_noise_has_its_distribution_and_is_independent(draw, distribution):
    noise = MemberNoise(NAMES)
    draws = torch.stack([draw(noise, (50_000,)) for _ in range(2)]).reshape(8, -1).numpy()
    for row in draws:
        assert stats.kstest(row, distribution).pvalue > 1e-4
    correlation = np.corrcoef(draws) - np.eye(8)
    assert np.abs(correlation).max() < 4.5 / np.sqrt(50_000)


def test_uniform_noise_lies_below_one_in_steps_of_24_bits():
    """Below 1 in float32, too, so that a mask that keeps u >= p drops with the probability p to 2^-24."""
    drawn = MemberNoise(NAMES).sample_uniform((50_000,))
    assert 0 <= drawn.min() < drawn.max() < 1
    assert torch.equal(drawn * 2**24, (drawn * 2**24).round())
