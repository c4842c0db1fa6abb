"""A network, told image and time, as an estimate of the clean mask."""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from pd_ddpm.masks import MaskCoding
from pd_ddpm.precision import as_weights
from pd_ddpm.schedule import Schedule


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

    def clean(self, output: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """The estimate of x0 that this output means, within the mask's own values."""
        if self.predicts == "mask":
            return self.coding.encode(output.sigmoid())
        signal, noise_level = self.schedule.roots(t, x_t)
        # At t near T the division amplifies by up to 2e4 (cosine); the clipping keeps the chain on the mask's scale.
        amplified = signal.clamp(min=math.sqrt(math.ulp(1.0))).reciprocal()
        return self.coding.clip_((amplified * x_t).addcmul_(amplified * noise_level, output, value=-1))

    def forward(self, x_t: Tensor, image: Tensor, t: Tensor) -> Tensor:
        """x_t (B, C, *S), image (B, M, *S), t (B,) integers in 1..T -> estimate of x0 (B, C, *S) in mask coding."""
        return self.clean(self.output(x_t, image, t), x_t, t)
