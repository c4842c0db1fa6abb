"""The forward process against the published formulae, Bayes' rule and diffusers (about 5 s, most of it imports)."""

import math

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler

from pd_ddpm.diffusion.mask_coding import CODINGS
from pd_ddpm.diffusion.schedule import SCHEDULES, Schedule

SCHEDULE_NAMES = ("cosine", "linear")  # linear_unscaled equals linear with T = 1000
JUMPS = [(1, 0), (2, 1), (2, 0), (300, 299), (300, 270), (300, 0), (600, 123), (999, 998), (1000, 999), (1000, 1), (1000, 0)]


@pytest.mark.parametrize(
    ("name", "T"),
    [
        *((name, T) for name in SCHEDULE_NAMES for T in (4, 50, 250, 1000, 4000)),
        *(("linear_unscaled", T) for T in (1000, 1001)),
    ],
)
def test_schedule_falls_from_clean_mask_to_noise(name, T):
    schedule = SCHEDULES[name](T)
    assert schedule.T == T
    assert schedule.alpha_bar.shape == (T + 1,)
    assert schedule.alpha_bar.dtype == torch.float64
    assert schedule.signal(0) == 1
    assert (schedule.alpha_bar.diff() < 0).all()
    assert 0 < schedule.signal(T) < 1e-3
    beta = np.array([schedule.jump_variance(t, t - 1) for t in range(1, T + 1)])
    assert (beta > 0).all()
    assert (beta < 1).all()
    np.testing.assert_allclose(np.cumprod(1 - beta), schedule.alpha_bar[1:].numpy(), rtol=1e-12)


@pytest.mark.parametrize("T", [50, 1000])
def test_cosine_equals_equation_17_of_nichol_and_dhariwal(T):
    schedule = Schedule.cosine(T)

    def f(t):
        return math.cos((t / T + 0.008) / 1.008 * math.pi / 2) ** 2

    for t in range(T):  # only the last step is clipped
        assert schedule.signal(t) == pytest.approx(f(t) / f(0), rel=1e-9)
    assert schedule.signal(T) == pytest.approx(f(T - 1) / f(0) * 0.001, rel=1e-9)


@pytest.mark.parametrize(("t", "expected"), [(1, 0.999958), (300, 0.786911), (500, 0.493844), (999, 2.428767e-06)])
def test_cosine_equals_values_computed_by_hand(t, expected):
    assert Schedule.cosine().signal(t) == pytest.approx(expected, rel=1e-5)


def test_linear_equals_section_4_of_ho_et_al():
    schedule = Schedule.linear()
    log_signal = 0.0
    for t in range(1, 1001):
        log_signal += math.log1p(-(1e-4 + (0.02 - 1e-4) * (t - 1) / 999))
        assert schedule.signal(t) == pytest.approx(math.exp(log_signal), rel=1e-11)
    assert schedule.signal(1000) == pytest.approx(4.0358e-5, rel=1e-4)


@pytest.mark.parametrize(
    ("name", "theirs"), [("cosine", "squaredcos_cap_v2"), ("linear", "linear"), ("linear_unscaled", "linear")]
)
def test_schedule_equals_that_of_diffusers(name, theirs):
    """Index t - 1 in diffusers is our timestep t; diffusers multiplies in float32."""
    reference = DDPMScheduler(num_train_timesteps=1000, beta_schedule=theirs, beta_start=1e-4, beta_end=0.02)
    torch.testing.assert_close(SCHEDULES[name](1000).alpha_bar[1:].float(), reference.alphas_cumprod, rtol=2e-4, atol=1e-10)


@pytest.mark.parametrize("name", SCHEDULE_NAMES)
@pytest.mark.parametrize(("t", "s"), JUMPS)
def test_posterior_equals_bayes_rule(name, t, s):
    """q(x_s | x_t, x_0) from the product of two Gaussian densities of x_s: its prior q(x_s | x_0) and q(x_t | x_s)."""
    schedule = SCHEDULES[name](1000)
    of_x0, of_x_t, variance = schedule.posterior(t, s)
    if s == 0:
        assert (of_x0, of_x_t, variance) == (1, 0, 0)
        return
    kept, prior, jump = schedule.signal(t) / schedule.signal(s), 1 - schedule.signal(s), schedule.jump_variance(t, s)
    expected = 1 / (1 / prior + kept / jump)
    assert variance == pytest.approx(expected, rel=1e-9)
    assert of_x0 == pytest.approx(expected * math.sqrt(schedule.signal(s)) / prior, rel=1e-9)
    assert of_x_t == pytest.approx(expected * math.sqrt(kept) / jump, rel=1e-9)


def test_posterior_equals_bayes_rule_on_a_grid():
    """Multiply and normalise the densities numerically, without algebra."""
    schedule, t, s, x0, x_t = Schedule.cosine(), 600, 123, 0.7, -0.4
    x_s = np.linspace(-4, 4, 200_001)
    kept = schedule.signal(t) / schedule.signal(s)
    exponent = (x_s - math.sqrt(schedule.signal(s)) * x0) ** 2 / (1 - schedule.signal(s))
    exponent = exponent + (x_t - math.sqrt(kept) * x_s) ** 2 / (1 - kept)
    weight = np.exp(-exponent / 2)
    weight /= weight.sum()
    of_x0, of_x_t, variance = schedule.posterior(t, s)
    assert of_x0 * x0 + of_x_t * x_t == pytest.approx((weight * x_s).sum(), abs=1e-6)
    assert variance == pytest.approx((weight * (x_s - (weight * x_s).sum()) ** 2).sum(), rel=1e-6)


@pytest.mark.parametrize("name", SCHEDULE_NAMES)
def test_posterior_of_single_steps_equals_ho_et_al(name):
    """Ho et al. 2020, Eqs. 6 and 7, for all 1,000 steps."""
    schedule = SCHEDULES[name](1000)
    signal = schedule.alpha_bar.numpy()
    before, after = signal[:-1], signal[1:]
    beta = 1 - after / before
    expected = np.stack(
        [
            np.sqrt(before) * beta / (1 - after),
            np.sqrt(1 - beta) * (1 - before) / (1 - after),
            beta * (1 - before) / (1 - after),
        ],
        axis=1,
    )
    actual = np.array([schedule.posterior(t, t - 1) for t in range(1, 1001)])
    np.testing.assert_allclose(actual, expected, rtol=1e-10, atol=0)


@pytest.mark.parametrize("name", SCHEDULE_NAMES)
@pytest.mark.parametrize(("t", "s", "r"), [(2, 1, 0), (300, 299, 298), (600, 123, 50), (1000, 999, 500), (1000, 400, 0)])
def test_two_short_jumps_equal_one_long_jump(name, t, s, r):
    schedule = SCHEDULES[name](1000)
    # Forward: x_t from x_s from x_r.
    kept = schedule.signal(t) / schedule.signal(s)
    forward = kept * schedule.jump_variance(s, r) + schedule.jump_variance(t, s)
    assert schedule.jump_variance(t, r) == pytest.approx(forward, rel=1e-12)
    # Reverse, with x_0 known: x_r from x_s from x_t.
    first, second, whole = schedule.posterior(t, s), schedule.posterior(s, r), schedule.posterior(t, r)
    composed = second[0] + second[1] * first[0], second[1] * first[1], second[1] ** 2 * first[2] + second[2]
    assert composed == pytest.approx(whole, rel=1e-9, abs=1e-15)


@pytest.mark.parametrize("name", SCHEDULE_NAMES)
@pytest.mark.parametrize(("t", "s"), JUMPS)
def test_posterior_keeps_the_marginal(name, t, s):
    """x_t drawn from q(x_t | x_0) and x_s from the posterior: x_s is distributed as q(x_s | x_0)."""
    schedule = SCHEDULES[name](1000)
    of_x0, of_x_t, variance = schedule.posterior(t, s)
    assert of_x0 + of_x_t * math.sqrt(schedule.signal(t)) == pytest.approx(math.sqrt(schedule.signal(s)), rel=1e-9)
    assert of_x_t**2 * (1 - schedule.signal(t)) + variance == pytest.approx(1 - schedule.signal(s), rel=1e-9, abs=1e-15)


@pytest.mark.parametrize("shape", [(4, 1, 6, 5), (4, 2, 3, 4, 5)])
def test_diffuse_equals_closed_form_with_own_timestep_per_row(shape):
    random = np.random.default_rng(0)
    x0, noise = (torch.from_numpy(random.standard_normal(shape, dtype=np.float32)) for _ in range(2))
    schedule, times = Schedule.cosine(), [0, 1, 300, 1000]
    x_t = schedule.diffuse(x0, torch.tensor(times), noise)
    assert x_t.dtype == torch.float32
    assert torch.equal(x_t[0], x0[0])
    for n, t in enumerate(times):
        expected = math.sqrt(schedule.signal(t)) * x0[n].double() + math.sqrt(1 - schedule.signal(t)) * noise[n].double()
        torch.testing.assert_close(x_t[n].double(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("t", [1, 300, 700, 1000])
def test_diffuse_has_moments_of_closed_form(t):
    count, schedule = 200_000, Schedule.cosine()
    noise = torch.from_numpy(np.random.default_rng(t).standard_normal((1, 1, count), dtype=np.float32))
    x_t = schedule.diffuse(torch.full((1, 1, count), 0.6), torch.tensor([t]), noise).double()
    variance = 1 - schedule.signal(t)
    assert x_t.mean().item() == pytest.approx(0.6 * math.sqrt(schedule.signal(t)), abs=4.5 * math.sqrt(variance / count))
    assert x_t.var().item() == pytest.approx(variance, rel=4.5 * math.sqrt(2 / count))


def test_diffuse_has_moments_of_step_by_step_noising():
    """x_t = sqrt(1 - beta_t) x_(t-1) + sqrt(beta_t) noise, T' = 50 times."""
    schedule, count = Schedule.cosine(), 100_000
    random = np.random.default_rng(0)
    x = np.full(count, -1.0)
    for t in range(1, 51):
        beta = schedule.jump_variance(t, t - 1)
        x = math.sqrt(1 - beta) * x + math.sqrt(beta) * random.standard_normal(count)
    variance = 1 - schedule.signal(50)
    assert x.mean() == pytest.approx(-math.sqrt(schedule.signal(50)), abs=4.5 * math.sqrt(variance / count))
    assert x.var() == pytest.approx(variance, rel=4.5 * math.sqrt(2 / count))


def test_binary_masks_at_300_are_as_noisy_as_signed_masks_at_509():
    """Distance of the two values over the standard deviation: 1.92 for {0, 1} and 3.84 for {-1, 1} at T' = 300."""
    schedule = Schedule.cosine()

    def separation(name, t):
        ends = CODINGS[name].encode(torch.tensor([0.0, 1.0]))
        return (ends[1] - ends[0]).item() * math.sqrt(schedule.signal(t) / (1 - schedule.signal(t)))

    assert separation("binary", 300) == pytest.approx(1.92, abs=0.005)
    assert separation("signed", 300) == pytest.approx(3.84, abs=0.01)
    nearest = min(range(1, 1001), key=lambda t: abs(separation("signed", t) - separation("binary", 300)))
    assert nearest == 509


def test_diffuse_at_T_is_indistinguishable_from_noise():
    """At T' = T, PD-DDPM is vanilla DDPM: no test can distinguish the two starts, not even on a whole patch.

    KL divergence of N(sqrt(a) x0, (1 - a) I) from N(0, I), and Pinsker's bound on the total variation.
    """
    signal = Schedule.cosine().signal(1000)
    pixels = 128 * 192
    divergence = pixels / 2 * (signal * 1 + (1 - signal) - 1 - math.log1p(-signal))
    assert math.sqrt(signal) < 5e-5
    assert math.sqrt(divergence / 2) < 0.005
