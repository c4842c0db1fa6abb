"""Compile functions of tensors with torch.compile, into a cache that all jobs of a run share."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from pd_ddpm.runtime.memory import is_shortage
from pd_ddpm.runtime.progress import log

CACHE = Path("work", "inductor")  # below the working directory; TORCHINDUCTOR_CACHE_DIR overrides it
_MAX_SHAPES = 64  # PyTorch's limit of 8 is below the number of slice sizes in some datasets

Mode = Literal["default", "reduce-overhead"]


def is_compiled(setting: Literal["auto", True, False], device: torch.device) -> bool:
    """Return whether the config key `compile` allows compiling on this device; "auto" never compiles on a CPU."""
    return setting is True or (setting == "auto" and device.type == "cuda")


class CompiledFunction:
    """A function of tensors that is compiled for each new shape of its arguments.

    If compiling fails, or the compiled code does, it logs a warning and calls the original function from then on. The function
    must therefore change nothing but its return value.

    Args:
        function: the function or network.
        name: name of the function in the warning.
        mode: "reduce-overhead" launches all kernels as one CUDA graph, which helps where the GPU is faster than the launches.
            It holds memory for each shape. "default" launches them one by one.

    Reference: docs.pytorch.org, `torch.compile`; Ansel et al. 2024 (PyTorch 2).
    """

    def __init__(self, function: Callable[..., Tensor], name: str, mode: Mode = "default") -> None:
        self.function = function
        self.name = name
        # Both are read when the first call compiles.
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(CACHE.resolve()))
        torch._dynamo.config.recompile_limit = _MAX_SHAPES
        self._compiled: Callable[..., Tensor] | None = torch.compile(function, fullgraph=True, dynamic=False, mode=mode)

    def __call__(self, *arguments: Any) -> Tensor:
        """Return the function's value for these arguments.

        Raises:
            RuntimeError: the memory does not suffice. This is no reason to repeat the call uncompiled.
        """
        if self._compiled is None:
            return self.function(*arguments)
        try:
            return self._compiled(*arguments)
        except Exception as error:  # compilers raise many types of errors
            if is_shortage(error):
                raise
            # The first line names the backend, the second one the error.
            cause = " ".join(str(error).split("\n")[:2]).strip() or type(error).__name__
            log.warning("%s: torch.compile failed (%s). It runs uncompiled, which is slower.", self.name, cause)
            self._compiled = None
        return self.function(*arguments)
