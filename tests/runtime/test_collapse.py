"""Signs of a collapsed generator and their thresholds (below 1 s)."""

import math

import numpy as np
import pytest

from pd_ddpm.runtime.collapse import CHANCE_LOSS, COLLAPSED_KL, describe_signs


@pytest.mark.parametrize(
    ("name", "absent", "present"),
    [
        ("kl", [8.0, 0.0101, math.nan], [0.0099, 0.0008, 0.0]),
        ("members_dice", [0.0, 0.79, 0.98, math.nan], [0.981, 0.988, 1.0]),
        ("discriminator_loss", [0.5, 1.35, 1.42, 3.0, math.nan], [1.37, 1.3863, 1.40]),
    ],
)
def test_describe_signs_reports_values_beyond_the_threshold_only(name: str, absent: list[float], present: list[float]) -> None:
    assert [describe_signs({name: value}) for value in absent] == [[]] * len(absent)
    assert [len(describe_signs({name: value})) for value in present] == [1] * len(present)


def test_describe_signs_names_value_threshold_and_meaning() -> None:
    kl, loss, members = describe_signs({"members_dice": 0.988, "kl": 0.0008, "discriminator_loss": 1.384, "loss": 0.0})
    assert kl.startswith("the divergence between posterior and prior is 0.0008 nats (below 0.01). The posterior has collapsed")
    assert loss.startswith("the discriminator's loss is 1.384 (within 2% of chance, 1.386). It hardly distinguishes")
    assert members.startswith("pairs of ensemble members have a mean Dice of 0.988 (above 0.98). The members are nearly equal")


def test_chance_loss_is_that_of_an_undecided_discriminator_and_its_margin_58_percent_of_right_answers() -> None:
    """The loss sums softplus(-D(real)) and softplus(D(fake)), where D is the logit of a probability."""

    def loss(right: float) -> float:
        """Return the loss of a discriminator that answers with probability `right`, and is right as often."""
        return 2 * -(right * math.log(right) + (1 - right) * math.log(1 - right))

    assert pytest.approx(loss(0.5)) == CHANCE_LOSS
    assert describe_signs({"discriminator_loss": loss(0.58)})
    assert not describe_signs({"discriminator_loss": loss(0.59)})


def test_collapsed_kl_bounds_the_total_variation_of_two_gaussians() -> None:
    """Gaussians with this divergence differ by less than Pinsker's 7 % in total variation."""
    shift = math.sqrt(2 * COLLAPSED_KL)  # KL of two unit Gaussians is shift^2 / 2
    x = np.linspace(-8, 8, 100_001)
    first, second = (np.exp(-((x - mean) ** 2) / 2) / math.sqrt(2 * math.pi) for mean in (0.0, shift))
    assert np.trapezoid(np.abs(first - second), x) / 2 < math.sqrt(COLLAPSED_KL / 2) < 0.071
