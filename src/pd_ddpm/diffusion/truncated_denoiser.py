"""The network of TDPM: a denoiser for t <= T' that also draws x_T' from noise in one step (Zheng et al. 2022)."""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from pd_ddpm.diffusion.denoiser import Denoiser
from pd_ddpm.diffusion.mask_coding import MaskCoding
from pd_ddpm.diffusion.schedule import Schedule

HEADS = ("direct", "mean_plus_noise")


class TruncatedDenoiser(Denoiser):
    """A denoiser on t = 1..T' whose network is at the time T' + 1 a generator of x_T'.

    t_max: T'. discriminator: (image (B, M, *S), x (B, 1, *S)) -> logits of any shape (B, ...); it takes part in training only.
    head: "direct": the network's output is x_T' itself (TDPM's implicit prior). "mean_plus_noise" (ours): its
    output is the logit of a mask, which is diffused to T'; so the noise in x_T' is right by construction, and only the mask
    has to be learnt. Raises ValueError for another head or a T' that the schedule does not have.
    """

    training_only = ("discriminator.",)

    def __init__(
        self,
        network: nn.Module,
        schedule: Schedule,
        coding: MaskCoding,
        predicts: Literal["noise", "mask"],
        *,
        t_max: int,
        head: Literal["direct", "mean_plus_noise"],
        discriminator: nn.Module,
    ):
        super().__init__(network, schedule, coding, predicts)
        if head not in HEADS:
            raise ValueError(f"head is {head!r}; it must be one of {', '.join(HEADS)}")
        if not 1 <= t_max <= schedule.T:
            raise ValueError(f"t_max is {t_max}; the schedule has the times 1 to {schedule.T}")
        self.t_max = t_max
        self.head = head
        self.discriminator = discriminator

    def prior(self, image: Tensor, draw: Callable[[Sequence[int]], Tensor]) -> Tensor:
        """One x_T' (N, 1, *S) for each image (N, M, *S), a single evaluation of the network.

        draw: shape (1, *S) -> standard normal noise (N, 1, *S) on the image's device. It is called for the network's input
        and then, by the head "mean_plus_noise", for the noise in x_T'.
        """
        shape = (1, *image.shape[2:])
        output = self.output(draw(shape), image, torch.full((len(image),), self.t_max + 1, device=image.device))
        if self.head == "direct":
            return output
        t = torch.full((len(image),), self.t_max, device=image.device)
        return self.schedule.diffuse(self.expected(output), t, draw(shape))
