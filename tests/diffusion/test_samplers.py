"""The reverse process against closed forms and diffusers (about 10 s).

Two distributions of x0 have a denoiser in closed form: a Gaussian, and a mask whose pixels are lesion with a known
probability. Statistical bounds are 4.5 standard errors, with fixed seeds.
"""

import math
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from scipy import integrate, stats
from scipy.special import expit, logit

from pd_ddpm.diffusion.mask_coding import CODINGS
from pd_ddpm.diffusion.noise import MemberNoise
from pd_ddpm.diffusion.samplers import ancestral, ddim, reverse_times
from pd_ddpm.diffusion.schedule import SCHEDULES, Schedule

COSINE = Schedule.cosine()
P = 0.3  # probability of lesion in random masks
SAMPLERS = {
    "ancestral, large": partial(ancestral, variance="large"),
    "ancestral, small": partial(ancestral, variance="small"),
    "ddim, eta 0": ddim,
    "ddim, eta 0.5": partial(ddim, eta=0.5),
    "ddim, eta 1": partial(ddim, eta=1.0),
}
CHAINS = [(1000, 1000), (1000, 50), (1000, 5), (300, 300), (300, 30), (50, 7), (2, 2), (1, 1)]
THEIR_NAMES = {"cosine": "squaredcos_cap_v2", "linear": "linear"}


class FixedNoise:
    """Returns the same noise in every call."""

    def prefetch_normal(self, shape, device, count):
        pass

    def __init__(self, noise):
        self.noise = noise

    def sample_normal(self, shape, device="cpu"):
        assert self.noise.shape[1:] == tuple(shape)
        return self.noise.clone()


def normal(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape, dtype=np.float32))


def members(count, label="member"):
    return MemberNoise([(label, number) for number in range(count)])


# Timesteps


def test_reverse_times_of_full_truncated_and_respaced_chains():
    assert reverse_times(300, 300) == list(range(300, -1, -1))
    assert reverse_times(1000, 5) == [1000, 800, 600, 400, 200, 0]
    assert reverse_times(1, 1) == [1, 0]


def test_reverse_times_fall_to_zero_in_nearly_equal_steps():
    for t_start in (1, 2, 3, 10, 49, 97):
        for steps in range(1, t_start + 1):
            times = reverse_times(t_start, steps)
            assert (times[0], times[-1], len(times)) == (t_start, 0, steps + 1)
            jumps = [t - s for t, s in pairwise(times)]
            assert min(jumps) >= 1
            assert all(abs(jump - t_start / steps) <= 1 for jump in jumps)


@pytest.mark.parametrize(("t_start", "steps"), [(300, 301), (300, 0), (0, 1)])
def test_reverse_times_rejects_impossible_chains(t_start, steps):
    with pytest.raises(ValueError, match=f"t = {t_start} takes"):
        reverse_times(t_start, steps)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize(("t_start", "steps"), CHAINS)
def test_sampler_evaluates_denoiser_once_per_step(sampler, t_start, steps):
    """Without respacing, the T' steps from T' have the timesteps T', T' - 1, ..., 1 (PD-DDPM Eq. 4)."""
    timesteps = []

    def denoise(x, t):
        timesteps.append(t)
        return x.clamp(-1, 1)

    SAMPLERS[sampler](denoise, normal(2, 1, 3), reverse_times(t_start, steps), schedule=COSINE, noise=members(2))
    assert timesteps == reverse_times(t_start, steps)[:-1]
    if steps == t_start:
        assert timesteps == list(range(t_start, 0, -1))


# Oracle denoiser


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("schedule", THEIR_NAMES)
@pytest.mark.parametrize(("t_start", "steps"), CHAINS)
def test_sampler_with_oracle_returns_exact_mask(sampler, coding, schedule, t_start, steps):
    mask = CODINGS[coding].encode((normal(2, 1, 4, 5) > 0).float())
    start = 10 * normal(2, 1, 4, 5, seed=1)
    x0 = SAMPLERS[sampler](
        lambda x, t: mask, start, reverse_times(t_start, steps), schedule=SCHEDULES[schedule](1000), noise=members(2)
    )
    assert torch.equal(x0, mask)


@pytest.mark.parametrize("sampler", ["ancestral, small", "ddim, eta 0", "ddim, eta 0.5", "ddim, eta 1"])
@pytest.mark.parametrize(("t_start", "steps"), [(1000, 10), (300, 3)])
def test_sampler_with_oracle_keeps_forward_marginals(sampler, t_start, steps):
    """x_s ~ N(sqrt(alpha_bar) x0, 1 - alpha_bar) at every timestep; by design this does not hold for "large"."""
    count = 100_000
    x0, states = torch.full((1, 1, count), -1.0), []

    def denoise(x, t):
        states.append((t, x))
        return x0

    start = COSINE.diffuse(x0, torch.tensor([t_start]), normal(1, 1, count))
    SAMPLERS[sampler](denoise, start, reverse_times(t_start, steps), schedule=COSINE, noise=members(1))
    for t, x in states:
        variance = 1 - COSINE.signal(t)
        assert x.mean().item() == pytest.approx(-math.sqrt(COSINE.signal(t)), abs=4.5 * math.sqrt(variance / count))
        assert x.var().item() == pytest.approx(variance, rel=4.5 * math.sqrt(2 / count))


@pytest.mark.parametrize("variance", ["large", "small"])
@pytest.mark.parametrize(("t_start", "steps"), [(300, 2), (300, 6), (1000, 8), (1000, 20)])
def test_ancestral_with_oracle_over_jumps_has_variance_of_closed_form(variance, t_start, steps):
    """Var x_t = alpha_bar Var x_0 + 1 - alpha_bar with "small"; "large" adds alpha_bar[s] (1 - r)^2 / (1 - alpha_bar[t]).

    r is alpha_bar[t] / alpha_bar[s]. Of the excess at t, a jump keeps the squared weight of x_t in the posterior's mean.
    """
    count, states = 200_000, []
    x0 = 2 * (normal(1, 1, count, seed=5) < stats.norm.ppf(P)).float() - 1
    times = reverse_times(t_start, steps)

    def denoise(x, t):
        states.append((t, x))
        return x0

    start = COSINE.diffuse(x0, torch.tensor([t_start]), normal(1, 1, count))
    SAMPLERS[f"ancestral, {variance}"](denoise, start, times, schedule=COSINE, noise=members(1))
    excess = {t_start: 0.0}
    for t, s in pairwise(times[:-1]):
        ratio, noise_t = COSINE.signal(t) / COSINE.signal(s), 1 - COSINE.signal(t)
        added = COSINE.signal(s) * (1 - ratio) ** 2 / noise_t if variance == "large" else 0.0
        excess[s] = ratio * ((1 - COSINE.signal(s)) / noise_t) ** 2 * excess[t] + added
    assert [t for t, _ in states] == times[:-1]
    for t, x in states:
        expected = COSINE.signal(t) * 4 * P * (1 - P) + 1 - COSINE.signal(t) + excess[t]
        assert x.var().item() == pytest.approx(expected, rel=4.5 * math.sqrt(2 / count))


@pytest.mark.parametrize(
    ("t_start", "steps", "t", "factor"),
    [(300, 300, 150, 1.004), (300, 2, 150, 1.73), (300, 6, 50, 1.74), (1000, 8, 125, 1.785)],
)
def test_large_variance_over_jumps_exceeds_noise_of_training_by_documented_factor(t_start, steps, t, factor):
    """The standard deviation of x_t around sqrt(alpha_bar) x_0, in units of the forward process's."""
    count, states = 200_000, {}

    def denoise(x, t):
        states[t] = x
        return torch.zeros_like(x)

    start = math.sqrt(1 - COSINE.signal(t_start)) * normal(1, 1, count)
    times = [time for time in reverse_times(t_start, steps) if time >= t] + [0]
    ancestral(denoise, start, times, COSINE, members(1), "large")
    assert (states[t].std() / math.sqrt(1 - COSINE.signal(t))).item() == pytest.approx(factor, abs=0.01)


# Single steps


@pytest.mark.parametrize(("t", "s"), [(1000, 999), (1000, 700), (300, 299), (300, 270), (2, 1)])
def test_ddim_with_eta_1_equals_ancestral_with_small_variance(t, s):
    x, x0, noise = (normal(1, 1, 200, seed=seed).double() for seed in range(3))
    from_ddim = ddim(lambda *_: x0, x, [t, s], COSINE, FixedNoise(noise), eta=1.0)
    from_ancestral = ancestral(lambda *_: x0, x, [t, s], COSINE, FixedNoise(noise), "small")
    torch.testing.assert_close(from_ddim, from_ancestral, rtol=0, atol=1e-9)


@pytest.mark.parametrize("variance", ["large", "small"])
@pytest.mark.parametrize(("t", "s"), [(1000, 999), (1000, 700), (300, 299), (300, 270), (2, 1)])
def test_ancestral_step_has_variance_of_ho_et_al(variance, t, s):
    """Ho et al. 2020, Sec. 3.2: beta_t and beta_t (1 - alpha_bar_(t-1)) / (1 - alpha_bar_t), and the same for jumps."""
    x, noise = normal(1, 1, 200).double(), normal(1, 1, 200, seed=1).double()
    step = partial(ancestral, lambda x, t: x.clamp(-1, 1), x, [t, s], COSINE, variance=variance)
    spread = ((step(noise=FixedNoise(noise)) - step(noise=FixedNoise(0 * noise))) / noise) ** 2
    beta = 1 - COSINE.signal(t) / COSINE.signal(s)
    expected = beta if variance == "large" else beta * (1 - COSINE.signal(s)) / (1 - COSINE.signal(t))
    torch.testing.assert_close(spread, torch.full_like(spread, expected), rtol=1e-6, atol=0)


@pytest.mark.parametrize("variance", ["large", "small"])
@pytest.mark.parametrize("schedule", THEIR_NAMES)
@pytest.mark.parametrize("steps", [1000, 50])
def test_ancestral_step_equals_diffusers(variance, schedule, steps):
    """Timestep t - 1 in diffusers is our t. Its last step of a respaced "large" chain adds noise, ours does not."""
    theirs = DDPMScheduler(
        1000,
        beta_start=1e-4,
        beta_end=0.02,
        beta_schedule=THEIR_NAMES[schedule],
        variance_type=f"fixed_{variance}",
        prediction_type="sample",
        timestep_spacing="trailing",
    )
    theirs.set_timesteps(steps)
    times = reverse_times(1000, steps)
    assert [t - 1 for t in times[:-1]] == theirs.timesteps.tolist()
    jumps = [*pairwise(times)][:: steps // 50]
    if steps == 1000 or variance == "small":
        jumps.append((times[-2], 0))
    else:
        jumps.remove((times[-2], 0))
    for t, s in jumps:
        x, x0 = normal(1, 1, 64, seed=t), normal(1, 1, 64, seed=t + 1).clamp(-1, 1)
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(t))
        expected = theirs.step(x0, t - 1, x, generator=torch.Generator().manual_seed(t)).prev_sample
        actual = ancestral(lambda *_, x0=x0: x0, x, [t, s], SCHEDULES[schedule](1000), FixedNoise(noise), variance)
        torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("schedule", THEIR_NAMES)
@pytest.mark.parametrize("steps", [1000, 20])
def test_ddim_step_equals_diffusers(eta, schedule, steps):
    theirs = DDIMScheduler(
        1000,
        beta_start=1e-4,
        beta_end=0.02,
        beta_schedule=THEIR_NAMES[schedule],
        prediction_type="sample",
        timestep_spacing="trailing",
    )
    theirs.set_timesteps(steps)
    for t, s in [*pairwise(reverse_times(1000, steps))][:: steps // 20]:
        x, x0, noise = normal(1, 1, 64, seed=t), normal(1, 1, 64, seed=t + 1).clamp(-1, 1), normal(1, 1, 64, seed=t + 2)
        expected = theirs.step(x0, t - 1, x, eta=eta, use_clipped_model_output=True, variance_noise=noise).prev_sample
        actual = ddim(lambda *_, x0=x0: x0, x, [t, s], SCHEDULES[schedule](1000), FixedNoise(noise), eta)
        torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("steps", [2, 3, 7, 20, 50, 100, 1000])
@pytest.mark.parametrize("spacing", ["trailing", "linspace"])
def test_step_spacing_is_that_of_diffusers(spacing, steps):
    """Their timesteps begin at 0, and the last step leads to the clean mask."""
    theirs = DDIMScheduler(1000, timestep_spacing=spacing)
    theirs.set_timesteps(steps)
    assert reverse_times(1000, steps, spacing) == [*(theirs.timesteps + 1).tolist(), 0]


def test_linspace_takes_the_timesteps_of_patch_ddm():
    """Reference: the released code of Bieder et al. 2023, round(linspace(999, 0, K)), counted from 0."""
    for steps in (2, 10, 50, 100, 250):
        assert reverse_times(1000, steps, "linspace")[:-1] == (np.linspace(999, 0, steps).round().astype(int) + 1).tolist()
    assert reverse_times(300, 4, "linspace") == [300, 200, 101, 1, 0]
    assert reverse_times(300, 4, "trailing") == [300, 225, 150, 75, 0]
    assert reverse_times(300, 1, "linspace") == [300, 0]


# Gaussian data: x0 ~ N(m, s^2). The best denoiser E[x0 | x_t] is linear, so the chain's moments follow in closed form.

MEAN = 0.3


def best_linear(schedule, deviation, t):
    """E[x0 | x_t] = offset + slope x_t."""
    signal = schedule.signal(t)
    slope = deviation**2 * math.sqrt(signal) / (signal * deviation**2 + 1 - signal)
    return MEAN - slope * math.sqrt(signal) * MEAN, slope


def chain_moments(schedule, deviation, times, variance, mean=0.0, spread=1.0):
    """Return mean and variance of x0 after ancestral sampling with the best denoiser from N(mean, spread)."""
    for t, s in pairwise(times):
        offset, slope = best_linear(schedule, deviation, t)
        kept = schedule.signal(t) / schedule.signal(s)
        of_x0 = math.sqrt(schedule.signal(s)) * (1 - kept) / (1 - schedule.signal(t))
        of_x_t = math.sqrt(kept) * (1 - schedule.signal(s)) / (1 - schedule.signal(t))
        added = 1 - kept if variance == "large" else (1 - kept) * (1 - schedule.signal(s)) / (1 - schedule.signal(t))
        mean = of_x0 * (offset + slope * mean) + of_x_t * mean
        spread = (of_x0 * slope + of_x_t) ** 2 * spread + (added if s else 0.0)
    return mean, spread


def sample_gaussian(sampler, schedule, deviation, times, x):
    def denoise(x, t):
        offset, slope = best_linear(schedule, deviation, t)
        return offset + slope * x

    return sampler(denoise, x, times, schedule=schedule, noise=members(len(x)))


@pytest.mark.parametrize("variance", ["large", "small"])
@pytest.mark.parametrize("schedule", THEIR_NAMES)
@pytest.mark.parametrize("deviation", [0.2, 1.0])
@pytest.mark.parametrize(("t_start", "steps"), [(1000, 1000), (1000, 50), (300, 300)])
def test_ancestral_on_gaussian_has_moments_of_closed_form(variance, schedule, deviation, t_start, steps):
    count, schedule, times = 10_000, SCHEDULES[schedule](1000), reverse_times(t_start, steps)
    x0 = sample_gaussian(SAMPLERS[f"ancestral, {variance}"], schedule, deviation, times, normal(1, 1, count)).double()
    mean, spread = chain_moments(schedule, deviation, times, variance)
    assert x0.mean().item() == pytest.approx(mean, abs=4.5 * math.sqrt(spread / count))
    assert x0.var().item() == pytest.approx(spread, rel=4.5 * math.sqrt(2 / count))


@pytest.mark.parametrize("variance", ["large", "small"])
@pytest.mark.parametrize("schedule", THEIR_NAMES)
@pytest.mark.parametrize("deviation", [0.2, 0.5, 1.0])
def test_ancestral_with_all_steps_has_distribution_of_data(variance, schedule, deviation):
    """Mean m and variance s^2, up to the error of 1,000 steps; "large" is exact for s = 1 (Ho et al. 2020, Sec. 3.2)."""
    schedule, times = SCHEDULES[schedule](1000), reverse_times(1000, 1000)
    mean, spread = chain_moments(schedule, deviation, times, variance)
    assert mean == pytest.approx(MEAN, abs=0.002)
    assert math.sqrt(spread) == pytest.approx(deviation, rel=0.02)
    if deviation == 1 and variance == "large":
        # The last step adds no noise, and E[x0 | x_1] has the variance alpha_bar[1].
        assert spread == pytest.approx(schedule.signal(1), rel=1e-6)


def test_ddim_on_gaussian_maps_quantiles_of_noise_to_data():
    """With eta 0 the chain follows the probability flow, which for Gaussians maps x_T to m + s x_T."""
    x_T = torch.linspace(-3, 3, 61).reshape(1, 1, -1)
    x0 = sample_gaussian(ddim, COSINE, 0.5, reverse_times(1000, 1000), x_T)
    torch.testing.assert_close(x0, MEAN + 0.5 * x_T, rtol=0, atol=0.01)


@pytest.mark.parametrize("variance", ["large", "small"])
def test_truncated_chain_from_true_x_t_has_distribution_of_data(variance):
    """If pre-segmentations have the distribution of the ground truth, no T' changes the result of PD-DDPM."""
    deviation = 0.5
    for t_start in (1, 50, 300, 700):
        signal = COSINE.signal(t_start)
        mean, spread = chain_moments(
            COSINE,
            deviation,
            reverse_times(t_start, t_start),
            variance,
            mean=math.sqrt(signal) * MEAN,
            spread=signal * deviation**2 + 1 - signal,
        )
        assert mean == pytest.approx(MEAN, abs=1e-9)
        assert math.sqrt(spread) == pytest.approx(deviation, rel=0.02)


# Masks whose pixels are independently lesion with probability P. The best denoiser is then a hyperbolic tangent.


def lesion_probability(schedule, x, t):
    """P(lesion | x_t) in signed coding, by Bayes' rule."""
    signal = schedule.signal(t)
    return expit(2 * math.sqrt(signal) * x / (1 - signal) + logit(P))


def sample_masks(sampler, t_start, start, steps=None):
    def denoise(x, t):
        return torch.from_numpy(2 * lesion_probability(COSINE, x.double().numpy(), t) - 1).float()

    return sampler(denoise, start, reverse_times(t_start, steps or t_start), schedule=COSINE, noise=members(1))


def diffused(p, t, count, seed=0):
    return COSINE.diffuse(torch.full((1, 1, count), 2 * p - 1.0), torch.tensor([t]), normal(1, 1, count, seed=seed))


@pytest.mark.parametrize("sampler", ["ancestral, large", "ancestral, small", "ddim, eta 0", "ddim, eta 1"])
def test_vanilla_ddpm_samples_masks_with_their_probability(sampler):
    count = 4000
    x0 = sample_masks(SAMPLERS[sampler], 1000, normal(1, 1, count))
    assert (x0.abs() > 0.99).float().mean() > 0.99
    assert (x0 > 0).float().mean().item() == pytest.approx(P, abs=4.5 * math.sqrt(P * (1 - P) / count) + 0.01)


@pytest.mark.parametrize("presegmented", [0.0, 1.0])
@pytest.mark.parametrize("t_start", [100, 300, 600, 900])
def test_pd_ddpm_samples_posterior_of_diffused_presegmentation(presegmented, t_start):
    """P(lesion) = E[P(lesion | x_T')] over x_T' ~ q(x_T' | pre-segmentation), here by quadrature.

    A small T' keeps the pre-segmentation, right or wrong; at a large T' the denoiser decides.
    """
    count, signal = 4000, COSINE.signal(t_start)
    density = stats.norm(math.sqrt(signal) * (2 * presegmented - 1), math.sqrt(1 - signal))
    expected = integrate.quad(
        lambda x: density.pdf(x) * lesion_probability(COSINE, x, t_start), density.ppf(1e-12), density.ppf(1 - 1e-12)
    )[0]
    x0 = sample_masks(SAMPLERS["ancestral, large"], t_start, diffused(presegmented, t_start, count))
    error = math.sqrt(max(expected * (1 - expected), 1e-3) / count)
    assert (x0 > 0).float().mean().item() == pytest.approx(expected, abs=4.5 * error + 0.01)


@pytest.mark.parametrize("sampler", ["ancestral, large", "ddim, eta 0"])
def test_pd_ddpm_at_T_has_the_distribution_of_vanilla_ddpm(sampler):
    """Even with the worst pre-segmentation, all lesion. At T' = 300 the same test finds a difference."""
    count = 3000
    vanilla = sample_masks(SAMPLERS[sampler], 1000, normal(1, 1, count, seed=7), steps=200)
    at_T = sample_masks(SAMPLERS[sampler], 1000, diffused(1.0, 1000, count, seed=8), steps=200)
    at_300 = sample_masks(SAMPLERS[sampler], 300, diffused(1.0, 300, count, seed=8), steps=60)
    assert stats.ks_2samp(vanilla.flatten(), at_T.flatten()).pvalue > 0.01
    assert stats.ks_2samp(vanilla.flatten(), at_300.flatten()).pvalue < 1e-12


@pytest.mark.parametrize("sampler", ["ancestral, large", "ancestral, small"])
def test_pd_ddpm_at_T_equals_vanilla_ddpm_per_member(sampler):
    """Both use the same noise for a member, so even single samples agree."""
    count = 3000
    vanilla = sample_masks(SAMPLERS[sampler], 1000, normal(1, 1, count), steps=200)
    at_T = sample_masks(SAMPLERS[sampler], 1000, diffused(1.0, 1000, count), steps=200)
    assert ((vanilla > 0) == (at_T > 0)).float().mean() > 0.999


def test_linspace_with_1001_timesteps_and_5_steps_is_the_chain_of_the_code_of_fu_et_al():
    """They keep every 250th of the indices 0..1000 of their 1001 timesteps, which count from 0; ours count from 1."""
    times = reverse_times(1001, 5, "linspace")
    assert times == [1001, 751, 501, 251, 1, 0]
    released = Schedule.from_betas(torch.linspace(1e-4, 0.02, 1001, dtype=torch.float64))
    signals = [released.signal(t) for t in times[4::-1]]
    assert [f"{signal:.3g}" for signal in signals] == ["1", "0.522", "0.078", "0.00332", "4e-05"]
    assert [SCHEDULES["linear_unscaled"](1001).signal(t) for t in times[4::-1]] == signals
