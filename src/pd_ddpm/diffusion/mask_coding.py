"""Mask coding: the two numbers that stand for background and lesion in x_0.

The PD-DDPM paper does not state them. The first author's later code uses {0, 1}. Most other work uses {-1, 1}, which has twice
the amplitude and therefore survives more noise at the same timestep.
"""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class MaskCoding:
    """An affine map from lesion probability in [0, 1] to x_0.

    Attributes:
        low: value of background in x_0.
        high: value of lesion in x_0.
    """

    low: float
    high: float

    @property
    def midpoint(self) -> float:
        """The value of x_0 that stands for neither background nor lesion."""
        return (self.low + self.high) / 2

    def encode(self, probability: Tensor) -> Tensor:
        """Return x_0 of a lesion probability or binary mask in [0, 1], in the same shape."""
        return self.low + (self.high - self.low) * probability

    def decode(self, x: Tensor) -> Tensor:
        """Return the lesion probability of x_0 in the same shape, clipped to [0, 1]."""
        return ((x - self.low) / (self.high - self.low)).clamp(0, 1)

    def clip_(self, x: Tensor) -> Tensor:
        """Clip an estimate of x_0 to [low, high] in place, and return it."""
        return x.clamp_(self.low, self.high)


CODINGS = {"signed": MaskCoding(-1.0, 1.0), "binary": MaskCoding(0.0, 1.0)}
