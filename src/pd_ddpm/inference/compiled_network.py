"""Compile the network of a denoiser for the batches of a job, if that saves more time than it takes."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from pd_ddpm.inference.batch_size import probe_batch_size, shortest_evaluation
from pd_ddpm.inference.segmenters import DiffusionSegmenter, Segmenter
from pd_ddpm.runtime.compilation import CompiledFunction
from pd_ddpm.runtime.progress import log

Size = tuple[int, ...]  # spatial size of the network's input

# The paper's denoiser on an H200 in bfloat16, 60 images: 72.4 ms uncompiled, 40.5 ms compiled, 35 s to compile it.
SAVED_SHARE = 0.44
COMPILE_SECONDS = 45.0
LOAD_SECONDS = 10.0  # from the cache; ours, not measured
# Below this batch, the GPU waits for the launches of the paper's denoiser. There they are recorded as one CUDA graph. Above, a
# graph saved 2 % of the time, and would hold the memory of its batch.
SMALL_BATCH = 20


class CompiledNetwork(nn.Module):
    """The network of a denoiser, compiled for one batch size for each image size. Other batches run uncompiled.

    A batch with fewer rows is filled up with rows of zeros. Rows do not affect each other. If there are so few that an
    uncompiled evaluation without the filling is faster, they run uncompiled.

    Args:
        network: x (B, C, *S), t (B,) -> (B, C', *S).
        batches: image size S -> rows B.
        smallest_share: smallest share of these rows that is filled up.
    """

    def __init__(self, network: nn.Module, batches: Mapping[Size, int], smallest_share: float = 1 - SAVED_SHARE) -> None:
        super().__init__()
        self.network = network
        self.batches = dict(batches)
        self.smallest_share = smallest_share
        modes = {size: "reduce-overhead" if rows < SMALL_BATCH else "default" for size, rows in self.batches.items()}
        self._functions = {size: CompiledFunction(network, "the denoiser", mode) for size, mode in modes.items()}

    @property
    def divisor(self) -> int:
        """Number that every spatial size must be a multiple of."""
        return self.network.divisor

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Return the network's output for x (B, C, *S) and t (B,)."""
        rows = self.batches.get(tuple(x.shape[2:]), 0)
        missing = rows - len(x)
        if missing < 0 or len(x) < self.smallest_share * rows:
            return self.network(x, t)
        filling = [0] * (2 * x.ndim - 1) + [missing]
        output = self._functions[tuple(x.shape[2:])](functional.pad(x, filling), functional.pad(t, (0, missing)))
        # A copy, since the next replay of a CUDA graph writes into the same memory.
        return output[: len(x)].clone()


@dataclass(frozen=True)
class Compiler:
    """Compiles the denoiser of a segmenter.

    Attributes:
        setting: key `compile`, "auto" or true.
        batch: key `sampling.batch`.
        image_channels: channels M of the network's images, coordinate channels included.
        device: device of the network.
    """

    setting: Literal["auto", True]
    batch: int | Literal["auto"]
    image_channels: int
    device: torch.device

    @torch.inference_mode()
    def compile(
        self,
        segmenter: Segmenter,
        evaluations: Mapping[Size, int],
        cached: Mapping[Size, int] | None = None,
        smallest_share: float = 1 - SAVED_SHARE,
    ) -> dict[Size, int]:
        """Replace the network of a segmenter's denoiser by a compiled one, and log why.

        "auto" compiles for an image size if this saves more time than it takes.

        Args:
            segmenter: the segmenter; only a reverse chain evaluates its network often enough.
            evaluations: image size -> evaluations of the network that are ahead, counted by image.
            cached: image size -> images per evaluation of the compiled code in the cache.
            smallest_share: see `CompiledNetwork`.

        Returns:
            Image size -> images per evaluation of the compiled network; empty if nothing is compiled.
        """
        if not isinstance(segmenter, DiffusionSegmenter):
            return {}
        batches = {}
        for size, number in evaluations.items():
            shape = (self.image_channels, *size)
            batch = probe_batch_size(segmenter, shape, self.device) if self.batch == "auto" else self.batch
            cost = LOAD_SECONDS if (cached or {}).get(size) == batch else COMPILE_SECONDS
            if self.setting is True or _pays(time_evaluation(segmenter, shape, batch, self.device), size, number, cost):
                batches[size] = batch
        if batches:
            segmenter.denoiser.network = CompiledNetwork(segmenter.denoiser.network, batches, smallest_share)
        return batches


def compiled_batch(segmenter: Segmenter, size: Sequence[int]) -> int | None:
    """Return the batch for which the network of a segmenter is compiled for images of this size; None if it is not."""
    network = getattr(getattr(segmenter, "denoiser", None), "network", None)
    return network.batches.get(tuple(size)) if isinstance(network, CompiledNetwork) else None


def time_evaluation(segmenter: Segmenter, image_shape: Sequence[int], batch: int, device: torch.device) -> float:
    """Return the seconds of one reverse step per image, after a first one.

    Args:
        segmenter: the segmenter.
        image_shape: shape (M, *S) of an image.
        batch: images per evaluation.
        device: device of the network.
    """
    evaluate = shortest_evaluation(segmenter, image_shape, device)
    for _ in range(2):
        started = time.perf_counter()
        # Reading a value waits for the device.
        evaluate(batch).sum().item()
    return (time.perf_counter() - started) / batch


def _pays(seconds: float, size: Size, evaluations: int, cost: float) -> bool:
    """Return whether compiling saves more time than it costs, and log both."""
    saved = SAVED_SHARE * evaluations * seconds
    log.info(
        "compile auto: %s pixels, %d evaluations of %.2f ms; compiling saves about %.0f s and takes about %.0f s: %s",
        " x ".join(map(str, size)),
        evaluations,
        1e3 * seconds,
        saved,
        cost,
        "compiled" if saved > cost else "not compiled",
    )
    return saved > cost
