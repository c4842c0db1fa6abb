"""Networks of volumes against MONAI's: a step of an ensemble member, a training step, and the memory of both.

The architecture is that of PatchDDM as nearly as MONAI has it, see `peers`. Times are those of small volumes and of the finest
levels, which take most of the time; they are measured as in `sampling` and `training`. Memory is that of all levels and of the
paper's sizes. It is added up on the device meta from the sizes of all tensors that are alive at the same time.
"""

from collections.abc import Sequence

import torch
from torch import nn

from benchmarks import peers
from benchmarks.rows import Row, comparison
from benchmarks.sampling import monai_sampling, our_sampling
from benchmarks.timing import Implementation, Spread, time_in_rounds
from benchmarks.training import monai_step, our_step
from pd_ddpm.planning.activation_memory import LiveBytes
from pd_ddpm.planning.flops import META

STEPS = 2


def steps_of_volumes(channels: int, size: Sequence[int], rounds: int) -> list[Row]:
    """Compare a step of one ensemble member and a training step of one patch, in float32.

    Args:
        channels: width of the networks.
        size: (height, width, depth) of volume and patch.
        rounds: number of measurements of each.
    """
    torch.manual_seed(0)
    image, architecture = torch.randn(1, peers.VOLUMES.image_channels, *size), peers.VOLUMES
    ours, monai = peers.our_network(channels, architecture), peers.monai_network(channels, architecture)
    samplings = {name: our_sampling(ours, image, 1, STEPS, "float32") for name in ("ours", "again")}
    samplings["MONAI"] = monai_sampling(monai, image, 1, STEPS)
    steps = {name: our_step("float32", channels, 1, size) for name in ("ours", "again")}
    steps["MONAI"] = monai_step(channels, 1, size)
    setting = f"{channels} channels, {' x '.join(map(str, size))}"
    rows = []
    for what, functions, units in (("member-step", samplings, STEPS), ("training step", steps, 1)):
        times = time_in_rounds({name: Implementation(call, units=units) for name, call in functions.items()}, rounds)
        rows.append(comparison(times, f"{what} of a volume, float32 ({setting})", "MONAI", "MONAI", target=1.0))
    return rows


def memory_of_volumes(channels: int, patch: Sequence[int], volume: Sequence[int]) -> list[Row]:
    """Compare the memory of a pass over a volume, and of a forward and backward pass over a patch, in float32.

    Args:
        channels: width of the networks.
        patch: (height, width, depth) of the patch.
        volume: that of the volume.
    """
    rows = []
    for is_training, size in ((False, volume), (True, patch)):
        ours, theirs = (
            peak_bytes(make(channels, peers.PATCH_DDM).to(META), peers.PATCH_DDM.in_channels, size, is_training) / 1e6
            for make in (peers.our_network, peers.monai_network)
        )
        pass_name = "forward and backward pass over a patch" if is_training else "pass over a volume"
        what = f"memory of a {pass_name}, float32 ({channels} channels, {' x '.join(map(str, size))})"
        exact, ratio = Spread(1.0, 1.0, 1.0), Spread(*[theirs / ours] * 3)
        rows.append(Row(what, "MONAI", "MB", ours, theirs, ratio, exact, target=1.0))
    return rows


def peak_bytes(network: nn.Module, in_channels: int, size: Sequence[int], is_training: bool) -> int:
    """Return the largest number of bytes of tensors that are alive at the same time, without the weights and the input.

    Args:
        network: a denoising network on the device meta.
        in_channels: channels of its input.
        size: size of the input.
        is_training: whether there is a backward pass.
    """
    network.train(is_training)
    x, t = torch.empty((1, in_channels, *size), device=META), torch.ones(1, dtype=torch.long, device=META)
    with LiveBytes(META) as count, torch.inference_mode(not is_training):
        output = network(x, t)
        if is_training:
            output.sum().backward()
    return count.peak
