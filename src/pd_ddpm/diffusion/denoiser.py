"""Denoiser: predicts x_0 from x_t, conditioned on the image and the timestep."""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from pd_ddpm.diffusion.mask_coding import MaskCoding
from pd_ddpm.diffusion.schedule import Schedule
from pd_ddpm.runtime.precision import cast_to_weights


class Denoiser(nn.Module):
    """A conditional denoiser, which hides whether its network predicts the noise or the mask.

    Attributes:
        network: (B, M + C, *S), t (B,) -> (B, C, *S); the image channels come first, the noisy mask last.
        schedule: the forward process.
        coding: the values of background and lesion in x_0.
        predicts: "noise" if the network's output is the noise in x_t, "mask" if it is the logit of the mask.

    Reference: PD-DDPM, Fig. 1 (the image is concatenated to x_t); Ho et al. 2020 (DDPM), Eqs. 11 and 14 (noise prediction).
    """

    def __init__(self, network: nn.Module, schedule: Schedule, coding: MaskCoding, predicts: Literal["noise", "mask"]):
        super().__init__()
        self.network = network
        self.schedule = schedule
        self.coding = coding
        self.predicts = predicts

    @property
    def divisor(self) -> int:
        """Number that every spatial size must be a multiple of."""
        return self.network.divisor

    def output(self, x_t: Tensor, image: Tensor, t: Tensor) -> Tensor:
        """Return the network's output, converted to float32.

        Args:
            x_t: (B, C, *S), the noisy mask.
            image: (B, M, *S), z-scored.
            t: (B,), timesteps in 1..T; each row has its own.

        Returns:
            (B, C, *S): predicted noise or mask logits, as `predicts` says.
        """
        return self.network(cast_to_weights(torch.cat([image, x_t], dim=1), self.network), t).float()

    def expected_mask(self, logits: Tensor) -> Tensor:
        """Return the expected mask of these logits, in mask coding and in the same shape."""
        return self.coding.encode(logits.sigmoid())

    def estimate_x0_(self, output: Tensor, x_t: Tensor, t: int) -> Tensor:
        """Convert the network's output at timestep t to an estimate of x_0; may overwrite `output`.

        Args:
            output: (B, C, *S), from `output`.
            x_t: (B, C, *S), the noisy mask that the output belongs to.
            t: timestep in 1..T, the same for all rows.

        Returns:
            (B, C, *S) in mask coding, within its two values.

        Reference: Ho et al. 2020 (DDPM), Eq. 15.
        """
        if self.predicts == "mask":
            return self.expected_mask(output)
        signal = self.schedule.signal(t)
        # Near t = T the division amplifies errors up to 2e4 times (cosine schedule), so the estimate must be clipped.
        amplification = 1 / math.sqrt(max(signal, math.ulp(1.0)))
        return self.coding.clip_(output.mul_(-amplification * math.sqrt(1 - signal)).add_(x_t, alpha=amplification))

    def forward(self, x_t: Tensor, image: Tensor, t: int) -> Tensor:
        """Return the estimate of x_0.

        Args:
            x_t: (B, C, *S), the noisy mask.
            image: (B, M, *S), z-scored.
            t: timestep in 1..T, the same for all rows.

        Returns:
            (B, C, *S) float32 in mask coding.
        """
        return self.estimate_x0_(self.output(x_t, image, torch.full((len(x_t),), t, device=x_t.device)), x_t, t)
