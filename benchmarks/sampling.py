"""Measure sampling: a step of an ensemble member, the reverse step without the network, and the kernels of a step.

Ours is the code of a sampling job: a DiffusionSegmenter with the paper's denoiser (noise prediction, variance "large") after
`prepare_for_inference`. All members of a slice are in one batch, each with its own random stream. The peers sample one member
at a time, as in their tutorials: MONAI with its DiffusionInferer, diffusers with the loop of its documentation, both with their
DDPMScheduler, in evaluation and inference mode, on the same thread. Rows without a target have all members in one batch. All
networks have the same architecture (see `peers`) and random weights, on which the time does not depend.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from monai.inferers import DiffusionInferer
from monai.networks.schedulers import DDPMScheduler as MonaiScheduler
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks import peers
from benchmarks.rows import Row, comparison
from benchmarks.timing import Implementation, Spread, time_in_rounds
from pd_ddpm.diffusion.denoiser import Denoiser
from pd_ddpm.diffusion.mask_coding import CODINGS
from pd_ddpm.diffusion.noise import MemberNoise
from pd_ddpm.diffusion.samplers import ancestral
from pd_ddpm.diffusion.schedule import Schedule
from pd_ddpm.diffusion.starts import NoiseStart
from pd_ddpm.inference.segmenters import DiffusionSegmenter
from pd_ddpm.runtime.precision import choose_precision, prepare_for_inference

CPU = torch.device("cpu")
T = 1000
MEMBERS, STEPS = 5, 2
Sampling = Callable[[], Tensor]


def our_sampling(network: nn.Module, image: Tensor, members: int, steps: int, precision: str) -> Sampling:
    """Return a function that samples all members (members, 1, *S) of one slice or volume, as in a sampling job.

    Args:
        network: our network.
        image: (1, M, *S) slice or volume with M channels.
        members: ensemble members.
        steps: reverse steps.
        precision: precision of the network.

    Raises:
        ValueError: the CPU does not support the precision.
    """
    chosen = choose_precision(precision, CPU)
    denoiser = prepare_for_inference(Denoiser(network, Schedule.cosine(T), CODINGS["signed"], "noise"), CPU, chosen)
    sampler = partial(ancestral, schedule=denoiser.schedule, variance="large")
    segmenter = DiffusionSegmenter(denoiser, NoiseStart(T), sampler, steps, members)
    names = [("benchmark", member) for member in range(members)]

    def sample() -> Tensor:
        with torch.inference_mode():
            return segmenter(image.expand(members, *image.shape[1:]), None, MemberNoise(names))

    return sample


def monai_sampling(network: nn.Module, image: Tensor, members: int, steps: int, batch: int = 1) -> Sampling:
    """Return a function that samples the same with MONAI, `batch` members at once.

    Args:
        network: MONAI's network.
        image: (1, M, *S) slice or volume with M channels.
        members: ensemble members.
        steps: reverse steps.
        batch: members per batch.
    """
    scheduler = MonaiScheduler(T, schedule="cosine", variance_type="fixed_large")
    scheduler.set_timesteps(steps)
    inferer = DiffusionInferer(scheduler)
    network.eval()

    def sample() -> Tensor:
        condition = image.expand(batch, *image.shape[1:])
        with torch.inference_mode():
            shape = (batch, 1, *image.shape[2:])
            noises = [torch.randn(shape, device=image.device) for _ in range(members // batch)]
            return torch.cat(
                [inferer.sample(noise, network, conditioning=condition, mode="concat", verbose=False) for noise in noises]
            )

    return sample


def _diffusers_scheduler() -> Any:
    """Return the scheduler of diffusers. It is imported only where it is used."""
    from diffusers import DDPMScheduler

    return DDPMScheduler(T, beta_schedule="squaredcos_cap_v2", variance_type="fixed_large")


def diffusers_sampling(network: nn.Module, image: Tensor, members: int, steps: int, batch: int = 1) -> Sampling:
    """Return a function that samples the same with diffusers, `batch` members at once.

    Args:
        network: network of diffusers.
        image: (1, M, H, W) slice with M channels.
        members: ensemble members.
        steps: reverse steps.
        batch: members per batch.
    """
    scheduler = _diffusers_scheduler()
    scheduler.set_timesteps(steps)
    network.eval()

    def sample_batch() -> Tensor:
        condition, x = image.expand(batch, *image.shape[1:]), torch.randn(batch, 1, *image.shape[2:])
        for t in scheduler.timesteps:
            x = scheduler.step(network(torch.cat([condition, x], dim=1), t).sample, t, x).prev_sample
        return x

    def sample() -> Tensor:
        with torch.inference_mode():
            return torch.cat([sample_batch() for _ in range(members // batch)])

    return sample


def member_steps(channels: int, size: tuple[int, int], rounds: int) -> list[Row]:
    """Compare a step of an ensemble member in float32 and, if the CPU supports it, in bfloat16.

    Args:
        channels: width of the networks.
        size: (height, width) of the slice in pixels.
        rounds: number of measurements of each.
    """
    torch.manual_seed(0)
    image = torch.randn(1, 2, *size)
    ours, monai, diffusers = peers.our_network(channels), peers.monai_network(channels), peers.diffusers_network(channels)
    ensemble = (image, MEMBERS, STEPS)
    samplings: dict[str, Sampling] = {
        "ours": our_sampling(ours, *ensemble, "float32"),
        "again": our_sampling(ours, *ensemble, "float32"),
        "MONAI": monai_sampling(monai, *ensemble),
        "diffusers": diffusers_sampling(diffusers, *ensemble),
        "MONAI, in one batch": monai_sampling(monai, *ensemble, batch=MEMBERS),
        "diffusers, in one batch": diffusers_sampling(diffusers, *ensemble, batch=MEMBERS),
    }
    missing = ""
    try:
        samplings |= {
            name: our_sampling(peers.our_network(channels), *ensemble, "bfloat16") for name in ("bfloat16", "bfloat16 again")
        }
    except ValueError:
        missing = "the CPU has no bfloat16"
    times = time_in_rounds(
        {name: Implementation(sampling, units=MEMBERS * STEPS) for name, sampling in samplings.items()}, rounds
    )

    setting = f"{channels} channels, {size[0]} x {size[1]}, {MEMBERS} members"
    what = f"member-step, float32 ({setting})"
    table = [comparison(times, what, name, name, target=1.15) for name in ("MONAI", "diffusers")]
    for name in ("MONAI, in one batch", "diffusers, in one batch"):
        table.append(comparison(times, what, name, name))
    what = f"member-step, bfloat16 ({setting})"
    for name in ("MONAI", "diffusers"):
        against = f"{name}, float32"
        if missing:
            table.append(Row(what, against, "ms", target=1.5, remark=missing))
        else:
            table.append(comparison(times, what, against, name, "bfloat16", ("bfloat16", "bfloat16 again"), 1.5))
    return table


class FixedNoise:
    """Noise that takes no time to sample, in place of MemberNoise.

    A sampler overwrites it, but its values do not affect the time.
    """

    def __init__(self, noise: Tensor):
        self.noise = noise.clone()

    def sample_normal(self, shape: Sequence[int], device: torch.device) -> Tensor:
        """Return the same noise in each call."""
        return self.noise

    def prefetch_normal(self, shape: Sequence[int], device: torch.device, count: int) -> None:
        """Do nothing."""


def reverse_steps(shape: tuple[int, ...], rounds: int) -> list[Row]:
    """Compare reverse steps with a given network output: the estimate of x0, the posterior and its noise.

    Rows with "noise given" measure the arithmetic only; `torch.randn` is replaced. Rows with "noise included" also measure the
    noise. Ours comes from one stream per member and is equal on every machine. The peers sample all noise from PyTorch's
    default generator. The difference is the cost of results that depend on neither batch nor order.

    The peers allocate memory in every operation. If malloc returned it to the system, they would take up to four times as long,
    mostly in page faults. A large allocation at the start makes malloc keep its memory.

    Args:
        shape: (members, 1, height, width) of x_t.
        rounds: number of measurements of each.
    """
    torch.manual_seed(0)
    torch.empty(31 * 2**20, dtype=torch.uint8)  # freeing this block makes glibc keep blocks up to its size
    x, output, fixed_noise = torch.randn(shape), torch.randn(shape), torch.randn(shape)
    t = 500

    denoiser = Denoiser(nn.Identity(), Schedule.cosine(T), CODINGS["signed"], "noise")
    monai = MonaiScheduler(T, schedule="cosine", variance_type="fixed_large")
    diffusers = _diffusers_scheduler()
    noise = MemberNoise([("benchmark", member) for member in range(shape[0])])

    def our_step(noise: MemberNoise | FixedNoise) -> Sampling:
        our_output = output.clone()  # the denoiser overwrites it
        chain = partial(ancestral, times=[t, t - 1], schedule=denoiser.schedule, noise=noise, variance="large")
        return lambda: chain(lambda x_t, time: denoiser.estimate_x0_(our_output, x_t, time), x)

    their_steps = {
        "MONAI": Implementation(lambda: monai.step(output, t, x), 3),
        "diffusers": Implementation(lambda: diffusers.step(output, t, x), 3),
    }
    what, names = f"reverse step without the network ({' x '.join(map(str, shape))})", tuple(their_steps)
    with torch.inference_mode():
        with patch("torch.randn", lambda *_, **__: fixed_noise):
            pair = {name: Implementation(our_step(FixedNoise(fixed_noise)), 3) for name in ("ours", "again")}
            arithmetic = time_in_rounds(pair | their_steps, 3 * rounds)
        pair = {name: Implementation(our_step(noise), 3) for name in ("ours", "again")}
        noises = {
            "our noise": Implementation(lambda: noise.sample_normal(shape[1:]), 3),
            "our noise again": Implementation(lambda: noise.sample_normal(shape[1:]), 3),
            "their noise": Implementation(lambda: torch.randn(shape), 3),
        }
        times = time_in_rounds(pair | their_steps | noises, rounds)
    table = [comparison(arithmetic, f"{what}, noise given", name, name, target=2.5) for name in names]
    table += [comparison(times, "the same, noise included", name, name) for name in names]
    same = ("our noise", "our noise again")
    return [*table, comparison(times, "noise of each member's own stream", "torch.randn", "their noise", "our noise", same)]


class KernelCount(TorchDispatchMode):
    """A context that counts the operations that PyTorch dispatches; each launches one kernel or more on a GPU.

    Views do not count. Neither does dropout, which does nothing in evaluation mode.
    """

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        self.count += not _is_view(function)
        return function(*arguments, **(keywords or {}))


def _is_view(function: torch._ops.OpOverload) -> bool:
    """Return whether the operation may return its argument, possibly with another shape."""
    if function in (torch.ops.aten._unsafe_view.default, torch.ops.aten.dropout.default):  # not declared as views
        return True
    results = function._schema.returns
    return bool(results) and all(result.alias_info is not None and not result.alias_info.is_write for result in results)


def kernels(sample: Sampling) -> int:
    """Return the number of kernels of one call."""
    sample()
    with KernelCount() as kernel_count:
        sample()
    return kernel_count.count


def kernels_per_step(channels: int, size: tuple[int, int]) -> list[Row]:
    """Count the kernels of one sampling step, as the difference between chains of three and two steps.

    Ours has five members in the batch. The peers have one, and launch as many kernels for each further member.
    """
    image = torch.zeros(1, 2, *size)

    def per_step(with_steps: Callable[[int], Sampling]) -> int:
        return kernels(with_steps(3)) - kernels(with_steps(2))

    network, monai, diffusers = peers.our_network(channels), peers.monai_network(channels), peers.diffusers_network(channels)
    ours = per_step(lambda steps: our_sampling(network, image, MEMBERS, steps, "float32"))
    counts = {
        "MONAI": per_step(lambda steps: monai_sampling(monai, image, 1, steps)),
        "diffusers": per_step(lambda steps: diffusers_sampling(diffusers, image, 1, steps)),
    }
    exact, remark = Spread(1.0, 1.0, 1.0), f"ours sample {MEMBERS} members with them, theirs one"
    return [
        Row("kernels of a sampling step", name, "kernels", ours, count, Spread(*[count / ours] * 3), exact, remark=remark)
        for name, count in counts.items()
    ]
