"""What is minimised on a batch, and what is looked at on validation slices.

An objective is a small object with a `loss` and with `estimates`. One that trains several parts against each other says in
`phases` what a step consists of.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from pd_ddpm import losses
from pd_ddpm.denoiser import Denoiser
from pd_ddpm.training_data import Batch
from pd_ddpm.transfer import on_device


@dataclass(frozen=True)
class Phase:
    """A part of a training step: a loss that Adam lowers over some of the model's parameters; the others are held fixed.

    name                  in messages, and of the column `{name}_loss` in the history
    loss                  (model, batch, stream) -> {"loss": scalar, ...}; whatever else it names is logged
    parameters            those that are changed, and the only ones that get gradients
    learning_rate_factor  the phase's learning rate as a multiple of the training's
    betas                 of Adam
    every                 the phase is part of every so-many-th step
    from_share            share of all steps that pass before the first one that it is part of
    optimiser             name of the earlier phase whose Adam, moments included, it goes on with; None: one of its own
    """

    name: str
    loss: Callable[[nn.Module, Batch, np.random.Generator], dict[str, Tensor]]
    parameters: list[nn.Parameter]
    learning_rate_factor: float = 1.0
    betas: tuple[float, float] = (0.9, 0.999)
    every: int = 1
    from_share: float = 0.0
    optimiser: str | None = None

    def has_begun(self, step: int, steps: int) -> bool:
        """Whether this step of 1..steps lies behind the share that passes before it."""
        return step > self.from_share * steps

    def is_due(self, step: int, steps: int) -> bool:
        """Whether it is part of this step of 1..steps."""
        return step % self.every == 0 and self.has_begun(step, steps)


class Objective(Protocol):
    def loss(self, model: nn.Module, batch: Batch, stream: np.random.Generator) -> dict[str, Tensor]:
        """{"loss": what is minimised, a scalar, ...}; whatever else is named is logged."""
        ...

    def estimates(self, model: nn.Module, batch: Batch, stream: np.random.Generator) -> list[Tensor]:
        """Lesion probabilities (B, 1, *S), whose mean Dice decides which weights are best."""
        ...

    def phases(self, model: nn.Module) -> list[Phase]:
        """What a step consists of, in this order and all on the same batch; the first one's loss is the training's."""
        return [Phase("training", self.loss, [parameter for parameter in model.parameters() if parameter.requires_grad])]


@dataclass(frozen=True)
class CrossEntropy(Objective):
    """Binary cross-entropy of a segmentation network's logits, plus `dice_weight` times the soft Dice loss."""

    dice_weight: float

    def loss(self, model: nn.Module, batch: Batch, stream: np.random.Generator) -> dict[str, Tensor]:
        return _mask_losses(model(batch.image).float(), batch, self.dice_weight)

    def estimates(self, model: nn.Module, batch: Batch, stream: np.random.Generator) -> list[Tensor]:
        return [model(batch.image).float().sigmoid()]


@dataclass(frozen=True)
class Denoising(Objective):
    """Denoising at t ~ uniform {1..t_max} (Ho et al. 2020, Algorithm 1; PD-DDPM Sec. 2.2).

    A denoiser that predicts noise is trained on the squared error of the noise (their Eq. 14). One that predicts the mask is
    trained on the squared error of the estimate, or as a segmentation network (cross-entropy + Dice).
    """

    t_max: int
    mask_loss: Literal["squared_error", "cross_entropy_dice"]

    def loss(self, model: Denoiser, batch: Batch, stream: np.random.Generator) -> dict[str, Tensor]:
        t = on_device(stream.integers(1, self.t_max + 1, len(batch.mask)), batch.mask.device)
        x_t, noise = diffused(model, batch.mask, t, stream)
        output = model.output(x_t, batch.image, t)
        if model.predicts == "noise":
            return {"loss": losses.squared_error(output, noise, batch.counted)}
        if self.mask_loss == "squared_error":
            target = model.coding.encode(batch.mask)
            return {"loss": losses.squared_error(model.expected(output), target, batch.counted)}
        return _mask_losses(output, batch, dice_weight=1.0)

    def estimates(self, model: Denoiser, batch: Batch, stream: np.random.Generator) -> list[Tensor]:
        """One-step estimates from five noise levels over the trained range."""
        estimates = []
        for share in (0.1, 0.3, 0.5, 0.7, 0.9):
            t = max(1, round(share * self.t_max))
            x_t, _ = diffused(model, batch.mask, torch.full((len(batch.mask),), t, device=batch.mask.device), stream)
            estimates.append(model.coding.decode(model(x_t, batch.image, t)))
        return estimates


def diffused(model: Denoiser, mask: Tensor, t: Tensor, stream: np.random.Generator) -> tuple[Tensor, Tensor]:
    """A draw of x_t for these masks (B, C, *S) and times (B,), and the noise in it."""
    noise = normal(stream, len(mask), mask.shape[1:], mask.device)
    return model.schedule.diffuse(model.coding.encode(mask), t, noise), noise


def normal(stream: np.random.Generator, rows: int, shape: Sequence[int], device: torch.device) -> Tensor:
    """Standard normal noise (rows, *shape) for the rows of a batch, in float32 on the device."""
    return on_device(stream.standard_normal((rows, *shape), dtype=np.float32), device)


def _mask_losses(logits: Tensor, batch: Batch, dice_weight: float) -> dict[str, Tensor]:
    cross_entropy = losses.cross_entropy(logits, batch.mask, batch.counted)
    dice = losses.soft_dice_loss(logits.sigmoid(), batch.mask, batch.counted)
    return {"loss": cross_entropy + dice_weight * dice, "cross_entropy": cross_entropy, "dice_loss": dice}
