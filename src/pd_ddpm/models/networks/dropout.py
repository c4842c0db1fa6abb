"""Dropout that can stay on after training, with masks that are drawn for each row of the batch."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor, nn
from torch.nn import functional

Draw = Callable[[Sequence[int]], Tensor]  # shape of one row -> uniform on [0, 1), (N, *shape), on the CPU or elsewhere


class Dropout(nn.Module):
    """Sets elements, or `whole_channels`, to zero with a probability and scales the others by 1 / (1 - probability).

    In training it draws from PyTorch's global generator, as `torch.nn.Dropout` and `Dropout2d` do. In evaluation it does
    nothing, except inside `monte_carlo_dropout`. Raises ValueError where the probability is not in (0, 1).
    """

    def __init__(self, probability: float, *, whole_channels: bool = False) -> None:
        super().__init__()
        if not 0 < probability < 1:
            raise ValueError(f"dropout is {probability}; it is a probability between 0 and 1, and 0 is no layer at all")
        self.probability = probability
        self.whole_channels = whole_channels
        self.draw: Draw | None = None

    def forward(self, x: Tensor) -> Tensor:
        size = (*x.shape[:2], *[1] * (x.ndim - 2)) if self.whole_channels else x.shape
        if self.training:
            return x * functional.dropout(x.new_ones(size), self.probability)
        if self.draw is None:
            return x
        # Compared where it was drawn: what then travels to the device is one byte per element.
        kept = (self.draw(size[1:]) >= self.probability).to(x.device)
        return x * (kept.to(x.dtype) / (1 - self.probability))

    def extra_repr(self) -> str:
        return f"{self.probability}, whole_channels={self.whole_channels}"


@contextmanager
def monte_carlo_dropout(network: nn.Module, draw: Draw) -> Iterator[None]:
    """Inside the block a network in evaluation mode drops out, each row of its batch by what `draw` gives for that row.

    Its other layers stay in evaluation mode: batch normalisation keeps to its running statistics. Raises ValueError where
    the network has no dropout, or is in training mode, in which it would not ask `draw`.
    """
    layers = [module for module in network.modules() if isinstance(module, Dropout)]
    if not layers:
        raise ValueError("the network has no dropout, so all draws would be equal; give it a 'dropout' above 0")
    if network.training:
        raise ValueError("the network is in training mode; call eval() before drawing from it")
    before = [layer.draw for layer in layers]
    try:
        for layer in layers:
            layer.draw = draw
        yield
    finally:
        for layer, earlier in zip(layers, before, strict=True):
            layer.draw = earlier
