"""How many rows may go through a network at once: found from the memory that is free."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from pd_ddpm.runtime.memory import available_memory
from pd_ddpm.runtime.progress import log

LARGEST = {"cpu": 20, "cuda": 128}  # more make neither a core nor a GPU faster
SHARE = 0.7  # of the free memory; the rest is for what fragments leave unused and for whoever else computes here
_PROBED = 2, 6


def find_batch_size(run: Callable[[int], object], device: torch.device) -> int:
    """The rows that fit into the free memory, from 1 to the LARGEST of the device.

    run: does with so many rows what takes the memory. On a GPU the peaks of two numbers of rows tell what each row takes. On
    a CPU, where nothing counts peaks, a row is taken to need whatever its layers give out, as if all of that were kept.
    """
    if device.type == "cuda":
        few, more = (_peak(run, rows, device) for rows in _PROBED)
        each = max((more - few) / (_PROBED[1] - _PROBED[0]), 1)
        besides = max(few - _PROBED[0] * each, 0)
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        free = torch.cuda.mem_get_info(device)[0] + held
    else:
        each, besides, free = max(_activation_bytes(run), 1), 0, available_memory()
    rows = int((SHARE * free - besides) / each)
    chosen = min(max(rows, 1), LARGEST[device.type])
    log.info("batch auto: %d rows of %.1f MB, %.0f MB being free", chosen, each / 1e6, free / 1e6)
    return chosen


def _peak(run: Callable[[int], object], rows: int, device: torch.device) -> int:
    """Bytes that PyTorch's allocator gave out at most for this, beside what it had given out before."""
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    run(rows)
    return torch.cuda.max_memory_allocated(device) - before


def _activation_bytes(run: Callable[[int], object]) -> int:
    """Bytes that all layers give out for one row."""
    total = 0

    def note(module: nn.Module, _inputs: tuple, output: object) -> None:
        nonlocal total
        if isinstance(output, Tensor) and next(module.children(), None) is None:
            total += output.nbytes

    handle = nn.modules.module.register_module_forward_hook(note)
    try:
        run(1)
    finally:
        handle.remove()
    return total
