"""Number formats of the network's arithmetic; schedule, noise, losses and the state of the chain stay float32."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pd_ddpm.runtime.cpu_info import cpu_has_bfloat16, cpu_name
from pd_ddpm.runtime.progress import log


@dataclass(frozen=True)
class NumberFormat:
    """A number format by its name in the configuration, and the type of the tensors that are in it.

    tf32 is a way of multiplying float32 tensors: their type is float32, their products keep ten bits of each factor.
    """

    name: str
    dtype: torch.dtype

    def __str__(self) -> str:
        return self.name

    @property
    def is_half(self) -> bool:
        """Whether a number takes two bytes."""
        return self.dtype != torch.float32


FORMATS = {
    number_format.name: number_format
    for number_format in (
        NumberFormat("float32", torch.float32),
        NumberFormat("tf32", torch.float32),
        NumberFormat("bfloat16", torch.bfloat16),
        NumberFormat("float16", torch.float16),
    )
}
FLOAT32 = FORMATS["float32"]


def choose_device(name: str) -> torch.device:
    """ "auto" is the first GPU if there is one, else the CPU. Raises ValueError for a device that is not there."""
    if name == "auto":
        chosen = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        log.info("device auto: %s", chosen)
        return chosen
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"config key 'device' is '{name}', but PyTorch sees no CUDA device here; use 'auto' or 'cpu'")
    chosen = torch.device(name)
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        there = torch.cuda.device_count()
        raise ValueError(f"config key 'device' is '{name}', but there are {there} CUDA device(s), counted from cuda:0; use one")
    return chosen


def device_name(device: torch.device) -> str:
    """The model of the GPU or of this machine's processor."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name()


def choose_format(name: str, device: torch.device) -> NumberFormat:
    """ "auto" is bfloat16 where the device computes in it natively, else float32.

    float32 is float32, whatever PyTorch's defaults are (see `use`). Raises ValueError for a format that the device lacks: a
    slow emulation helps nobody.
    """
    if name == "auto":
        name = "bfloat16" if lacks("bfloat16", device) is None else "float32"
    if reason := lacks(name, device):
        raise ValueError(f"config key 'precision' is '{name}', {reason}")
    use(FORMATS[name])
    return FORMATS[name]


def lacks(name: str, device: torch.device) -> str | None:
    """Why the device cannot compute in this format, as the end of a sentence, with the remedy; None where it can."""
    recent = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
    if name == "tf32" and not recent:
        return f"which only GPUs of compute capability 8.0 or above multiply in, and {device} is none; use 'float32'"
    if name == "bfloat16" and not (recent or (device.type == "cpu" and cpu_has_bfloat16())):
        return f"which {device} does not compute natively; use 'float32'"
    if name == "float16" and device.type != "cuda":
        return "which is for GPUs; use 'float32' or 'bfloat16' on a CPU"
    return None


def use(number_format: NumberFormat) -> None:
    """Have float32 tensors multiplied as the format says, from now on: in TF32, or in full (cuDNN's default is TF32)."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = number_format.name == "tf32"


def autocast(device: torch.device, number_format: NumberFormat) -> AbstractContextManager:
    """Train networks in this format inside the block: weights stay float32.

    PyTorch's device "meta", on which FLOPs are counted, has no autocast, not even one that is turned off.
    """
    if not torch.amp.is_autocast_available(device.type):
        return nullcontext()
    return torch.autocast(device.type, dtype=number_format.dtype, enabled=number_format.is_half)


def place(model: nn.Module, device: torch.device, number_format: NumberFormat) -> nn.Module:
    """The model on the device, ready to be sampled from, with the weights of its network in the format.

    What it then computes is in the format, too: under `autocast` a half-precision network would move as many bytes as in
    float32. On a CPU, convolutions in float32 take two thirds of the time when the channels lie innermost.
    """
    layout = torch.channels_last if device.type == "cpu" else torch.preserve_format
    return model.to(device, number_format.dtype, memory_format=layout).eval()


def as_weights(x: Tensor, network: nn.Module) -> Tensor:
    """The input of a network in the type of its weights."""
    first = next(network.parameters(), None)
    return x if first is None else x.to(first.dtype)
