"""From the memory of the machine to that of a GPU, without waiting for it."""

import numpy as np
import torch
from torch import Tensor


def on_device(values: Tensor | np.ndarray, device: torch.device) -> Tensor:
    """A tensor of these values on the device.

    A copy from pageable memory waits until the GPU has done all its work; one from pinned memory joins its queue.
    """
    values = torch.as_tensor(values)
    return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values.to(device)
