"""TDPM's model as denoiser and as generator (below 2 s)."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from pd_ddpm.diffusion.denoiser import Denoiser
from pd_ddpm.diffusion.mask_coding import CODINGS
from pd_ddpm.diffusion.noise import MemberNoise, stream
from pd_ddpm.diffusion.schedule import Schedule
from pd_ddpm.diffusion.truncated_denoiser import TruncatedDenoiser
from pd_ddpm.inference.factory import build_segmenter
from pd_ddpm.models.factory import build_model as build
from pd_ddpm.models.networks.discriminator import PatchDiscriminator

SCHEDULE = Schedule.cosine()
SETTINGS = {
    "architecture": "truncated_denoising_unet",
    "spatial_dims": 2,
    "channels": 8,
    "multipliers": [1, 2],
    "residual_blocks": 1,
    "attention_at": [2],
    "heads": 1,
    "skip": "average",
    "scale_shift": False,
    "dropout": 0.0,
    "schedule": "cosine",
    "T": 1000,
    "t_max": 300,
    "mask_coding": "binary",
    "predicts": "mask",
    "head": "mean_plus_noise",
    "discriminator_channels": 4,
}


class Linear(nn.Module):
    """Returns a * image + b * (last channel) + c * t, and keeps the timesteps."""

    divisor = 1

    def __init__(self, a=0.0, b=1.0, c=0.0):
        super().__init__()
        self.a, self.b, self.c = a, b, c

    def forward(self, x, t):
        self.t = t
        return self.a * x[:, :1] + self.b * x[:, -1:] + self.c * t.reshape(-1, *[1] * (x.ndim - 1))


def truncated(network, head, coding="signed", predicts="mask", t_max=300, schedule=SCHEDULE):
    return TruncatedDenoiser(
        network, schedule, CODINGS[coding], predicts, t_max=t_max, head=head, discriminator=nn.Conv2d(3, 1, 1)
    )


def noise_source(*samples):
    remaining = iter(samples)
    return lambda shape: next(remaining)


@pytest.mark.parametrize("predicts", ["noise", "mask"])
@pytest.mark.parametrize("size", [(6, 8), (2, 6, 8)])
def test_sample_prior_with_direct_head_is_network_output_at_next_timestep(predicts, size):
    image, z = torch.randn(3, 2, *size), torch.randn(3, 1, *size)
    network = Linear(a=0.5, b=-2.0, c=0.01)
    x = truncated(network, "direct", predicts=predicts).sample_prior(image, noise_source(z))
    assert network.t.tolist() == [301] * 3
    torch.testing.assert_close(x, 0.5 * image[:, :1] - 2 * z + 3.01)


@pytest.mark.parametrize("coding", CODINGS)
def test_sample_prior_with_mean_plus_noise_head_has_moments_of_diffused_mask(coding):
    """Over 40,000 samples of the second noise; the first noise determines the mask."""
    count = 40_000
    random = np.random.default_rng(0)
    z = torch.from_numpy(random.standard_normal((1, 1, 1, 3), dtype=np.float32)).expand(count, 1, 1, 3)
    fresh = torch.from_numpy(random.standard_normal((count, 1, 1, 3), dtype=np.float32))
    network = Linear(a=1.0, b=2.0)
    x = truncated(network, "mean_plus_noise", coding).sample_prior(torch.full((count, 2, 1, 3), 0.3), noise_source(z, fresh))
    assert network.t.tolist() == [301] * count
    signal = SCHEDULE.signal(300)
    low = CODINGS[coding].low
    mask = low + (1 - low) / (1 + torch.exp(-(0.3 + 2 * z[0])))
    torch.testing.assert_close(x.mean(dim=0), math.sqrt(signal) * mask, rtol=0, atol=5 * math.sqrt((1 - signal) / count))
    torch.testing.assert_close(x.var(dim=0), torch.full((1, 1, 3), 1 - signal), rtol=0.05, atol=0)


def test_truncated_denoiser_up_to_t_max_equals_denoiser():
    torch.manual_seed(0)
    extended = build(SETTINGS, 2)
    for parameter in extended.network.last.parameters():
        nn.init.normal_(parameter)
    plain = Denoiser(extended.network, extended.schedule, extended.coding, "mask")
    x, image, t = torch.randn(2, 1, 8, 8), torch.randn(2, 2, 8, 8), torch.tensor([1, 300])
    assert torch.equal(extended.output(x, image, t), plain.output(x, image, t))
    for time in t.tolist():
        assert torch.equal(extended(x, image, time), plain(x, image, time))
    assert extended.divisor == 2


def test_likelihood_skip_is_used_below_t_max_and_not_by_the_generator():
    """The generator's input is pure noise, from which no mask can be read."""
    torch.manual_seed(0)
    with_skip, without = build(SETTINGS | {"likelihood_skip": True}, 2), build(SETTINGS, 2)
    for parameter in with_skip.network.last.parameters():
        nn.init.normal_(parameter)
    without.load_state_dict(with_skip.state_dict())
    x, image, t = torch.randn(2, 1, 8, 8), torch.randn(2, 2, 8, 8), torch.tensor([1, 300])
    assert torch.equal(with_skip.output(x, image, t), without.output(x, image, t) + with_skip.log_likelihood_ratio(x, t))
    generated = [model.sample_prior(image, lambda shape: torch.ones(2, *shape)) for model in (with_skip, without)]
    assert torch.equal(*generated)


@pytest.mark.parametrize("t_max", [0, 1001])
def test_truncated_denoiser_rejects_t_max_outside_of_schedule(t_max):
    with pytest.raises(ValueError, match=f"`t_max` is {t_max}. It must be a timestep of the schedule, 1 to 1000"):
        truncated(Linear(), "direct", t_max=t_max)


def test_truncated_denoiser_rejects_unknown_head():
    with pytest.raises(ValueError, match=r"`head` is 'mean'\. It must be one of direct, mean_plus_noise"):
        truncated(Linear(), "mean")


@pytest.mark.parametrize("head", ["direct", "mean_plus_noise"])
def test_members_do_not_depend_on_batch_and_order(head):
    """A member's mask depends on its name only, through the whole method from noise to mask."""
    torch.manual_seed(0)
    model = build(SETTINGS | {"head": head}, 2).eval()
    for parameter in model.network.last.parameters():
        nn.init.normal_(parameter, std=0.3)
    method = {"segmenter": "diffusion", "start": "learned_prior", "t_start": 300, "reverse_steps": 10, "pool": 4}
    draw = build_segmenter(method | {"sampler": "ancestral", "variance": "large"}, model)
    assert draw.evaluations_per_member == 1 + 3
    image = torch.from_numpy(stream("image").standard_normal((4, 2, 8, 8), dtype=np.float32))
    names = [("case", 0, member) for member in range(4)]
    with torch.inference_mode():
        all_at_once = draw(image, None, MemberNoise(names))
        backwards = draw(image.flip(0), None, MemberNoise(names[::-1])).flip(0)
        alone = torch.cat([draw(image[n : n + 1], None, MemberNoise(names[n : n + 1])) for n in range(4)])
    torch.testing.assert_close(backwards, all_at_once, rtol=0, atol=1e-5)
    torch.testing.assert_close(alone, all_at_once, rtol=0, atol=1e-5)
    assert (all_at_once[0] - all_at_once[1]).abs().max() > 0.01


@pytest.mark.parametrize("size", [(64, 96), (128, 192), (20, 17)])
def test_discriminator_accepts_any_size(size):
    discriminator = PatchDiscriminator(spatial_dims=2, in_channels=3, channels=2)
    patches = discriminator(torch.zeros(2, 2, *size), torch.zeros(2, 1, *size))
    assert patches.shape == (2, 1, *(math.ceil(length / 16) for length in size))
    assert PatchDiscriminator(spatial_dims=3, in_channels=2, channels=2)(
        torch.zeros(1, 1, 16, 32, 16), torch.zeros(1, 1, 16, 32, 16)
    ).shape == (1, 1, 1, 2, 1)


def test_discriminator_has_receptive_field_of_63_voxels():
    torch.manual_seed(0)
    discriminator = PatchDiscriminator(spatial_dims=2, in_channels=3, channels=2).double()
    image = torch.randn(1, 2, 128, 128, dtype=torch.float64, requires_grad=True)
    x = torch.randn(1, 1, 128, 128, dtype=torch.float64, requires_grad=True)
    discriminator(image, x)[0, 0, 4, 4].backward()
    for gradient in (image.grad[0], x.grad[0]):
        rows, columns = gradient.abs().sum(dim=0).nonzero().T
        assert (rows.max() - rows.min() + 1, columns.max() - columns.min() + 1) == (63, 63)
