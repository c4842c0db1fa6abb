"""Tables and figures from made-up scores whose means are known."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pd_ddpm.figures import fig3_numbers, fig3_tprime
from pd_ddpm.style import COLOURS
from pd_ddpm.tables import per_case, read_scores, table1, table1_for_reading, table1_html, table1_markdown

LABELS = {"unet": "U-Net", "pd-ddpm": "PD-DDPM"}
PRINTED = Path(__file__).parents[1] / "config" / "printed_values.csv"


def scores(
    method: str, dice: list[float], seed: int = 0, hd95: list[float] | None = None, uncertainty: float = np.nan
) -> pd.DataFrame:
    rows = len(dice)
    return pd.DataFrame(
        {
            "dataset": "d",
            "method": method,
            "split": 0,
            "seed": seed,
            "case": [f"{number:02d}" for number in range(rows)],
            "site": "s",
            "samples": 5,
            "dice": dice,
            "jaccard": [d / (2 - d) for d in dice],
            "hd95_mm": hd95 or [4.0] * rows,
            "hd95_medpy_mm": hd95 or [3.0] * rows,
            "avd_percent": 10.0,
            "lesion_recall": 0.7,
            "lesion_f1": 0.8,
            "uncertainty": uncertainty,
            "network_evaluations": 1501,
            "seconds": 2.0,
        }
    )


def test_mean_and_standard_deviation_are_over_cases() -> None:
    both = pd.concat([scores("unet", [0.6, 0.8]), scores("pd-ddpm", [0.7, 0.9], hd95=[2.0, np.nan])])
    table = table1(both, LABELS, pd.read_csv(PRINTED)).set_index("method")
    assert table.loc["U-Net", "dice"] == pytest.approx(0.7)
    assert table.loc["U-Net", "dice_sd"] == pytest.approx(0.2 / np.sqrt(2))
    assert table.loc["U-Net", "dice_paper"] == 0.787
    assert table.loc["PD-DDPM", "hd95_mm"] == 2.0
    assert table.loc["PD-DDPM", "cases_without_hd95"] == 1
    assert table.loc["PD-DDPM", "network_evaluations"] == 1501
    assert list(table.index) == ["U-Net", "PD-DDPM"]


def test_seeds_are_averaged_before_cases_are_counted() -> None:
    two_seeds = pd.concat([scores("unet", [0.6, 0.8], seed=0), scores("unet", [0.7, 0.9], seed=1)])
    assert sorted(per_case(two_seeds)["dice"]) == pytest.approx([0.65, 0.85])
    assert table1(two_seeds, {"unet": "U-Net"}, pd.read_csv(PRINTED))["cases"].item() == 2


def test_the_page_tells_what_is_the_papers_and_what_is_left_out() -> None:
    table = table1(
        pd.concat([scores("unet", [0.6, 0.8], hd95=[np.nan, 3.0]), scores("pd-ddpm", [0.7, 0.9])]), LABELS, pd.read_csv(PRINTED)
    )
    page = table1_markdown(table, "Demo scale.")
    assert "| U-Net | 0.700 ± 0.141 [0.787] |" in page
    assert "left out of its mean: U-Net 1." in page
    assert "Demo scale" in page
    assert "Demo scale" not in table1_markdown(table, "Paper scale.")
    assert "<td>0.700 ± 0.141 [0.787]</td>" in table1_html(table, "Demo scale.")


def test_a_single_case_has_no_deviation_and_an_undefined_score_says_so() -> None:
    shown = table1_for_reading(table1(scores("own", [0.6], hd95=[np.nan]), {"own": "Own"}, pd.read_csv(PRINTED)))
    assert shown.loc[0, ["Dice", "HD95 [mm]"]].tolist() == ["0.600", "undefined"]


def test_a_method_that_the_paper_does_not_have_gets_no_printed_value() -> None:
    page = table1_markdown(table1(scores("own", [0.6, 0.8]), {"own": "Own"}, pd.read_csv(PRINTED)), "Paper scale.")
    assert "| Own | 0.700 ± 0.141 |" in page


def test_case_names_of_digits_keep_their_zeros(tmp_path: Path) -> None:
    scores("unet", [0.6, 0.8]).to_csv(tmp_path / "s.csv", index=False)
    assert list(read_scores([tmp_path / "s.csv"])["case"]) == ["00", "01"]


def test_figure_3_draws_its_numbers() -> None:
    curve = {"pd-ddpm@t_start=50": 50, "pd-ddpm": 300}
    labels = {"pd-ddpm@t_start=50": "PD-DDPM", "pd-ddpm": "PD-DDPM", "attunet": "AttUNet", "ddpm": "Vanilla DDPM"}
    rows = [
        scores("pd-ddpm@t_start=50", [0.6, 0.7], uncertainty=1e-3),
        scores("pd-ddpm", [0.8, 0.9], uncertainty=2e-3),
        scores("attunet", [0.5, 0.6]),
        scores("ddpm", [0.4, 0.5], uncertainty=4e-3),
    ]
    numbers = fig3_numbers(pd.concat(rows), curve, labels)
    assert numbers.set_index("method").loc["pd-ddpm", "dice"] == pytest.approx(0.85)
    assert numbers.set_index("method").loc["pd-ddpm", "dice_standard_error"] == pytest.approx(0.05)
    figure = fig3_tprime(numbers, "test", 300)
    dice, uncertain = figure.axes
    assert list(dice.lines[0].get_xdata()) == [50, 300]
    assert list(dice.lines[0].get_ydata()) == pytest.approx([0.65, 0.85])
    assert {line.get_label() for line in dice.lines} >= {"PD-DDPM", "AttUNet", "Vanilla DDPM"}
    assert "AttUNet" not in {line.get_label() for line in uncertain.lines}  # one mask has no spread
    assert list(uncertain.lines[0].get_ydata()) == pytest.approx([1.0, 2.0])


def test_printed_values_are_the_papers_table_1() -> None:
    printed = pd.read_csv(PRINTED).query("exhibit == 'table1'").pivot(index="row", columns="metric", values="value")
    assert printed.shape == (9, 4)
    assert printed.loc["PD-DDPM"].to_dict() == {"dice": 0.812, "hd95_mm": 3.494, "jaccard": 0.689, "lesion_f1": 0.800}
    assert printed["dice"].idxmax() == "PD-DDPM"
    assert set(printed.index) <= set(COLOURS)
