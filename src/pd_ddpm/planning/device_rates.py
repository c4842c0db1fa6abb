"""How fast GPUs are assumed to run the paper's denoiser, where nothing was measured. Without torch.

Source: our own estimate for one forward pass of the denoiser on 60 patches of 128 x 192: convolutions at 70 % of the vendor's
peak, everything else at 80 % of the vendor's memory bandwidth, half precision throughout. That is 40 to 60 % of the peak. No
GPU was at hand; the true rates may differ by a factor of 1.5, and small networks are far slower than this.
"""

from typing import NamedTuple


class Rate(NamedTuple):
    """A device, a number format, and the sustained FLOP/s of training and of sampling."""

    device: str
    number_format: str
    training: float
    sampling: float
    measured: bool = False


def _assumed(device: str, number_format: str, teraflops: float) -> Rate:
    return Rate(device, number_format, teraflops * 1e12, teraflops * 1e12)


ASSUMED = (
    _assumed("V100", "float32", 9.1),  # the paper's GPU
    _assumed("V100", "float16", 49),
    _assumed("A100", "bfloat16", 140),
    _assumed("H100", "bfloat16", 329),  # the H200's with 3.35 instead of 4.8 TB/s
    _assumed("H200", "bfloat16", 396),
)
