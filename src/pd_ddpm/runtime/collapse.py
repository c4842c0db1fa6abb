"""Signs that a generator has collapsed, so that its samples hardly vary.

Trainings and scores log them, and tables list them.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

# In nats. By Pinsker's inequality, posterior and prior then differ by at most sqrt(0.01 / 2) = 7 % in total variation, so the
# latent vector holds next to nothing about the mask.
COLLAPSED_KL = 0.01

# Two raters of white matter lesions agree with a Dice of 0.6 to 0.9. Members above 0.98 differ by a few voxels of the border.
EQUAL_MEMBERS_DICE = 0.98

# Loss of a discriminator that always answers 1/2 (Goodfellow et al. 2014, Sec. 4.1). One that answers 1/2 + d, and is right as
# often, has a loss that is lower by about 4 d^2. Within the margin it is right in less than 58.5 % of all examples.
CHANCE_LOSS = 2 * math.log(2)
CHANCE_MARGIN = 0.02


@dataclass(frozen=True)
class Sign:
    """A sign of collapse.

    Attributes:
        is_present: returns whether a value shows the sign; False for NaN.
        finding: clause about the value, which `format` inserts.
        meaning: sentence about what follows.
    """

    is_present: Callable[[float], bool]
    finding: str
    meaning: str

    def describe(self, value: float, extent: str = "") -> str:
        """Return the finding, with `extent` (such as " in 2 of 5 trainings") after it, and its meaning."""
        return f"{self.finding.format(value)}{extent}. {self.meaning}"


# By history column of the training or by column of the scores.
SIGNS = {
    "kl": Sign(
        lambda kl: kl < COLLAPSED_KL,
        f"the divergence between posterior and prior is {{:.2g}} nats (below {COLLAPSED_KL:g})",
        "The posterior has collapsed onto the prior, and samples hardly depend on the latent vector.",
    ),
    "discriminator_loss": Sign(
        lambda loss: abs(loss / CHANCE_LOSS - 1) < CHANCE_MARGIN,
        f"the discriminator's loss is {{:.3f}} (within {CHANCE_MARGIN:.0%} of chance, {CHANCE_LOSS:.3f})",
        "It hardly distinguishes generated from real examples, so the generator learns nothing from it.",
    ),
    "members_dice": Sign(
        lambda dice: dice > EQUAL_MEMBERS_DICE,
        f"pairs of ensemble members have a mean Dice of {{:.3f}} (above {EQUAL_MEMBERS_DICE:g})",
        "The members are nearly equal, and their ensemble gains next to nothing.",
    ),
}
TRAINING_SIGNS = ("kl", "discriminator_loss")


def describe_signs(values: Mapping[str, float]) -> list[str]:
    """Return a description of each sign of collapse in these values, by the names in `SIGNS`."""
    return [sign.describe(values[name]) for name, sign in SIGNS.items() if name in values and sign.is_present(values[name])]
