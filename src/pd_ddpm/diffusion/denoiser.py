"""A network, told image and time, as an estimate of the clean mask."""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from pd_ddpm.diffusion.mask_coding import MaskCoding
from pd_ddpm.diffusion.schedule import Schedule
from pd_ddpm.runtime.precision import as_weights


class Denoiser(nn.Module):
    """Estimates x0 from x_t and the image. It alone knows whether its network predicts the noise or the mask.

    network: (B, M + C, *S), t (B,) -> (B, C, *S); the image channels come first, the noisy mask last.
    predicts: "noise": the output is the noise in x_t (Ho et al. 2020, Eq. 14); "mask": the output is the logit of the mask.
    """

    def __init__(self, network: nn.Module, schedule: Schedule, coding: MaskCoding, predicts: Literal["noise", "mask"]):
        super().__init__()
        self.network = network
        self.schedule = schedule
        self.coding = coding
        self.predicts = predicts

    @property
    def divisor(self) -> int:
        return self.network.divisor

    def output(self, x_t: Tensor, image: Tensor, t: Tensor) -> Tensor:
        """What the network itself says, in float32: noise or mask logits, (B, C, *S)."""
        return self.network(as_weights(torch.cat([image, x_t], dim=1), self.network), t).float()

    def expected(self, logits: Tensor) -> Tensor:
        """The mask that is expected of its logits, in mask coding."""
        return self.coding.encode(logits.sigmoid())

    def clean_(self, output: Tensor, x_t: Tensor, t: int) -> Tensor:
        """The estimate of x0 that this output at time t means, within the mask's own values; output's memory may be taken."""
        if self.predicts == "mask":
            return self.expected(output)
        signal = self.schedule.signal(t)
        # At t near T the division amplifies by up to 2e4 (cosine); the clipping keeps the chain on the mask's scale.
        amplified = 1 / math.sqrt(max(signal, math.ulp(1.0)))
        return self.coding.clip_(output.mul_(-amplified * math.sqrt(1 - signal)).add_(x_t, alpha=amplified))

    def forward(self, x_t: Tensor, image: Tensor, t: int) -> Tensor:
        """x_t (B, C, *S) at time t in 1..T, image (B, M, *S) -> estimate of x0 (B, C, *S) in mask coding."""
        return self.clean_(self.output(x_t, image, torch.full((len(x_t),), t, device=x_t.device)), x_t, t)
