"""Denoiser: predicts x_0 from x_t, conditioned on the image and the timestep."""

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from pd_ddpm.diffusion.mask_coding import MaskCoding, class_probabilities
from pd_ddpm.diffusion.reliability import Reliability
from pd_ddpm.diffusion.schedule import Schedule
from pd_ddpm.runtime.precision import cast_to_weights

MAX_LOG_RATIO = 12.0


class Denoiser(nn.Module):
    """A conditional denoiser, which hides whether its network predicts the noise or the mask.

    Attributes:
        network: (B, M + C, *S), t (B,) -> (B, C, *S); the image channels come first, then the noisy mask, then the C channels
            of the previous estimate if the network is self-conditioned.
        schedule: the forward process.
        coding: the values of background and lesion in x_0.
        predicts: "noise" if the network's output is the noise in x_t, "mask" if it is the logit of the mask.
        likelihood_skip: whether the log-likelihood ratio of x_t is added to the mask logits; see `log_likelihood_ratio`.
        self_conditioned: whether the network also sees the estimate of the step before.
        clip_input: whether the network sees x_t clipped to the two values of the mask coding.
        mask_channels: channels C of the mask: 1, or the number of classes with background.

    Raises:
        ValueError: for a likelihood skip to a network that predicts the noise.

    Reference: PD-DDPM, Fig. 1 (the image is concatenated to x_t); Ho et al. 2020 (DDPM), Eqs. 11 and 14 (noise prediction);
    Chen et al. 2023 (Analog Bits), Sec. 2.2 (self-conditioning); the released code of Fu et al. 2024 (clipped input).
    """

    mask_channels = 1

    def __init__(
        self,
        network: nn.Module,
        schedule: Schedule,
        coding: MaskCoding,
        predicts: Literal["noise", "mask"],
        *,
        likelihood_skip: bool = False,
        self_conditioned: bool = False,
        clip_input: bool = False,
    ):
        super().__init__()
        if likelihood_skip and predicts != "mask":
            raise ValueError("`likelihood_skip` adds to mask logits. It needs `predicts: mask`.")
        self.network = network
        self.schedule = schedule
        self.coding = coding
        self.predicts = predicts
        self.likelihood_skip = likelihood_skip
        self.self_conditioned = self_conditioned
        self.clip_input = clip_input

    @property
    def divisor(self) -> int:
        """Number that every spatial size must be a multiple of."""
        return self.network.divisor

    def output(
        self,
        x_t: Tensor,
        image: Tensor,
        t: Tensor,
        reliability: Reliability | None = None,
        previous: Tensor | None = None,
    ) -> Tensor:
        """Return the predicted noise or mask logits, in float32.

        Args:
            x_t: (B, C, *S), the noisy mask.
            image: (B, M, *S), z-scored.
            t: (B,), timesteps in 1..T; each row has its own.
            reliability: that of the pre-segmentation from which x_t was diffused; None: it was diffused from the ground truth.
            previous: (B, C, *S) in mask coding, the estimate that a self-conditioned network sees; None: before the first one.

        Returns:
            (B, C, *S): predicted noise or mask logits, as `predicts` says. With `likelihood_skip`, the network's output is
            the prior log-odds of lesion given image and neighbourhood, and the log-likelihood ratio is added to it.
        """
        shown = x_t.clamp(self.coding.low, self.coding.high) if self.clip_input else x_t
        output = self._network_output(shown, image, t, previous)
        return output + self.log_likelihood_ratio(x_t, t, reliability) if self.likelihood_skip else output

    def log_likelihood_ratio(self, x_t: Tensor, t: Tensor, reliability: Reliability | None = None) -> Tensor:
        """Return what each pixel's own x_t says about its mask: log p(x_t | lesion) - log p(x_t | background), or of classes.

        Given x_0, x_t is Gaussian in each pixel, with mean sqrt(a) x_0 and variance 1 - a, where a = alpha_bar[t]. With the
        two values low and high of the mask coding, the quadratic terms of the two log densities cancel:

            log ratio = (high - low) sqrt(a) / (1 - a) (x_t - sqrt(a) (high + low) / 2)

        By Bayes' rule, prior log-odds plus this ratio are the posterior log-odds of lesion. The ratio is exact for binary
        masks; for fractions of lesion on a coarse grid it is an approximation. Beyond +-12 (a probability of 6e-6) it is
        clipped, so that the network can still overrule it and the cross-entropy stays finite.

        With several classes, x_t has a channel for each, and its mean is sqrt(a) high in the channel of the pixel's class and
        sqrt(a) low in all others. The sum of the squared means is the same for all classes. What is left is linear in x_t, up
        to a term that all classes share:

            log p(x_t | class k) = (high - low) sqrt(a) / (1 - a) x_t[k] + const

        The constant is chosen so that the most likely class has 0, which changes no softmax. The others are clipped at -12.
        For two classes, the difference is the sum of the log ratios of the lesion channel and of the mirrored background
        channel, each as above, because their noise is independent.

        Args:
            x_t: (B, C, *S), the noisy mask.
            t: (B,), timesteps in 1..T.
            reliability: that of the pre-segmentation from which x_t was diffused, see `Reliability.log_likelihood_ratio`; None
                if it was diffused from the ground truth.

        Returns:
            (B, C, *S) float32.

        Reference: Bayes' rule on Ho et al. 2020 (DDPM), Eq. 4; the skip connection is ours.
        """
        x_t = x_t.float()
        signal, noise_level = self.schedule.coefficients(t, x_t)
        slope = (self.coding.high - self.coding.low) * signal / noise_level.square()
        if x_t.shape[1] > 1:
            evidence = slope * x_t
            return (evidence - evidence.amax(dim=1, keepdim=True)).clamp_(min=-MAX_LOG_RATIO)
        midpoint = signal * ((self.coding.high + self.coding.low) / 2)
        ratio = slope * (x_t - midpoint)
        ratio = ratio if reliability is None else reliability.log_likelihood_ratio(ratio)
        return ratio.clamp_(-MAX_LOG_RATIO, MAX_LOG_RATIO)

    def _network_output(self, x_t: Tensor, image: Tensor, t: Tensor, previous: Tensor | None = None) -> Tensor:
        """Return the network's own output, converted to float32. The arguments are those of `output`."""
        parts = [image, x_t]
        if self.self_conditioned:
            parts.append(torch.full_like(x_t, self.coding.midpoint) if previous is None else previous)
        return self.network(cast_to_weights(torch.cat(parts, dim=1), self.network), t).float()

    def expected_mask(self, logits: Tensor) -> Tensor:
        """Return the expected mask of these logits, in mask coding and in the same shape."""
        return self.coding.encode(class_probabilities(logits))

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

    def chain(self, image: Tensor) -> Callable[[Tensor, int], Tensor]:
        """Return the function of a chain from x_t and t to the estimate of x_0.

        A self-conditioned network gets the estimate of the call before. Each chain therefore needs its own function.

        Args:
            image: (B, M, *S), z-scored.
        """
        previous: Tensor | None = None

        def estimate(x_t: Tensor, t: int) -> Tensor:
            nonlocal previous
            x0 = self(x_t, image, t, previous)
            previous = x0 if self.self_conditioned else None
            return x0

        return estimate

    def forward(self, x_t: Tensor, image: Tensor, t: int, previous: Tensor | None = None) -> Tensor:
        """Return the estimate of x_0.

        Args:
            x_t: (B, C, *S), the noisy mask.
            image: (B, M, *S), z-scored.
            t: timestep in 1..T, the same for all rows.
            previous: (B, C, *S) in mask coding, see `output`.

        Returns:
            (B, C, *S) float32 in mask coding.
        """
        timesteps = torch.full((len(x_t),), t, device=x_t.device)
        return self.estimate_x0_(self.output(x_t, image, timesteps, previous=previous), x_t, t)
