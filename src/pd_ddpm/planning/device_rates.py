"""Speed of devices: assumed for the paper's denoiser on GPUs, or measured. Does not import PyTorch.

The assumed rates are our estimate for one forward pass of the denoiser on 60 patches of 128 x 192. Convolutions run at 70 % of
the vendor's peak, everything else at 80 % of the vendor's memory bandwidth, in half precision throughout. The result is 40 to
60 % of the peak. Real rates may differ by a factor of 1.5, and small networks are far slower. On an H200 with PyTorch 2.11 we
measured 154 TFLOP/s in sampling, 275 compiled, and about 50 in training (docs/performance.md).
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Rate:
    """Sustained speed of a device.

    Attributes:
        device: model of the GPU, or "CPU".
        precision: precision of the network, such as "bfloat16".
        training: FLOP/s of training.
        sampling: FLOP/s of sampling.
        measured: whether it was measured on this machine.
    """

    device: str
    precision: str
    training: float
    sampling: float
    measured: bool = False


def _assumed(device: str, precision: str, teraflops: float) -> Rate:
    return Rate(device, precision, teraflops * 1e12, teraflops * 1e12)


ASSUMED = (
    _assumed("V100", "float32", 9.1),  # the paper's GPU
    _assumed("V100", "float16", 49),
    _assumed("A100", "bfloat16", 140),
    _assumed("H100", "bfloat16", 329),  # as the H200, but with 3.35 instead of 4.8 TB/s
    _assumed("H200", "bfloat16", 396),
)
