"""How a binary mask is written as the clean end x0 of a diffusion chain.

The PD-DDPM paper does not say which numbers stand for background and lesion. The first author's later code diffuses
{0, 1}; most other work diffuses {-1, 1}, which carries twice the amplitude and so survives more noise at the same time.
"""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class MaskCoding:
    """An affine map from lesion probability [0, 1] to diffusion space [low, high]."""

    low: float
    high: float

    def encode(self, probability: Tensor) -> Tensor:
        """Probability or binary mask in [0, 1], any shape, to diffusion space."""
        return self.low + (self.high - self.low) * probability

    def decode(self, x: Tensor) -> Tensor:
        """Diffusion space to probability, cut off at 0 and 1."""
        return ((x - self.low) / (self.high - self.low)).clamp(0, 1)

    def clip_(self, x: Tensor) -> Tensor:
        """An estimate of the clean mask, cut off in place at the values that a mask can have."""
        return x.clamp_(self.low, self.high)


CODINGS = {"signed": MaskCoding(-1.0, 1.0), "binary": MaskCoding(0.0, 1.0)}
