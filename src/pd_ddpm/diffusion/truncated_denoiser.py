"""TDPM's model: a denoiser for t <= T' whose network also generates x_T' from noise in one evaluation."""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from pd_ddpm.diffusion.denoiser import Denoiser
from pd_ddpm.diffusion.mask_coding import MaskCoding
from pd_ddpm.diffusion.schedule import Schedule

HEADS = ("direct", "mean_plus_noise")


class TruncatedDenoiser(Denoiser):
    """A denoiser on t = 1..T' whose network is a generator of x_T' at the extra timestep T' + 1.

    The other arguments are those of `Denoiser`.

    Args:
        t_max: T'.
        head: "direct": the network's output is x_T' itself, as in TDPM. "mean_plus_noise" (ours): the output is the logit
            of a mask, which is then diffused to T'. The noise in x_T' is then correct by construction, and only the mask
            is learnt.
        discriminator: image (B, M, *S), x (B, C, *S) -> logits (B, ...) of any shape; used in training only.

    Raises:
        ValueError: for an unknown head, or a T' outside of the schedule.

    Reference: Zheng et al. 2022 (TDPM), which calls the generator an implicit prior.
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
        likelihood_skip: bool = False,
    ):
        super().__init__(network, schedule, coding, predicts, likelihood_skip=likelihood_skip)
        if head not in HEADS:
            raise ValueError(f"`head` is {head!r}. It must be one of {', '.join(HEADS)}.")
        if not 1 <= t_max <= schedule.T:
            raise ValueError(f"`t_max` is {t_max}. It must be a timestep of the schedule, 1 to {schedule.T}.")
        self.t_max = t_max
        self.head = head
        self.discriminator = discriminator

    def sample_prior(self, image: Tensor, sample_normal: Callable[[Sequence[int]], Tensor]) -> Tensor:
        """Generate one x_T' for each image in a single network evaluation.

        Args:
            image: (N, M, *S), z-scored.
            sample_normal: shape (C, *S) -> standard normal noise (N, C, *S) on the image's device. The first call gives
                the network's input. The head "mean_plus_noise" calls again for the noise in x_T'.

        Returns:
            x_T': (N, C, *S).
        """
        shape = (self.mask_channels, *image.shape[2:])
        # The network's input is pure noise here, which says nothing about the mask: the likelihood skip is not used.
        t = torch.full((len(image),), self.t_max + 1, device=image.device)
        output = self._network_output(sample_normal(shape), image, t)
        if self.head == "direct":
            return output
        return self.schedule.diffuse(self.expected_mask(output), t - 1, sample_normal(shape))
