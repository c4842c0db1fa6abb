"""One training step of the denoiser: batch, loss, gradients, Adam.

Ours is `Trainer.run_step`, which includes sampling of the batch, without gradient clipping, which the peer does not do. The
peer follows MONAI's tutorials: DiffusionInferer over MONAI's network, the squared error, and torch.optim.Adam with its default
implementation; its batch is ready in memory. Both have the same architecture (see `peers`), batch size and thread.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from monai.inferers import DiffusionInferer
from monai.networks.schedulers import DDPMScheduler
from torch.nn import functional

from benchmarks import peers
from benchmarks.rows import Row, comparison
from benchmarks.timing import Implementation, time_in_rounds
from pd_ddpm.diffusion.denoiser import Denoiser
from pd_ddpm.diffusion.mask_coding import CODINGS
from pd_ddpm.diffusion.schedule import Schedule
from pd_ddpm.runtime.backend import Backend
from pd_ddpm.runtime.precision import Precision, choose_precision
from pd_ddpm.training.objectives.denoising import Denoising
from pd_ddpm.training.patches import CaseSlices, PatchSettings, TrainingSlices
from pd_ddpm.training.settings import TrainingSettings
from pd_ddpm.training.trainer import Trainer

CPU = torch.device("cpu")
T = 1000
LEARNING_RATE = 1e-4


def artificial_slices(cases: int, slices: int, size: Sequence[int], channels: int = 2) -> list[CaseSlices]:
    """Return cases with channels of noise, with a lesion in every slice.

    Args:
        cases: number of cases.
        slices: slices per case; 1 for a volume.
        size: (height, width) of a slice, or (height, width, depth) of a volume, in pixels.
        channels: number of image channels.
    """
    rng = np.random.default_rng(0)
    artificial = []
    for number in range(cases):
        label_fractions = torch.zeros(slices, 2, *size)
        label_fractions[:, 0, size[0] // 3 : size[0] // 2, size[1] // 3 : size[1] // 2] = 1.0
        image = torch.from_numpy(rng.standard_normal((slices, channels, *size), dtype=np.float32))
        artificial.append(CaseSlices(f"case-{number}", image, label_fractions, range(slices)))
    return artificial


def our_step(precision: str, channels: int, batch: int, size: Sequence[int]) -> Callable[[], object]:
    """Return a function that runs one training step of ours on artificial cases.

    Args:
        precision: precision of the network.
        channels: width of the network.
        batch: patches per step.
        size: (height, width) or (height, width, depth) of a patch in pixels.
    """
    trainer = our_trainer(CPU, choose_precision(precision, CPU), channels, batch, size)
    steps = iter(range(1, trainer.settings.steps))
    return lambda: trainer.run_step(next(steps))


def our_trainer(
    device: torch.device,
    precision: Precision,
    channels: int,
    batch: int,
    size: Sequence[int],
    compile: bool = False,
) -> Trainer:
    """Return the trainer of a denoiser on artificial cases.

    Args:
        device: device of the network.
        precision: precision of the network.
        channels: width of the network.
        batch: patches per step.
        size: (height, width) or (height, width, depth) of a patch in pixels.
        compile: whether the network is compiled.
    """
    architecture, slices = peers.architecture_for(size), 8 if len(size) == 2 else 1
    return Trainer(
        Denoiser(peers.our_network(channels, architecture), Schedule.cosine(T), CODINGS["signed"], "noise"),
        Denoising(T, "squared_error"),
        TrainingSlices(artificial_slices(2, slices, size, architecture.image_channels)),
        TrainingSettings(
            steps=1_000_000,
            batch=batch,
            learning_rate=LEARNING_RATE,
            learning_rate_decay="none",
            weight_decay=0.0,
            gradient_clip=None,
            ema_decay=0.9999,
            weights="raw",
            select="last",
            validate_every=1_000_000,
            validation_slices=1,
            patches=PatchSettings(tuple(size), None, (), 0.0),
        ),
        seed=0,
        backend=Backend(device, precision, compile),
    )


def monai_step(channels: int, batch: int, size: Sequence[int], device: torch.device = CPU) -> Callable[[], object]:
    """Return a function that runs one training step with MONAI's inferer and network and PyTorch's Adam.

    Args:
        channels: width of the network.
        batch: patches per step.
        size: (height, width) or (height, width, depth) of a patch in pixels.
        device: device of the network.
    """
    architecture = peers.architecture_for(size)
    network = peers.monai_network(channels, architecture).to(device).train()
    inferer = DiffusionInferer(DDPMScheduler(T, schedule="cosine"))
    optimiser = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)
    image = torch.randn(batch, architecture.image_channels, *size, device=device)
    mask = torch.zeros(batch, 1, *size, device=device)

    def step() -> float:
        optimiser.zero_grad(set_to_none=True)
        noise, t = torch.randn_like(mask), torch.randint(0, T, (batch,), device=device)
        predicted = inferer(mask, network, noise, t, condition=image, mode="concat")
        loss = functional.mse_loss(predicted, noise)
        loss.backward()
        optimiser.step()
        return loss.item()

    return step


def training_steps(channels: int, batch: int, size: tuple[int, int], rounds: int) -> list[Row]:
    """Compare our step in float32 and, if the CPU supports it, in bfloat16 with MONAI's in float32.

    Args:
        channels: width of the networks.
        batch: patches per step.
        size: (height, width) of a patch in pixels.
        rounds: number of measurements of each.
    """
    torch.manual_seed(0)
    case = (channels, batch, size)
    steps = {"MONAI": monai_step(*case), "float32": our_step("float32", *case), "float32 again": our_step("float32", *case)}
    missing = ""
    try:
        steps |= {name: our_step("bfloat16", *case) for name in ("bfloat16", "bfloat16 again")}
    except ValueError:
        missing = "the CPU has no bfloat16"
    times = time_in_rounds({name: Implementation(step) for name, step in steps.items()}, rounds)
    setting = f"{channels} channels, {size[0]} x {size[1]}, batch {batch}"
    against = "MONAI's network and inferer, default Adam, float32"
    table = []
    for precision, target in (("float32", 1.0), ("bfloat16", 1.35)):
        what = f"training step, {precision} ({setting})"
        if precision not in times:
            table.append(Row(what, against, "ms", target=target, remark=missing))
        else:
            table.append(comparison(times, what, against, "MONAI", precision, (precision, f"{precision} again"), target))
    return table
