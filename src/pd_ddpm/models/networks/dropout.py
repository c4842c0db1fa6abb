"""Dropout that can stay active after training, with masks sampled for each row of the batch."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor, nn
from torch.nn import functional

# Shape of one row -> numbers (N, *shape), uniform on [0, 1), on any device.
UniformSource = Callable[[Sequence[int]], Tensor]


class Dropout(nn.Module):
    """Dropout of single elements or whole channels; the others are scaled by 1 / (1 - probability).

    In training mode it uses PyTorch's global generator, as `torch.nn.Dropout` and `Dropout2d` do. In evaluation mode it
    is inactive, except inside `monte_carlo_dropout`.

    Args:
        probability: of setting an element to zero.
        whole_channels: drop all elements of a channel together.

    Raises:
        ValueError: if the probability is not in (0, 1).
    """

    def __init__(self, probability: float, *, whole_channels: bool = False) -> None:
        super().__init__()
        if not 0 < probability < 1:
            raise ValueError(f"`dropout` is {probability}. It must lie between 0 and 1; for none, omit the layer.")
        self.probability = probability
        self.whole_channels = whole_channels
        self.sample_uniform: UniformSource | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Return x (B, C, *S) with dropout, or x itself if dropout is inactive."""
        size = (*x.shape[:2], *[1] * (x.ndim - 2)) if self.whole_channels else x.shape
        if self.training:
            return x * functional.dropout(x.new_ones(size), self.probability)
        if self.sample_uniform is None:
            return x
        # Compared where the numbers are, so that only one byte per element is copied to the device.
        kept = (self.sample_uniform(size[1:]) >= self.probability).to(x.device)
        return x * (kept.to(x.dtype) / (1 - self.probability))

    def extra_repr(self) -> str:
        """Return the settings, as `print(network)` shows them."""
        return f"{self.probability}, whole_channels={self.whole_channels}"


@contextmanager
def monte_carlo_dropout(network: nn.Module, sample_uniform: UniformSource) -> Iterator[None]:
    """Activate dropout in a network in evaluation mode inside the block.

    Other layers stay in evaluation mode: batch normalisation uses its running statistics.

    Args:
        network: a network with `Dropout` layers.
        sample_uniform: source of the numbers that decide what is dropped, one stream per row of the batch.

    Raises:
        ValueError: if the network has no dropout, or is in training mode, which would not use `sample_uniform`.

    Reference: Gal & Ghahramani 2016 (dropout as a Bayesian approximation).
    """
    layers = [module for module in network.modules() if isinstance(module, Dropout)]
    if not layers:
        raise ValueError("the network has no dropout, so all samples would be equal. Set `dropout` above 0.")
    if network.training:
        raise ValueError("the network is in training mode. Call eval() before sampling from it.")
    previous = [layer.sample_uniform for layer in layers]
    try:
        for layer in layers:
            layer.sample_uniform = sample_uniform
        yield
    finally:
        for layer, source in zip(layers, previous, strict=True):
            layer.sample_uniform = source
