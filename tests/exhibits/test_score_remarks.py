"""Remarks on collapsed generators in tables (below 1 s)."""

import numpy as np
import pandas as pd

from pd_ddpm.exhibits.score_remarks import collapse_remarks

LABELS = {"probabilistic-unet": "Probabilistic U-Net", "tdpm": "TDPM", "unet": "U-Net"}


def rows(method: str, split: int = 0, **columns: object) -> pd.DataFrame:
    """Return the score rows of two cases."""
    signs = {"kl": np.nan, "discriminator_loss": np.nan, "members_dice": np.nan}
    return pd.DataFrame({"method": method, "split": split, "seed": 0, "case": [f"a{split}", f"b{split}"], **signs | columns})


def test_collapse_remarks_name_the_method_and_average_its_cases() -> None:
    scores = pd.concat(
        [
            rows("probabilistic-unet", kl=0.0008, members_dice=[0.995, 0.981]),
            rows("tdpm", discriminator_loss=1.384, members_dice=[0.99, 0.9]),
            rows("unet"),
            rows("not-in-the-table", kl=0.0),
        ]
    )
    kl, members, loss = collapse_remarks(scores, LABELS)
    assert kl.startswith("Probabilistic U-Net: the divergence between posterior and prior is 0.0008 nats (below 0.01). The")
    assert members.startswith("Probabilistic U-Net: pairs of ensemble members have a mean Dice of 0.988 (above 0.98). The")
    assert loss.startswith("TDPM: the discriminator's loss is 1.384 (within 2% of chance, 1.386). It")


def test_collapse_remarks_count_the_trainings_that_collapsed() -> None:
    """The mean over all trainings, 2.0 nats, would hide them."""
    values = [0.001, 6.0, 0.003, 4.0, 0.002]
    scores = pd.concat([rows("probabilistic-unet", split, kl=value, members_dice=0.9) for split, value in enumerate(values)])
    (remark,) = collapse_remarks(scores, LABELS)
    assert "between posterior and prior is 0.002 nats (below 0.01) in 3 of 5 trainings. The posterior has" in remark


def test_collapse_remarks_of_varied_generators_are_none() -> None:
    assert collapse_remarks(pd.concat([rows("probabilistic-unet", kl=5.0, members_dice=0.85), rows("unet")]), LABELS) == []
