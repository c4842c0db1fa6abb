"""Mask coding (below 1 s)."""

import pytest
import torch

from pd_ddpm.diffusion.mask_coding import CODINGS


@pytest.mark.parametrize(("name", "low", "high"), [("signed", -1, 1), ("binary", 0, 1)])
def test_encode_and_decode_are_inverse(name, low, high):
    coding = CODINGS[name]
    assert coding.encode(torch.tensor([0.0, 1.0])).tolist() == [low, high]
    probability = torch.linspace(0, 1, 101, dtype=torch.float64)
    torch.testing.assert_close(coding.decode(coding.encode(probability)), probability, rtol=0, atol=1e-15)
    torch.testing.assert_close(coding.encode(probability), low + (high - low) * probability)


@pytest.mark.parametrize("name", CODINGS)
def test_clip_and_decode_limit_values(name):
    coding = CODINGS[name]
    far = torch.tensor([-50.0, 50.0])
    assert coding.clip_(far.clone()).tolist() == [coding.low, coding.high]
    assert coding.decode(far).tolist() == [0, 1]
    within = torch.tensor([coding.low, 0.3, coding.high])
    assert torch.equal(coding.clip_(within.clone()), within)
