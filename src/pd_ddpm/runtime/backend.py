"""The device and the precision that networks are trained in."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal

import torch

from pd_ddpm.runtime.compute import Compute
from pd_ddpm.runtime.precision import Precision, autocast, choose_device, choose_precision


@dataclass(frozen=True)
class Backend:
    """A device that exists, a precision that it supports, and the key `compile`."""

    device: torch.device
    precision: Precision
    compile: Literal["auto", True, False] = False

    @classmethod
    def from_compute(cls, compute: Compute) -> Backend:
        """Set PyTorch's threads, and choose the device and the precision.

        Raises:
            ValueError: if the device does not exist or does not support the precision.
        """
        torch.set_num_threads(compute.threads)
        device = choose_device(compute.device)
        return cls(device, choose_precision(compute.precision, device), compute.compile)

    def autocast(self) -> AbstractContextManager:
        """Return a context in which networks compute in this precision; their weights stay float32."""
        return autocast(self.device, self.precision)
