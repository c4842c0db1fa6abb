"""Precision of the networks' arithmetic. Schedule, noise, losses and the state of the chain stay float32."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pd_ddpm.runtime.cpu_info import cpu_has_bfloat16, cpu_name
from pd_ddpm.runtime.progress import log


@dataclass(frozen=True)
class Precision:
    """A precision by its name in the configuration, and the dtype of its tensors.

    tf32 has float32 tensors, but multiplies them with ten bits of each factor.
    """

    name: str
    dtype: torch.dtype

    def __str__(self) -> str:
        return self.name

    @property
    def is_half(self) -> bool:
        """Whether a number takes two bytes."""
        return self.dtype != torch.float32


PRECISIONS = {
    precision.name: precision
    for precision in (
        Precision("float32", torch.float32),
        Precision("tf32", torch.float32),
        Precision("bfloat16", torch.bfloat16),
        Precision("float16", torch.float16),
    )
}
FLOAT32 = PRECISIONS["float32"]

# Fastest first, where a device supports them. Tensor cores multiply float16 and bfloat16 equally fast, but float16 rounds eight
# times finer, so that networks pass their test more often. tf32 moves twice as many bytes and multiplies half as fast.
BY_SPEED = ("float16", "bfloat16", "tf32", "float32")


def choose_device(name: str) -> torch.device:
    """Return the device of the config key `device`; "auto" is the first GPU if there is one, else the CPU.

    Raises:
        ValueError: this machine does not have the device.
    """
    if name == "auto":
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        log.info("device auto: %s", device)
        return device
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"`device`: '{name}' is not available, since PyTorch finds no CUDA device here. Use 'auto' or 'cpu'.")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise ValueError(f"`device`: '{name}' does not exist. The {count} CUDA device(s) count from cuda:0, use one of them.")
    return device


def device_name(device: torch.device) -> str:
    """Return the model of the GPU or of this machine's processor."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name()


def choose_precision(name: str, device: torch.device) -> Precision:
    """Return the precision of the config key `precision` for training, and set PyTorch's matrix multiplication to it.

    "auto" is bfloat16 if the device computes in it natively, else float32. It is never float16, in which gradients may
    underflow. Emulated precisions are refused, because they are slower than float32.

    Raises:
        ValueError: the device does not support the precision.
    """
    if name == "auto":
        name = "bfloat16" if unsupported_reason("bfloat16", device) is None else "float32"
    if reason := unsupported_reason(name, device):
        raise ValueError(f"`precision`: '{name}' is not supported: {reason}.")
    set_matmul_precision(PRECISIONS[name])
    return PRECISIONS[name]


def precisions_by_speed(device: torch.device) -> list[Precision]:
    """Return the precisions that the device supports, fastest first."""
    return [PRECISIONS[name] for name in BY_SPEED if unsupported_reason(name, device) is None]


def unsupported_reason(name: str, device: torch.device) -> str | None:
    """Return why the device does not support this precision, and what to use instead, or None if it does."""
    is_ampere_or_later = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
    if name == "tf32" and not is_ampere_or_later:
        return f"it needs a GPU of compute capability 8.0 or above, unlike {device}. Use 'float32'"
    if name == "bfloat16" and not (is_ampere_or_later or (device.type == "cpu" and cpu_has_bfloat16())):
        return f"{device} does not compute in it natively. Use 'float32'"
    if name == "float16" and device.type != "cuda":
        return "it needs a GPU. Use 'float32' or 'bfloat16' on a CPU"
    return None


def set_matmul_precision(precision: Precision) -> None:
    """Set whether PyTorch multiplies float32 tensors in TF32 from now on; cuDNN's default would be TF32."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = precision.name == "tf32"


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager:
    """Return a context that trains networks in this precision; their weights stay float32.

    The device "meta", which counts FLOPs, has no autocast, not even a disabled one.
    """
    if not torch.amp.is_autocast_available(device.type):
        return nullcontext()
    return torch.autocast(device.type, dtype=precision.dtype, enabled=precision.is_half)


def prepare_for_inference(model: nn.Module, device: torch.device, precision: Precision) -> nn.Module:
    """Move a model to the device in evaluation mode, with its weights in this precision.

    Weights and activations are both in this precision: under `autocast`, a half-precision network would move as many bytes
    as in float32.

    Args:
        model: a network or denoiser, changed in place.
        device: where it computes from now on.
        precision: dtype of its weights and activations.

    Returns:
        The model.
    """
    return move_model(model, device, precision).to(precision.dtype).eval()


def move_model(model: nn.Module, device: torch.device, precision: Precision) -> nn.Module:
    """Move a model to the device, with its weights in the layout in which it computes fastest in this precision.

    For networks of slices on a CPU that is channels-last, except for group normalisation in half precision: PyTorch's is so
    slow in that layout that the demo's denoiser would take 1.7 times as long.

    Args:
        model: a network or denoiser, changed in place; its dtype stays.
        device: where it computes from now on.
        precision: the precision of its activations.

    Returns:
        The model.
    """
    has_volumes = any(parameter.ndim == 5 for parameter in model.parameters())
    has_group_norm = any(isinstance(module, nn.GroupNorm) for module in model.modules())
    is_faster = device.type == "cpu" and not has_volumes and not (has_group_norm and precision.is_half)
    return model.to(device, memory_format=torch.channels_last if is_faster else torch.contiguous_format)


def cast_to_weights(x: Tensor, network: nn.Module) -> Tensor:
    """Cast the input of a network to the dtype of its weights."""
    first = next(network.parameters(), None)
    return x if first is None else x.to(first.dtype)
