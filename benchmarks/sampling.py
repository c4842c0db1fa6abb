"""Sampling: a member-step of an ensemble, the reverse step without the network, and the kernels of a step.

Ours is what a sampling job runs: a DiffusionSegmenter over the paper's denoiser (predicted noise, variance "large") from
`prepare_for_inference`, all members of a slice in one batch, each with noise of its own. The peers go member by member at
batch 1 as their tutorials do: MONAI through its DiffusionInferer, diffusers through the loop of its documentation, both with
their DDPMScheduler, in eval and inference mode, on the same thread; their rows with all members in one batch are information.
All networks have the same architecture (see `peers`) and start at random; time does not depend on the weights.
"""

from collections.abc import Callable, Sequence
from functools import partial
from unittest.mock import patch

import torch
from diffusers import DDPMScheduler as DiffusersScheduler
from monai.inferers import DiffusionInferer
from monai.networks.schedulers import DDPMScheduler as MonaiScheduler
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks import peers
from benchmarks.rows import Row, compared
from benchmarks.timing import Contestant, Spread, take_turns
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
REVERSE_STEP = (60, 1, 128, 192)  # twelve slices of five members, the paper's patch
Draw = Callable[[], Tensor]


def our_draw(network: nn.Module, image: Tensor, members: int, steps: int, precision: str) -> Draw:
    """All members (members, 1, H, W) of one slice (1, M, H, W) as a sampling job draws them.

    Raises ValueError where the CPU lacks the number format.
    """
    chosen = choose_precision(precision, CPU)
    denoiser = prepare_for_inference(Denoiser(network, Schedule.cosine(T), CODINGS["signed"], "noise"), CPU, chosen)
    sampler = partial(ancestral, schedule=denoiser.schedule, variance="large")
    segmenter = DiffusionSegmenter(denoiser, NoiseStart(T), sampler, steps, members)
    names = [("benchmark", member) for member in range(members)]

    def draw() -> Tensor:
        with torch.inference_mode():
            return segmenter(image.expand(members, -1, -1, -1), None, MemberNoise(names))

    return draw


def monai_draw(network: nn.Module, image: Tensor, members: int, steps: int, batch: int = 1) -> Draw:
    """The same by MONAI, `batch` members at once."""
    scheduler = MonaiScheduler(T, schedule="cosine", variance_type="fixed_large")
    scheduler.set_timesteps(steps)
    inferer = DiffusionInferer(scheduler)
    network.eval()

    def draw() -> Tensor:
        condition = image.expand(batch, -1, -1, -1)
        with torch.inference_mode():
            noises = [torch.randn(batch, 1, *image.shape[2:]) for _ in range(members // batch)]
            return torch.cat(
                [inferer.sample(noise, network, conditioning=condition, mode="concat", verbose=False) for noise in noises]
            )

    return draw


def diffusers_draw(network: nn.Module, image: Tensor, members: int, steps: int, batch: int = 1) -> Draw:
    """The same by diffusers, `batch` members at once."""
    scheduler = DiffusersScheduler(T, beta_schedule="squaredcos_cap_v2", variance_type="fixed_large")
    scheduler.set_timesteps(steps)
    network.eval()

    def draw_batch() -> Tensor:
        condition, x = image.expand(batch, -1, -1, -1), torch.randn(batch, 1, *image.shape[2:])
        for t in scheduler.timesteps:
            x = scheduler.step(network(torch.cat([condition, x], dim=1), t).sample, t, x).prev_sample
        return x

    def draw() -> Tensor:
        with torch.inference_mode():
            return torch.cat([draw_batch() for _ in range(members // batch)])

    return draw


def member_steps(channels: int, size: tuple[int, int], rounds: int) -> list[Row]:
    """A member-step of an ensemble in float32 and, where the CPU has it, in bfloat16."""
    torch.manual_seed(0)
    image = torch.randn(1, 2, *size)
    mine, monai, diffusers = peers.ours(channels), peers.monai(channels), peers.diffusers(channels)
    ensemble = (image, MEMBERS, STEPS)
    draws: dict[str, Draw] = {
        "ours": our_draw(mine, *ensemble, "float32"),
        "again": our_draw(mine, *ensemble, "float32"),
        "MONAI": monai_draw(monai, *ensemble),
        "diffusers": diffusers_draw(diffusers, *ensemble),
        "MONAI, in one batch": monai_draw(monai, *ensemble, batch=MEMBERS),
        "diffusers, in one batch": diffusers_draw(diffusers, *ensemble, batch=MEMBERS),
    }
    missing = ""
    try:
        draws |= {name: our_draw(peers.ours(channels), *ensemble, "bfloat16") for name in ("bfloat16", "bfloat16 again")}
    except ValueError:
        missing = "the CPU has no bfloat16"
    times = take_turns({name: Contestant(draw, units=MEMBERS * STEPS) for name, draw in draws.items()}, rounds)

    setting = f"{channels} channels, {size[0]} x {size[1]}, {MEMBERS} members"
    what = f"member-step, float32 ({setting})"
    table = [compared(times, what, name, name, target=1.15) for name in ("MONAI", "diffusers")]
    for name in ("MONAI, in one batch", "diffusers, in one batch"):
        table.append(compared(times, what, name, name))
    what = f"member-step, bfloat16 ({setting})"
    for name in ("MONAI", "diffusers"):
        against = f"{name}, float32"
        if missing:
            table.append(Row(what, against, "ms", target=1.5, remark=missing))
        else:
            table.append(compared(times, what, against, name, "bfloat16", ("bfloat16", "bfloat16 again"), 1.5))
    return table


class GivenNoise:
    """Noise that is there already and takes no time. A chain writes into it; time does not depend on what it then holds."""

    def __init__(self, noise: Tensor):
        self.noise = noise.clone()

    def draw(self, shape: Sequence[int], device: torch.device) -> Tensor:
        return self.noise

    def begin(self, shape: Sequence[int], device: torch.device) -> None:
        pass


def reverse_steps(shape: tuple[int, ...], rounds: int) -> list[Row]:
    """A reverse step whose network's answer is there already: the estimate of x0, the posterior and its noise.

    Before they are timed, malloc is brought to keep memory that it was given back. Else the peers, who take new memory for
    every operation, would need up to four times as long, most of it in page faults.

    "noise given": the arithmetic alone, what the schedulers draw by `torch.randn` being there already. "noise included": ours
    that of each member from its own stream, the same on every machine, the peers all of it from PyTorch's one generator, their
    default; how ours is drawn is the price of results that depend on neither batch nor order.
    """
    torch.manual_seed(0)
    torch.empty(31 * 2**20, dtype=torch.uint8)  # glibc from then on keeps up to twice as much, in blocks below that
    x, answer, given = torch.randn(shape), torch.randn(shape), torch.randn(shape)
    t = 500

    denoiser = Denoiser(nn.Identity(), Schedule.cosine(T), CODINGS["signed"], "noise")
    monai = MonaiScheduler(T, schedule="cosine", variance_type="fixed_large")
    diffusers = DiffusersScheduler(T, beta_schedule="squaredcos_cap_v2", variance_type="fixed_large")
    noise = MemberNoise([("benchmark", member) for member in range(shape[0])])

    def our_step(noise: MemberNoise | GivenNoise) -> Draw:
        mine = answer.clone()  # it is written into
        chain = partial(ancestral, times=[t, t - 1], schedule=denoiser.schedule, noise=noise, variance="large")
        return lambda: chain(lambda x_t, time: denoiser.estimate_x0_(mine, x_t, time), x)

    their_steps = {
        "MONAI": Contestant(lambda: monai.step(answer, t, x), 3),
        "diffusers": Contestant(lambda: diffusers.step(answer, t, x), 3),
    }
    what, names = f"reverse step without the network ({' x '.join(map(str, shape))})", tuple(their_steps)
    with torch.inference_mode():
        with patch("torch.randn", lambda *_, **__: given):
            pair = {name: Contestant(our_step(GivenNoise(given)), 3) for name in ("ours", "again")}
            arithmetic = take_turns(pair | their_steps, 3 * rounds)
        pair = {name: Contestant(our_step(noise), 3) for name in ("ours", "again")}
        draws = {
            "our noise": Contestant(lambda: noise.sample_normal(shape[1:]), 3),
            "our noise again": Contestant(lambda: noise.sample_normal(shape[1:]), 3),
            "their noise": Contestant(lambda: torch.randn(shape), 3),
        }
        times = take_turns(pair | their_steps | draws, rounds)
    table = [compared(arithmetic, f"{what}, noise given", name, name, target=2.5) for name in names]
    table += [compared(times, "the same, noise included", name, name) for name in names]
    same = ("our noise", "our noise again")
    return [*table, compared(times, "noise of each member's own stream", "torch.randn", "their noise", "our noise", same)]


class KernelCount(TorchDispatchMode):
    """Counts the operations that PyTorch dispatches within the block, each a kernel or more on a GPU.

    Views do not count, nor does dropout, which does nothing in evaluation mode.
    """

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        self.count += not _is_view(function)
        return function(*arguments, **(keywords or {}))


def _is_view(function: torch._ops.OpOverload) -> bool:
    """Whether an operation's result may be its argument, perhaps under another shape."""
    if function in (torch.ops.aten._unsafe_view.default, torch.ops.aten.dropout.default):  # not declared as such
        return True
    results = function._schema.returns
    return bool(results) and all(one.alias_info is not None and not one.alias_info.is_write for one in results)


def kernels(draw: Draw) -> int:
    """Kernels of one call."""
    draw()
    with KernelCount() as counted:
        draw()
    return counted.count


def kernels_per_step(channels: int, size: tuple[int, int]) -> list[Row]:
    """Kernels of one sampling step, the difference of a chain of three steps and one of two: free of noise.

    Ours with five members in the batch, the peers with one, for each of which they launch as many.
    """
    image = torch.zeros(1, 2, *size)

    def per_step(draw: Callable[[int], Draw]) -> int:
        return kernels(draw(3)) - kernels(draw(2))

    network, monai, diffusers = peers.ours(channels), peers.monai(channels), peers.diffusers(channels)
    mine = per_step(lambda steps: our_draw(network, image, MEMBERS, steps, "float32"))
    counts = {
        "MONAI": per_step(lambda steps: monai_draw(monai, image, 1, steps)),
        "diffusers": per_step(lambda steps: diffusers_draw(diffusers, image, 1, steps)),
    }
    exact, remark = Spread(1.0, 1.0, 1.0), f"ours draw {MEMBERS} members with them, theirs one"
    return [
        Row("kernels of a sampling step", name, "kernels", mine, count, Spread(*[count / mine] * 3), exact, remark=remark)
        for name, count in counts.items()
    ]
