"""Figure of the probe: its numbers against plain means, and its panels and remarks (about 3 s)."""

from itertools import product

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from pd_ddpm.exhibits.figures.probe import probe_figure, probe_numbers

STARTS = ("truth", "other_slice", "empty")
LABELS = {"denoiser": "Vanilla DDPM, PD-DDPM", "truncated-denoiser": "TDPM"}


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def probe(network: str, split: int, dice: dict[tuple[str, int], list[float]]) -> pd.DataFrame:
    """Return the table of a probe: (start, t) -> Dice of each case."""
    run = {"network": network, "split": split, "seed": 0, "role": "validation", "images": 4, "dimensions": 2}
    rows = [
        {"start": start, "t": t, "case": str(n), "dice": value}
        for (start, t), values in dice.items()
        for n, value in enumerate(values)
    ]
    return pd.DataFrame(rows).assign(**run)


def reading(shift: float) -> dict[tuple[str, int], list[float]]:
    """Return a probe of two cases, whose network reads x_t at t = 1 and ignores it at t = 300."""
    at_one = {"truth": 0.9, "other_slice": 0.5, "empty": 0.1}
    return {(start, t): [at_one[start] + shift if t == 1 else 0.6, 0.8] for start, t in product(STARTS, (1, 300))}


def ignoring(gain: float) -> dict[tuple[str, int], list[float]]:
    """Return a probe whose Dice from the truth exceeds that from an empty mask by `gain` at t = 1."""
    return {
        (start, t): [0.5 + gain * (start == "truth"), 0.5 + gain * (start == "truth")] for start, t in product(STARTS, (1, 300))
    }


def test_probe_numbers_average_cases_then_runs_and_give_their_range() -> None:
    probes = pd.concat(
        [probe("truncated-denoiser", 0, ignoring(0.1)), probe("denoiser", 0, reading(0.0)), probe("denoiser", 1, reading(0.1))]
    )
    numbers = probe_numbers(probes, LABELS)
    assert numbers["network"].tolist() == ["denoiser"] * 6 + ["truncated-denoiser"] * 6
    assert numbers[["start", "t"]].to_numpy().tolist()[:6] == [[start, t] for start in STARTS for t in (1, 300)]
    first = numbers.iloc[0]
    assert (first["methods"], first["role"], first["runs"], first["cases"], first["images"]) == (
        *("Vanilla DDPM, PD-DDPM", "validation"),
        *(2, 4, 16),
    )
    # The means of the two runs are (0.9 + 0.8) / 2 and (1.0 + 0.8) / 2.
    np.testing.assert_allclose(first[["dice", "dice_low", "dice_high"]].astype(float), [0.875, 0.85, 0.9])
    assert numbers.groupby("network")["runs_ignoring_x_t"].unique().map(list).to_dict() == {
        "denoiser": [0],
        "truncated-denoiser": [1],
    }


@pytest.mark.parametrize(("gain", "ignores"), [(0.0, 1), (0.19, 1), (0.21, 0), (1.0, 0)])
def test_network_ignores_x_t_if_the_truth_is_no_better_start_than_an_empty_mask(gain: float, ignores: int) -> None:
    numbers = probe_numbers(probe("denoiser", 0, ignoring(gain)), {"denoiser": "PD-DDPM"})
    assert set(numbers["runs_ignoring_x_t"]) == {ignores}


def test_network_reads_x_t_if_the_mask_of_another_slice_misleads_it_but_an_empty_one_does_not() -> None:
    dice = ignoring(0.1) | {("other_slice", 1): [0.3, 0.4]}
    assert set(probe_numbers(probe("denoiser", 0, dice), {"denoiser": "PD-DDPM"})["runs_ignoring_x_t"]) == {0}


def test_probe_numbers_name_networks_without_probe() -> None:
    with pytest.raises(ValueError, match="truncated-denoiser have no probe"):
        probe_numbers(probe("denoiser", 0, reading(0.0)), LABELS)


def test_probe_figure_has_a_panel_per_network_and_a_remark_where_x_t_is_ignored() -> None:
    probes = [probe("denoiser", split, reading(0.0)) for split in (0, 1)]
    probes += [probe("truncated-denoiser", split, ignoring(gain)) for split, gain in enumerate((0.0, 0.5, 0.1))]
    numbers = probe_numbers(pd.concat(probes), LABELS)
    figure = probe_figure(numbers, "phantom, test scale")
    left, right = figure.axes
    assert [line.get_label() for line in left.lines] == [
        "from the truth",
        "from the mask of another slice",
        "from an empty mask",
    ]
    np.testing.assert_allclose(left.lines[2].get_xydata(), [[1, 0.45], [300, 0.7]])
    assert left.get_title(loc="left") == "denoiser: Vanilla DDPM, PD-DDPM\n4 validation cases, 16 slices"
    assert [text.get_text() for text in left.texts] == []
    assert [text.get_text() for text in right.texts] == ["ignores x$_t$ in 2 of 3 runs"]
    assert len(right.collections) == 3
    assert figure.get_suptitle().startswith("phantom, test scale. ")
    many = {f"denoiser-{number}": "PD-DDPM" for number in range(6)}
    numbers = probe_numbers(pd.concat([probe(name, 0, reading(0.0)) for name in many]), many)
    positions = [axis.get_subplotspec() for axis in probe_figure(numbers, "phantom, test scale").axes]
    assert [(place.rowspan.start, place.colspan.start) for place in positions] == [*((0, c) for c in range(4)), (1, 0), (1, 1)]
    alone = probe_figure(probe_numbers(probes[2], {"truncated-denoiser": "TDPM"}), "phantom, test scale")
    assert [text.get_text() for text in alone.axes[0].texts] == ["ignores x$_t$"]
    assert len(alone.axes[0].collections) == 0  # a single run has no range


def test_probe_figure_counts_volumes_of_networks_in_3d() -> None:
    numbers = probe_numbers(probe("denoiser", 0, reading(0.0)).assign(images=1, dimensions=3), {"denoiser": "PatchDDM"})
    axis = probe_figure(numbers, "phantom, test scale").axes[0]
    assert axis.get_title(loc="left") == "denoiser: PatchDDM\n2 validation cases, 2 volumes"
