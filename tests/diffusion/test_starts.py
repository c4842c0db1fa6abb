"""Starts of the reverse chain (below 1 s)."""

import math

import pytest
import torch

from pd_ddpm.diffusion.mask_coding import CODINGS
from pd_ddpm.diffusion.noise import MemberNoise
from pd_ddpm.diffusion.schedule import Schedule
from pd_ddpm.diffusion.starts import LearnedPriorStart, NoiseStart, PresegmentationStart

SCHEDULE = Schedule.cosine()
NAMES = [(0, "case", 3, member) for member in range(3)]
IMAGE = torch.zeros(3, 2, 6, 8)
MASK = (torch.arange(3 * 6 * 8).reshape(3, 1, 6, 8) % 5 == 0).float()


def test_noise_start_is_members_noise():
    x = NoiseStart(1000)(IMAGE, MASK, MemberNoise(NAMES))
    assert torch.equal(x, MemberNoise(NAMES).sample_normal((1, 6, 8)))


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("t_start", [1, 300, 1000])
@pytest.mark.parametrize("size", [(6, 8), (2, 3, 8)])
def test_presegmentation_start_is_mask_diffused_to_t_start(coding, t_start, size):
    """The mask is diffused to exactly T', in the coding of the training, with separate noise for each member."""
    mask = MASK.reshape(3, 1, *size)
    x = PresegmentationStart(t_start, SCHEDULE, CODINGS[coding])(torch.zeros(3, 2, *size), mask, MemberNoise(NAMES))
    noise = MemberNoise(NAMES).sample_normal((1, *size))
    signal = SCHEDULE.signal(t_start)
    low = CODINGS[coding].low
    expected = math.sqrt(signal) * (low + (1 - low) * mask) + math.sqrt(1 - signal) * noise
    torch.testing.assert_close(x, expected, rtol=0, atol=1e-6)
    assert not torch.equal(noise[0], noise[1])


def test_presegmentation_start_is_linear_in_probability():
    start = PresegmentationStart(300, SCHEDULE, CODINGS["signed"])
    background, half, lesion = (start(IMAGE, torch.full((3, 1, 6, 8), p), MemberNoise(NAMES)) for p in (0.0, 0.5, 1.0))
    torch.testing.assert_close(half, (background + lesion) / 2)


def test_presegmentation_start_at_T_equals_noise_start():
    start = PresegmentationStart(1000, SCHEDULE, CODINGS["signed"])
    difference = start(IMAGE, MASK, MemberNoise(NAMES)) - NoiseStart(1000)(IMAGE, None, MemberNoise(NAMES))
    assert difference.abs().max() < 5e-5


def test_presegmentation_start_rejects_missing_presegmentation():
    with pytest.raises(ValueError, match="`presegmentation` is None"):
        PresegmentationStart(300, SCHEDULE, CODINGS["signed"])(IMAGE, None, MemberNoise(NAMES))


class Prior(torch.nn.Module):
    """Combines the image and two noise samples with different weights, so that their order shows."""

    t_max = 300

    def sample_prior(self, image, sample_normal):
        return 100 * image[:, :1] + 10 * sample_normal((1, 6, 8)) + sample_normal((1, 6, 8))


def test_learned_prior_start_uses_members_noise_in_order():
    image = torch.arange(3.0).reshape(3, 1, 1, 1).expand(3, 2, 6, 8)
    start, noise = LearnedPriorStart(300, Prior()), MemberNoise(NAMES)
    x = start(image, None, noise)
    reference = MemberNoise(NAMES)
    expected = 100 * image[:, :1] + 10 * reference.sample_normal((1, 6, 8)) + reference.sample_normal((1, 6, 8))
    torch.testing.assert_close(x, expected, rtol=0, atol=1e-5)
    assert torch.equal(noise.sample_normal((1, 6, 8)), reference.sample_normal((1, 6, 8)))
    assert start.evaluations == 1


def test_learned_prior_start_rejects_other_t_start():
    with pytest.raises(ValueError, match=r"`t_start` \(250\), but the network generates x at `t_max` \(300\)"):
        LearnedPriorStart(250, Prior())
