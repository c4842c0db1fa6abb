"""Find the largest batch that fits into the free memory."""

from collections.abc import Callable, Sequence
from contextlib import suppress

import torch
from torch import Tensor, nn

from pd_ddpm.diffusion.noise import MemberNoise
from pd_ddpm.inference.segmenters import Segmenter
from pd_ddpm.runtime.memory import LARGEST_BATCH, available_memory
from pd_ddpm.runtime.progress import log

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
        return short(images, torch.zeros(size, segmenter.mask_channels, *image_shape[1:]), noise)

    return evaluate


def find_batch_size(evaluate: Callable[[int], object], device: torch.device) -> int:
    """Return the largest batch that fits into the free memory, from 1 to LARGEST_BATCH of the device type.

    On a GPU, the memory per image is the slope between the peaks of two batch sizes. Volumes may be so large that the larger of
    them, or both, do not fit. The memory per image is then the smaller one's peak divided by its size, or the batch is 1. A CPU
    does not report peaks, so the outputs of all layers are added up, as if all were kept at the same time.

    Args:
        evaluate: evaluates the network on a batch of this size.
        device: device of the network.

    Returns:
        The number of images.
    """
    if device.type == "cuda":
        peaks = [peak for size in _PROBED if (peak := _peak_bytes(evaluate, size, device)) is not None]
        if not peaks:
            log.info("batch auto: 1 image, since %d do not fit into the memory", _PROBED[0])
            return 1
        per_image, fixed = _linear_memory(peaks)
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        free = torch.cuda.mem_get_info(device)[0] + cached
    else:
        per_image, fixed, free = max(_activation_bytes(evaluate), 1), 0, available_memory()
    size = int((USED_FRACTION * free - fixed) / per_image)
    batch = min(max(size, 1), LARGEST_BATCH[device.type])
    log.info("batch auto: %d images of %.1f MB each, %.0f MB free", batch, per_image / 1e6, free / 1e6)
    return batch


def _linear_memory(peaks: Sequence[int]) -> tuple[float, float]:
    """Return the bytes per image and those that do not depend on their number, from the peaks of one or both probes."""
    if len(peaks) == 1:
        return max(peaks[0] / _PROBED[0], 1), 0
    per_image = max((peaks[1] - peaks[0]) / (_PROBED[1] - _PROBED[0]), 1)
    return per_image, max(peaks[0] - _PROBED[0] * per_image, 0)


def _peak_bytes(evaluate: Callable[[int], object], size: int, device: torch.device) -> int | None:
    """Return the peak of the memory that PyTorch allocates during an evaluation, in addition to what it held before.

    It is None if the memory does not suffice.
    """
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    with suppress(torch.OutOfMemoryError):
        evaluate(size)
        return torch.cuda.max_memory_allocated(device) - before
    torch.cuda.empty_cache()  # not earlier: the traceback of the error holds the tensors of the evaluation
    return None


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
