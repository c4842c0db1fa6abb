"""Number formats of the network's arithmetic; schedule, noise, losses and the state of the chain stay float32."""

from contextlib import AbstractContextManager
from pathlib import Path

import torch
from torch import nn

from pd_ddpm.console import log
from pd_ddpm.run_record import cpu_name

FORMATS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


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


def choose_format(name: str, device: torch.device) -> torch.dtype:
    """ "auto" is bfloat16 where the device computes in it natively, else float32.

    float32 is float32: cuDNN's TF32, its default for convolutions, is turned off then. Raises ValueError for a format that
    the device lacks: a slow emulation helps nobody.
    """
    native = _has_bfloat16(device)
    if name == "auto":
        name = "bfloat16" if native else "float32"
    if name == "bfloat16" and not native:
        raise ValueError(f"config key 'precision' is 'bfloat16', which {device} does not compute natively; use 'float32'")
    if name == "float16" and device.type == "cpu":
        raise ValueError("config key 'precision' is 'float16', which is for GPUs; use 'float32' or 'bfloat16' on a CPU")
    torch.backends.cudnn.allow_tf32 = name != "float32"
    return FORMATS[name]


def autocast(device: torch.device, number_format: torch.dtype) -> AbstractContextManager:
    """Run networks in this format inside the block."""
    return torch.autocast(device.type, dtype=number_format, enabled=number_format != torch.float32)


def place(network: nn.Module, device: torch.device, number_format: torch.dtype) -> nn.Module:
    """The network on the device, ready to be sampled from.

    Convolutions in float32 on a CPU take two thirds of the time when the channels lie innermost; other formats gain nothing.
    """
    if device.type == "cpu" and number_format == torch.float32:
        network = network.to(memory_format=torch.channels_last)
    return network.to(device).eval()


def _has_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    cpu_information = Path("/proc/cpuinfo")
    return device.type == "cpu" and cpu_information.exists() and "avx512_bf16" in cpu_information.read_text()
