"""Noise of ensemble members (below 1 s)."""

import numpy as np
import pytest
import torch
from scipy import stats

from pd_ddpm.diffusion.noise import MemberNoise, MethodNoise, stream

NAMES = [(0, "Utrecht-3", 17, member) for member in range(4)]


def test_stream_depends_on_every_part_of_its_name():
    assert np.array_equal(stream("train", 0, 5).random(8), stream("train", 0, 5).random(8))
    others = [("train", 0, 6), ("train", 1, 5), ("validate", 0, 5), ("train", 0, "5"), ("train", 0), ("train", 5, 0)]
    first = {stream(*name).random() for name in [("train", 0, 5), *others]}
    assert len(first) == 7


def test_stream_is_equal_on_every_machine():
    """Unlike Python's hash of a string. A change here changes every published sample."""
    assert stream(0, "Utrecht-3", 17, 2).integers(2**32, size=3).tolist() == [741695939, 2928957184, 3945573116]


both_distributions = pytest.mark.parametrize("sample", [MemberNoise.sample_normal, MemberNoise.sample_uniform])


@both_distributions
def test_member_noise_row_does_not_depend_on_other_rows(sample):
    together = MemberNoise(NAMES)
    samples = [sample(together, (1, 5, 6)) for _ in range(3)]
    for row, name in enumerate(NAMES):
        alone = MemberNoise([name])
        for noise in samples:
            assert torch.equal(sample(alone, (1, 5, 6))[0], noise[row])
    backwards = MemberNoise(NAMES[::-1])
    assert torch.equal(sample(backwards, (1, 5, 6)), samples[0].flip(0))


@both_distributions
@pytest.mark.parametrize("shape", [(1, 7, 9), (2, 3, 4, 5)])
def test_member_noise_has_shape_and_dtype(sample, shape):
    noise = MemberNoise(NAMES)
    assert len(noise) == 4
    samples = sample(noise, shape)
    assert samples.shape == (4, *shape)
    assert samples.dtype == torch.float32


@pytest.mark.parametrize(
    ("sample", "distribution"), [(MemberNoise.sample_normal, "norm"), (MemberNoise.sample_uniform, "uniform")]
)
def test_member_noise_has_its_distribution_and_is_independent(sample, distribution):
    noise = MemberNoise(NAMES)
    samples = torch.stack([sample(noise, (50_000,)) for _ in range(2)]).reshape(8, -1).numpy()
    for row in samples:
        assert stats.kstest(row, distribution).pvalue > 1e-4
    correlation = np.corrcoef(samples) - np.eye(8)
    assert np.abs(correlation).max() < 4.5 / np.sqrt(50_000)


def test_sample_uniform_is_below_one_in_steps_of_24_bits():
    """They stay below 1 in float32, so a mask that keeps u >= p drops with probability p, exact to 2^-24."""
    samples = MemberNoise(NAMES).sample_uniform((50_000,))
    assert 0 <= samples.min() < samples.max() < 1
    assert torch.equal(samples * 2**24, (samples * 2**24).round())


def test_method_noise_names_streams_with_method_seed_case_slice_and_member():
    noise = MethodNoise("ddpm", 3).for_members("Utrecht-3", [(17, 2), (18, 0)])
    expected = MemberNoise([("ddpm", 3, "Utrecht-3", 17, 2), ("ddpm", 3, "Utrecht-3", 18, 0)])
    assert torch.equal(noise.sample_normal((5,)), expected.sample_normal((5,)))


def test_method_noise_of_two_methods_is_independent():
    """The latent vector of one method must not reappear as the first pixels of another one's start."""
    members = [(z, member) for z in range(4) for member in range(5)]
    methods = [MethodNoise(method, 0) for method in ("probabilistic-unet", "es-ddpm", "pd-ddpm", "ddpm")]
    samples = [noise.for_members("case", members).sample_normal((50, 50)).flatten().numpy() for noise in methods]
    assert np.abs(np.corrcoef(samples) - np.eye(4)).max() < 4.5 / np.sqrt(len(samples[0]))
