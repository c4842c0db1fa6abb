"""Segmenters: image to probability maps (about 4 s, mostly imports)."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from torch import nn

from pd_ddpm.diffusion.denoiser import Denoiser
from pd_ddpm.diffusion.mask_coding import CODINGS
from pd_ddpm.diffusion.noise import MemberNoise
from pd_ddpm.diffusion.samplers import ancestral
from pd_ddpm.diffusion.schedule import Schedule
from pd_ddpm.diffusion.starts import NoiseStart, PresegmentationStart
from pd_ddpm.inference.factory import build_segmenter
from pd_ddpm.inference.segmenters import DeterministicSegmenter, DiffusionSegmenter, DropoutSegmenter, LatentSegmenter
from pd_ddpm.models.networks.denoising_unet import DenoisingUNet, DenoisingUNetSettings
from pd_ddpm.models.networks.probabilistic_unet import ProbabilisticUNet
from pd_ddpm.models.networks.supervised import unet

SCHEDULE = Schedule.cosine()
METHOD = {
    "segmenter": "diffusion",
    "pool": 3,
    "sampler": "ancestral",
    "variance": "large",
    "eta": 0.0,
    "reverse_steps": 1000,
}
NAMES = [(0, "case", 5, member) for member in range(4)]


class Oracle(nn.Module):
    """A network that reads the mask from the second image channel and returns the noise or logit that corresponds to it."""

    divisor = 4

    def __init__(self, predicts, coding):
        super().__init__()
        self.predicts, self.coding, self.times = predicts, CODINGS[coding], []

    def forward(self, x, t):
        mask, x_t = x[:, 1:2], x[:, 2:]
        self.times.append(t.tolist())
        if self.predicts == "mask":
            return 400 * mask - 200
        signal = SCHEDULE.alpha_bar[t].reshape(-1, *[1] * (x.ndim - 1))
        return ((x_t.double() - signal.sqrt() * self.coding.encode(mask)) / (1 - signal).sqrt()).float()


class Pointwise(nn.Module):
    """A smooth function of image, noisy mask and time at each pixel."""

    divisor = 1

    def forward(self, x, t):
        time = t.reshape(-1, *[1] * (x.ndim - 1)) / 1000
        return torch.tanh(0.8 * x[:, -1:] * (0.5 + time) - 0.3 * x[:, :1])


def normal(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape, dtype=np.float32))


def tiny_network(seed=0):
    torch.manual_seed(seed)
    settings = DenoisingUNetSettings(
        spatial_dims=2, in_channels=3, out_channels=1, channels=8, multipliers=(1, 2), residual_blocks=1, attention_at=[2]
    )
    network = DenoisingUNet(settings)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3)
    return network.eval()


@pytest.mark.parametrize("size", [(8, 12), (4, 8, 12)])
@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("predicts", ["noise", "mask"])
@pytest.mark.parametrize("sampler", ["ancestral", "ddim"])
@pytest.mark.parametrize(("start", "t_start"), [("noise", 1000), ("presegmentation", 1), ("presegmentation", 300)])
def test_diffusion_segmenter_with_an_oracle_returns_the_mask(size, coding, predicts, sampler, start, t_start):
    """Also if the pre-segmentation is wrong everywhere."""
    mask = (normal(4, 1, *size) > 0.5).float()
    image = torch.cat([normal(4, 1, *size, seed=1), mask], dim=1)
    settings = METHOD | {"sampler": sampler, "start": start, "t_start": t_start, "reverse_steps": 50}
    segmenter = build_segmenter(settings, Denoiser(Oracle(predicts, coding), SCHEDULE, CODINGS[coding], predicts))
    probability = segmenter(image, 1 - mask, MemberNoise(NAMES))
    assert probability.shape == (4, 1, *size)
    # At timestep 1 the oracle's float32 noise leaves a rounding error; other timesteps leave none.
    torch.testing.assert_close(probability, mask, rtol=0, atol=0 if predicts == "mask" else 1e-5)


@pytest.mark.parametrize(("start", "t_start"), [("noise", 1000), ("presegmentation", 300), ("presegmentation", 1)])
def test_pd_ddpm_evaluates_the_network_t_start_times(start, t_start):
    """Timesteps are T', T' - 1, ..., 1 (PD-DDPM Eq. 4), and the reported evaluations equal the real ones."""
    network = Oracle("mask", "signed")
    segmenter = build_segmenter(
        METHOD | {"start": start, "t_start": t_start}, Denoiser(network, SCHEDULE, CODINGS["signed"], "mask")
    )
    segmenter(normal(3, 2, 4, 4), torch.zeros(3, 1, 4, 4), MemberNoise(NAMES[:3]))
    assert network.times == [[t] * 3 for t in range(t_start, 0, -1)]
    assert segmenter.num_members == 3
    assert segmenter.evaluations_shared + segmenter.num_members * segmenter.evaluations_per_member == sum(
        map(len, network.times)
    )
    assert segmenter.divisor == 4


@pytest.mark.parametrize(("t_start", "reverse_steps", "steps"), [(1000, 10, 10), (300, 10, 3), (300, 1000, 300), (50, 10, 1)])
def test_respaced_chain_keeps_its_fraction_of_the_steps(t_start, reverse_steps, steps):
    settings = METHOD | {"start": "presegmentation", "t_start": t_start, "reverse_steps": reverse_steps}
    segmenter = build_segmenter(settings, Denoiser(Pointwise(), SCHEDULE, CODINGS["signed"], "mask"))
    assert segmenter.steps == steps
    assert segmenter.evaluations_per_member == steps


class Conditioned(nn.Module):
    """A smooth function of image, noisy mask, previous estimate and time at each pixel; it keeps the times and inputs."""

    divisor = 1

    def __init__(self):
        super().__init__()
        self.times, self.inputs = [], []

    def forward(self, x, t):
        self.times.append(int(t[0]))
        self.inputs.append(x)
        return 3 * torch.tanh(x.sum(dim=1, keepdim=True)) - t.reshape(-1, 1, 1, 1) / 1000


@pytest.mark.parametrize("self_conditioned", [False, True])
@pytest.mark.parametrize("sampler", ["ancestral", "ddim"])
def test_chain_that_stops_early_returns_the_estimate_of_that_step_of_the_whole_chain(sampler, self_conditioned):
    model = Denoiser(Conditioned(), SCHEDULE, CODINGS["signed"], "mask", self_conditioned=self_conditioned)
    chain = {"start": "noise", "t_start": 1000, "reverse_steps": 5, "variance": "small", "step_spacing": "linspace"}
    settings = METHOD | chain | {"sampler": sampler}
    image, estimates = torch.linspace(-1, 1, 96).reshape(2, 1, 6, 8), []
    handle = model.register_forward_hook(lambda _, __, x0: estimates.append((x0 + 1) / 2))
    whole = build_segmenter(settings, model)
    with torch.no_grad():
        result = whole(image, None, MemberNoise(NAMES[:2]))
    handle.remove()
    assert model.network.times == [1000, 750, 501, 251, 1]
    torch.testing.assert_close(result, estimates[-1])
    for steps in range(1, 6):
        stopped = build_segmenter(settings | {"stop_after": steps}, model)
        assert stopped.evaluations_per_member == steps
        with torch.no_grad():
            torch.testing.assert_close(stopped(image, None, MemberNoise(NAMES[:2])), estimates[steps - 1], rtol=0, atol=1e-6)


@pytest.mark.parametrize(("coding", "empty"), [("signed", 0.0), ("binary", 0.5)])
def test_chain_from_a_pre_segmentation_shows_no_estimate_in_its_first_step(coding, empty):
    """The pre-segmentation is in x_T' only."""
    model = Denoiser(Conditioned(), SCHEDULE, CODINGS[coding], "mask", self_conditioned=True)
    chain = {"start": "presegmentation", "t_start": 300, "reverse_steps": 10, "variance": "small"}
    image, mask = torch.linspace(-1, 1, 96).reshape(2, 1, 6, 8), torch.ones(2, 1, 6, 8)
    with torch.no_grad():
        build_segmenter(METHOD | chain, model)(image, mask, MemberNoise(NAMES[:2]))
    first, second, _ = model.network.inputs
    assert (first[:, 2:] == empty).all()
    estimate = model.expected_mask(3 * torch.tanh(first.sum(dim=1, keepdim=True)) - 0.3)
    torch.testing.assert_close(second[:, 2:], estimate)


@pytest.mark.parametrize("predicts", ["noise", "mask"])
@pytest.mark.parametrize("sampler", ["ancestral", "ddim"])
@pytest.mark.parametrize("presegmented", [True, False])
def test_diffusion_members_are_independent(predicts, sampler, presegmented):
    """A member is the same to the last bit alone, in another order and with other members."""
    settings = METHOD | {"sampler": sampler, "eta": 0.5, "reverse_steps": 100}
    settings |= {"start": "presegmentation", "t_start": 500} if presegmented else {"start": "noise", "t_start": 1000}
    segmenter = build_segmenter(settings, Denoiser(Pointwise(), SCHEDULE, CODINGS["signed"], predicts))
    images, before = normal(4, 2, 8, 12), (normal(4, 1, 8, 12, seed=1) > 0).float()
    together = segmenter(images, before, MemberNoise(NAMES))
    backwards = segmenter(images.flip(0), before.flip(0), MemberNoise(NAMES[::-1])).flip(0)
    alone = torch.cat([segmenter(images[n : n + 1], before[n : n + 1], MemberNoise(NAMES[n : n + 1])) for n in range(4)])
    assert torch.equal(together, backwards)
    assert torch.equal(together, alone)


@pytest.mark.parametrize("predicts", ["noise", "mask"])
def test_diffusion_members_of_a_real_network_are_independent(predicts):
    """Equal up to the rounding of convolutions, whose order of summation depends on the batch size."""
    settings = METHOD | {"start": "presegmentation", "t_start": 300, "reverse_steps": 50}
    segmenter = build_segmenter(settings, Denoiser(tiny_network(), SCHEDULE, CODINGS["signed"], predicts))
    images, before = normal(4, 2, 16, 16), (normal(4, 1, 16, 16, seed=1) > 0).float()
    with torch.inference_mode():
        together = segmenter(images, before, MemberNoise(NAMES))
        again = segmenter(images, before, MemberNoise(NAMES))
        alone = torch.cat([segmenter(images[n : n + 1], before[n : n + 1], MemberNoise(NAMES[n : n + 1])) for n in range(4)])
    assert torch.equal(together, again)
    assert together.std() > 0.01
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-4)


@pytest.mark.parametrize("variance", ["large", "small"])
@pytest.mark.parametrize("t_start", [1000, 300])
def test_whole_chain_equals_diffusers(variance, t_start):
    """Same network, clipping and noise, over all steps from T' to 0."""
    theirs = DDPMScheduler(
        1000, beta_schedule="squaredcos_cap_v2", variance_type=f"fixed_{variance}", clip_sample=True, clip_sample_range=1.0
    )
    network, image, start = Pointwise(), normal(1, 2, 6, 8), normal(1, 1, 6, 8, seed=1)

    class SharedNoise(MemberNoise):
        generator = torch.Generator().manual_seed(0)

        def sample_normal(self, shape, device="cpu"):
            return torch.randn((1, *shape), generator=self.generator)

    model = Denoiser(network, SCHEDULE, CODINGS["signed"], "noise")
    sampler = partial(ancestral, schedule=SCHEDULE, variance=variance)
    segmenter = DiffusionSegmenter(model, lambda *_: start, sampler, t_start, 1)
    segmenter.start.t_start = t_start
    x, generator = start, torch.Generator().manual_seed(0)
    for t in range(t_start, 0, -1):
        predicted = network(torch.cat([image, x], dim=1), torch.tensor([t]))
        x = theirs.step(predicted, t - 1, x, generator=generator).prev_sample
    actual = segmenter(image, None, SharedNoise(NAMES[:1]))
    torch.testing.assert_close(actual, ((x + 1) / 2).clamp(0, 1), rtol=0, atol=2e-3)


def test_build_segmenter_uses_the_start_of_the_settings():
    model = Denoiser(Pointwise(), SCHEDULE, CODINGS["binary"], "noise")
    assert build_segmenter(METHOD | {"start": "noise", "t_start": 1000}, model).start == NoiseStart(1000)
    start = build_segmenter(METHOD | {"start": "presegmentation", "t_start": 300}, model).start
    assert start == PresegmentationStart(300, SCHEDULE, CODINGS["binary"])


def test_deterministic_segmenter_has_one_member():
    class Logits(nn.Module):
        divisor = 16

        def forward(self, image):
            return image[:, :1]

    segmenter = build_segmenter({"segmenter": "deterministic"}, Logits())
    assert isinstance(segmenter, DeterministicSegmenter)
    assert (segmenter.num_members, segmenter.evaluations_shared, segmenter.evaluations_per_member, segmenter.divisor) == (
        1,
        0,
        1,
        16,
    )
    image = normal(2, 2, 16, 16)
    expected = 1 / (1 + np.exp(-image[:, :1].numpy().astype(np.float64)))
    np.testing.assert_allclose(segmenter(image, None, MemberNoise(NAMES[:2])).numpy(), expected, atol=1e-6)
    assert math.isclose(segmenter(torch.zeros(1, 2, 16, 16), None, MemberNoise(NAMES[:1])).mean(), 0.5)


def bayesian(dropout=0.5):
    torch.manual_seed(0)
    network = unet(spatial_dims=2, in_channels=2, channels=(8, 8, 12, 16, 16), dropout=dropout)
    network(normal(4, 2, 32, 48, seed=5))  # fills the statistics of the batch normalisations
    return network.eval()


def probabilistic():
    torch.manual_seed(0)
    network = ProbabilisticUNet(spatial_dims=2, in_channels=2, channels=(8, 12), latent=3).eval()
    with torch.no_grad():
        network.combination[0].weight[:, 8:] *= 20  # an untrained network hardly depends on z
    return network


STOCHASTIC = {"dropout": (DropoutSegmenter, bayesian), "latent": (LatentSegmenter, probabilistic)}
both = pytest.mark.parametrize("name", STOCHASTIC)


def stochastic_segmenter(name):
    return build_segmenter({"segmenter": name, "pool": 4}, STOCHASTIC[name][1]())


@both
def test_stochastic_members_differ_and_are_reproducible(name):
    segmenter = stochastic_segmenter(name)
    assert isinstance(segmenter, STOCHASTIC[name][0])
    assert (segmenter.num_members, segmenter.divisor) == (4, segmenter.network.divisor)
    assert (segmenter.evaluations_shared, segmenter.evaluations_per_member) == {"dropout": (0, 1), "latent": (1, 0)}[name]
    image = normal(1, 2, 32, 48).expand(4, -1, -1, -1)
    with torch.inference_mode():
        members, again = (segmenter(image, None, MemberNoise(NAMES)) for _ in range(2))
    assert members.shape == (4, 1, 32, 48)
    assert members.dtype == torch.float32
    assert 0 <= members.min() < members.max() <= 1
    assert torch.equal(members, again)
    for a in range(4):
        for b in range(a):
            assert (members[a] - members[b]).abs().max() > 0.01


@both
def test_stochastic_members_are_independent(name):
    """A member is the same alone, in another order and with other slices, up to the rounding of convolutions."""
    segmenter, images = stochastic_segmenter(name), normal(4, 2, 32, 48)
    with torch.inference_mode():
        together = segmenter(images, None, MemberNoise(NAMES))
        backwards = segmenter(images.flip(0), None, MemberNoise(NAMES[::-1])).flip(0)
        alone = torch.cat([segmenter(images[n : n + 1], None, MemberNoise(NAMES[n : n + 1])) for n in range(4)])
        pair = segmenter(images[[1, 3]], None, MemberNoise([NAMES[1], NAMES[3]]))
    torch.testing.assert_close(together, backwards, rtol=0, atol=1e-5)
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)
    torch.testing.assert_close(together[[1, 3]], pair, rtol=0, atol=1e-5)


@both
def test_sampling_changes_neither_network_nor_global_generator(name):
    segmenter, image = stochastic_segmenter(name), normal(4, 2, 32, 48)
    before = {key: tensor.clone() for key, tensor in segmenter.network.state_dict().items()}
    state = torch.get_rng_state()
    segmenter(image, None, MemberNoise(NAMES))
    assert torch.equal(torch.get_rng_state(), state)
    for key, tensor in segmenter.network.state_dict().items():
        assert torch.equal(tensor, before[key]), key
    assert not segmenter.network.training


@both
def test_stochastic_members_under_autocast_are_close_to_float32(name):
    segmenter, image = stochastic_segmenter(name), normal(4, 2, 32, 48)
    with torch.inference_mode():
        expected = segmenter(image, None, MemberNoise(NAMES))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            members = segmenter(image, None, MemberNoise(NAMES))
    assert members.dtype == torch.float32
    assert (members - expected).abs().mean() < 0.05 * expected.std()


def test_bayesian_u_net_outside_sampling_has_no_dropout():
    segmenter, plain, image = stochastic_segmenter("dropout"), bayesian(dropout=0.0), normal(4, 2, 32, 48)
    plain.load_state_dict(segmenter.network.state_dict())
    segmenter(image, None, MemberNoise(NAMES))
    assert torch.equal(segmenter.network(image), plain(image))
    with pytest.raises(ValueError, match="no dropout"):
        DropoutSegmenter(plain, 4)(image, None, MemberNoise(NAMES))


def test_latent_member_uses_its_own_noise():
    segmenter, image = stochastic_segmenter("latent"), normal(4, 2, 32, 48)
    expected = segmenter.network(image, MemberNoise(NAMES).sample_normal((3,))).sigmoid()
    assert torch.equal(segmenter(image, None, MemberNoise(NAMES)), expected)


@both
def test_reported_evaluations_equal_those_of_the_network(name):
    """Counted at the first convolution: once per slice, or once per member."""
    segmenter, image, rows = stochastic_segmenter(name), normal(2, 2, 32, 48).repeat_interleave(4, dim=0), []
    first = next(module for module in segmenter.network.modules() if isinstance(module, nn.Conv2d))
    first.register_forward_pre_hook(lambda _, inputs: rows.append(len(inputs[0])))
    segmenter(image, None, MemberNoise([*NAMES, *[(0, "case", 6, member) for member in range(4)]]))
    assert sum(rows) == 2 * (segmenter.evaluations_shared + 4 * segmenter.evaluations_per_member)
