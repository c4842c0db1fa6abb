"""Figure of what the denoisers of the leak table read in x_t, from probes with known values (about 2 s)."""

from collections.abc import Iterator
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from pd_ddpm.exhibits.figures.leak_probe import PANELS, leak_probe_figure, leak_probe_numbers

TIMES = (1, 300, 900)
# Dice from the ground truth, from the mask of another slice and from an empty mask, at each timestep.
DICE = {
    "plain": {"truth": (1.0, 0.9, 0.6), "other_slice": (0.1, 0.3, 0.6), "empty": (0.0, 0.2, 0.6)},
    "recycled": {"truth": (0.9, 0.75, 0.7), "other_slice": (0.5, 0.65, 0.7), "empty": (0.4, 0.6, 0.7)},
}


@pytest.fixture(autouse=True)
def _close_figures() -> Iterator[None]:
    yield
    plt.close("all")


def denoiser(network: str, share: float, **fields: Any) -> dict[str, Any]:
    plain = {
        "denoiser": f"share {share:g}",
        "share": share,
        "likelihood_skip": True,
        "presegmented_share": 0.0,
        "raters": "first",
        "strategy": "recycling_noise" if share else "diffusion",
    }
    return {"network": network} | plain | fields


def probes(splits: int = 2) -> pd.DataFrame:
    """Probes of two cases; their Dice differs by 0.02, that of the splits by 0.01 around the known mean."""
    rows = []
    for network, starts in DICE.items():
        for start, values in starts.items():
            for t, value in zip(TIMES, values, strict=True):
                for split in range(splits):
                    for case in (-1, 1):
                        dice = value + 0.01 * case + 0.01 * (split - (splits - 1) / 2)
                        identity = {"network": network, "split": split, "seed": 0, "case": f"{split}{case}", "images": 3}
                        rows.append(identity | {"role": "validation", "start": start, "t": t, "dice": dice})
    return pd.DataFrame(rows)


DENOISERS = [denoiser("plain", 0.0), denoiser("recycled", 0.75)]


def test_numbers_are_means_over_trainings_and_trust_is_the_difference_to_another_slice() -> None:
    numbers = leak_probe_numbers(probes(), DENOISERS)
    assert numbers["network"].tolist() == ["plain"] * 12 + ["recycled"] * 12
    assert numbers["start"].unique().tolist() == list(PANELS)
    for network, starts in DICE.items():
        rows = numbers[numbers["network"] == network].set_index("start")
        for start, values in starts.items():
            assert rows.loc[start, "t"].tolist() == list(TIMES)
            np.testing.assert_allclose(rows.loc[start, "dice"], values)
            np.testing.assert_allclose(rows.loc[start, "dice_high"] - rows.loc[start, "dice_low"], 0.01)
        np.testing.assert_allclose(rows.loc["trust", "dice"], np.subtract(starts["truth"], starts["other_slice"]))
        np.testing.assert_allclose(rows.loc["trust", "dice_high"] - rows.loc["trust", "dice_low"], 0, atol=1e-12)
    assert numbers["trainings"].eq(2).all()
    assert numbers[["share", "denoiser"]].drop_duplicates().to_numpy().tolist() == [[0.0, "share 0"], [0.75, "share 0.75"]]


def test_numbers_name_a_denoiser_without_probe() -> None:
    with pytest.raises(ValueError, match="other have no probe"):
        leak_probe_numbers(probes(), [*DENOISERS, denoiser("other", 0.5)])


def test_figure_has_a_row_per_kind_of_training_and_a_column_per_start() -> None:
    numbers = leak_probe_numbers(probes(), DENOISERS)
    further = numbers[numbers["network"] == "recycled"].assign(denoiser="share 0.75, random raters", raters="random")
    figure = leak_probe_figure(pd.concat([numbers, further]), "phantom, demo scale")
    axes = np.array(figure.axes).reshape(2, len(PANELS))
    assert [axis.get_title() for axis in axes[0]] == list(PANELS.values())
    assert [row[0].get_ylabel().splitlines()[0] for row in axes] == ["With likelihood skip", "Trained on random raters"]
    lines = {line.get_label(): line.get_ydata() for line in axes[0, 3].lines if len(line.get_ydata())}
    np.testing.assert_allclose(lines["share 0"], [0.9, 0.6, 0.0], atol=1e-9)
    assert set(lines) == {"share 0", "share 0.75"}
    below = {line.get_label() for line in axes[1, 0].lines if len(line.get_ydata())}
    assert below == {"share 0", "share 0.75, random raters"}
    assert "bands: range over trainings" in figure.get_suptitle()
    alone = leak_probe_figure(leak_probe_numbers(probes(splits=1), DENOISERS), "phantom")
    assert "bands" not in alone.get_suptitle()
    assert not alone.axes[0].collections
