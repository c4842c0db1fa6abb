"""Find the largest batch that fits into the free memory."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from pd_ddpm.diffusion.noise import MemberNoise
from pd_ddpm.inference.segmenters import Segmenter
from pd_ddpm.runtime.memory import available_memory
from pd_ddpm.runtime.progress import log

LARGEST = {"cpu": 20, "cuda": 128}  # larger batches make neither a core nor a GPU faster
USED_FRACTION = 0.7  # of the free memory; the rest is for fragmentation and for other processes
_PROBED = 2, 6  # batch sizes for which the peak memory of a GPU is measured


def probe_batch_size(segmenter: Segmenter, image_shape: Sequence[int], device: torch.device) -> int:
    """Return how many images fit into the free memory, tested with one reverse step.

    Args:
        segmenter: the segmenter.
        image_shape: shape (M, *S) of an image, coordinate channels included.
        device: device of the network.
    """
    return find_batch_size(shortest_evaluation(segmenter, image_shape, device), device)


def shortest_evaluation(segmenter: Segmenter, image_shape: Sequence[int], device: torch.device) -> Callable[[int], Tensor]:
    """Return a function that evaluates a segmenter with one reverse step on a batch of this many empty images.

    Args:
        segmenter: the segmenter.
        image_shape: shape (M, *S) of an image, coordinate channels included.
        device: device of the network.
    """
    short = segmenter.shortened()

    def evaluate(size: int) -> Tensor:
        images = torch.zeros(size, *image_shape, device=device)
        noise = MemberNoise([("probe", row) for row in range(size)])
        return short(images, torch.zeros(size, 1, *image_shape[1:]), noise)

    return evaluate


def find_batch_size(evaluate: Callable[[int], object], device: torch.device) -> int:
    """Return the largest batch that fits into the free memory, from 1 to LARGEST of the device type.

    On a GPU, the memory per image is the slope between the peaks of two batch sizes. A CPU does not report peaks, so the
    outputs of all layers are added up, as if all were kept at the same time.

    Args:
        evaluate: evaluates the network on a batch of this size.
        device: device of the network.

    Returns:
        The number of images.
    """
    if device.type == "cuda":
        small, large = (_peak_bytes(evaluate, size, device) for size in _PROBED)
        per_image = max((large - small) / (_PROBED[1] - _PROBED[0]), 1)
        fixed = max(small - _PROBED[0] * per_image, 0)
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        free = torch.cuda.mem_get_info(device)[0] + cached
    else:
        per_image, fixed, free = max(_activation_bytes(evaluate), 1), 0, available_memory()
    size = int((USED_FRACTION * free - fixed) / per_image)
    batch = min(max(size, 1), LARGEST[device.type])
    log.info("batch auto: %d images of %.1f MB each, %.0f MB free", batch, per_image / 1e6, free / 1e6)
    return batch


def _peak_bytes(evaluate: Callable[[int], object], size: int, device: torch.device) -> int:
    """Return the peak of the memory that PyTorch allocates during an evaluation, in addition to what it held before."""
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    evaluate(size)
    return torch.cuda.max_memory_allocated(device) - before


def _activation_bytes(evaluate: Callable[[int], object]) -> int:
    """Return the total size of the outputs of all layers for one image."""
    total = 0

    def add_output(module: nn.Module, _inputs: tuple, output: object) -> None:
        nonlocal total
        if isinstance(output, Tensor) and next(module.children(), None) is None:
            total += output.nbytes

    handle = nn.modules.module.register_module_forward_hook(add_output)
    try:
        evaluate(1)
    finally:
        handle.remove()
    return total
