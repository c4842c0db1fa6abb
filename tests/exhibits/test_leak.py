"""Leak table, its remarks and its figure from synthetic scores with known differences (about 3 s)."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from scipy import stats

from pd_ddpm.config.run import Run
from pd_ddpm.evaluation.scores import by_training, select_method
from pd_ddpm.evaluation.statistics import mean_interval
from pd_ddpm.exhibits.figures.leak import leak_figure
from pd_ddpm.exhibits.tables.leak import LeakRow, leak_document, leak_table
from pd_ddpm.exhibits.tables.leak_answer import add_answers, answer_sentence
from pd_ddpm.exhibits.training_compute import compute_remark, training_seconds

SPLITS, CASES = 3, 4
FLOPS = {"attunet": 4e12, "plain": 8e12, "recycled": 8e12}
SECONDS = {"attunet": 100.0, "plain": 90.0, "recycled": 120.0}
# Gain in Dice over the pre-segmenter, GED², AUROC and spread, in every case of these splits.
GAINS = {
    "plain@300": [-0.02, -0.01, -0.03],
    "recycled@300": [0.01, 0.02, 0.03],
    "plain": [0.0] * 3,
    "recycled": [0.03, 0.04, 0.05],
}
GED = {"plain@300": 0.5, "recycled@300": 0.4, "plain": 0.3, "recycled": 0.35}
AUROC = {"plain@300": 0.8, "recycled@300": 0.85, "plain": 0.9, "recycled": 0.95}
SPREAD = {"plain@300": 2e-3, "recycled@300": 1e-3, "plain": 3e-3, "recycled": 1.5e-3}


def rows(skip: bool = True) -> list[LeakRow]:
    found = [LeakRow("attunet", "attunet", "AttUNet", None, None, "pre-segmenter", None, None)]
    for network, share in (("plain", 0.0), ("recycled", 0.75)):
        for suffix, start, t_start in (("@300", "pre-segmentation", 300), ("", "noise", 1000)):
            reference = None if network == "plain" else f"plain{suffix}"
            strategy = "recycling_noise" if share else "diffusion"
            found.append(
                LeakRow(
                    *(network + suffix, network, f"share {share:g}", share, skip, start, t_start, reference),
                    presegmented_share=0.0,
                    raters="first",
                    strategy=strategy,
                )
            )
    return found


def scores(seeds: int = 2) -> pd.DataFrame:
    """Score rows of five methods in three splits of four cases; the seeds of a case differ by 0.002 in Dice."""
    random = np.random.default_rng(0)
    tables = []
    for split in range(SPLITS):
        base = random.uniform(0.6, 0.8, CASES)
        for seed in range(seeds):
            for method in ("attunet", *GAINS):
                is_alone = method == "attunet"
                dice = base + (0 if is_alone else GAINS[method][split]) + 0.002 * (seed - (seeds - 1) / 2)
                columns = {
                    "method": method,
                    "split": split,
                    "seed": seed,
                    "case": [f"{split}{number}" for number in range(CASES)],
                    "dice": dice,
                    "hd95_mm": 4.0,
                    "lesion_f1": 0.7,
                    "ece": 0.004,
                    "ged_squared": 0.6 if is_alone else GED[method],
                    "uncertainty": np.nan if is_alone else SPREAD[method],
                    "error_auroc_variance": np.nan if is_alone else AUROC[method],
                    "members_dice": np.nan if is_alone else 0.9,
                    "single_member_dice": dice - (0 if is_alone else 0.05),
                    "samples": 1 if is_alone else 5,
                    "network_evaluations": 1 if is_alone else 100,
                    "seconds": 2.0,
                }
                tables.append(pd.DataFrame(columns))
    return pd.concat(tables, ignore_index=True)


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return leak_table(scores(), rows(), FLOPS, SECONDS)


def test_leak_table_has_means_differences_and_ratios_of_known_value(table: pd.DataFrame) -> None:
    found = table.set_index("method")
    assert list(found.index) == ["attunet", "plain@300", "plain", "recycled@300", "recycled"]
    assert found["dice_to_presegmenter"].tolist()[1:] == pytest.approx([-0.02, 0.0, 0.02, 0.04])
    assert found.loc["recycled@300", "dice_to_share_0"] == pytest.approx(0.04)
    assert found.loc["recycled@300", "ged_squared_to_share_0"] == pytest.approx(-0.1)
    assert found.loc["recycled", "ged_squared_to_share_0"] == pytest.approx(0.05)
    assert found.loc["recycled", "error_auroc_variance_to_share_0"] == pytest.approx(0.05)
    assert found.loc[["recycled@300", "recycled"], "spread_ratio"].tolist() == pytest.approx([0.5, 0.5])
    assert (found["dice"] - found["single_member_dice"]).tolist() == pytest.approx([0, *[0.05] * 4])
    assert found["training_flops"].tolist() == [4e12, *[8e12] * 4]
    assert found.loc["plain", ["cases", "trainings", "samples", "network_evaluations"]].tolist() == [12, 3, 5, 100]


def test_leak_table_compares_nothing_with_itself(table: pd.DataFrame) -> None:
    found = table.set_index("method")
    assert np.isnan(found.loc["attunet", "dice_to_presegmenter"])
    compared = [column for column in table if "_to_share_0" in column] + ["spread_ratio"]
    assert len(compared) == 3 * 3 + 1
    assert found.loc[["attunet", "plain@300", "plain"], compared].isna().all(axis=None)
    assert found.loc[["recycled@300", "recycled"], compared].notna().all(axis=None)


def test_leak_table_intervals_count_splits_with_the_mean_of_their_seeds(table: pd.DataFrame) -> None:
    found = table.set_index("method").loc["recycled@300"]
    # Equal numbers of cases in each split: Student's t of the three splits' means.
    expected = stats.ttest_1samp(GAINS["recycled@300"], 0).confidence_interval(0.95)
    assert (found["dice_to_presegmenter_low"], found["dice_to_presegmenter_high"]) == pytest.approx(tuple(expected))
    gains = np.subtract(GAINS["recycled@300"], GAINS["plain@300"])
    expected = stats.ttest_1samp(gains, 0).confidence_interval(0.95)
    assert (found["dice_to_share_0_low"], found["dice_to_share_0_high"]) == pytest.approx(tuple(expected))
    dice = select_method(by_training(scores()), "recycled@300")["dice"]
    assert (found["dice_low"], found["dice_high"]) == pytest.approx(mean_interval(dice))


def test_leak_table_names_a_method_without_scores() -> None:
    with pytest.raises(ValueError, match="recycled: has no scores"):
        leak_table(scores().query("method != 'recycled'"), rows(), FLOPS, SECONDS)


def changed(table: pd.DataFrame, **columns: Any) -> pd.DataFrame:
    """The table with other differences, and the answers that follow from them."""
    return add_answers(table.assign(**columns))


def test_answers_need_an_interval_above_zero_and_both_conditions_of_an_honest_spread(table: pd.DataFrame) -> None:
    # Only noise with share 0.75 has an interval above zero: 0.04 ± 0.025. Its GED² is above that of share 0.
    found = table.set_index("method")
    names = ["exceeds_presegmenter", "ged_not_above", "auroc_not_below", "answers"]
    assert found.loc["attunet", names].isna().all()
    assert found.loc["plain", names].tolist() == [False, True, True, False]
    assert found.loc["recycled@300", names].tolist() == [False, True, True, False]
    assert found.loc["recycled", names].tolist() == [True, False, True, False]
    honest = changed(table, ged_squared_to_share_0=table["ged_squared_to_share_0"] - 0.2).set_index("method")
    assert honest["answers"].fillna(False).tolist() == [False, False, False, False, True]
    worse = changed(table, ged_squared_to_share_0=-1.0, error_auroc_variance_to_share_0=-0.01).set_index("method")
    assert worse.loc["recycled", names].tolist() == [True, True, False, False]


def test_answer_of_a_row_without_reference_is_unknown(table: pd.DataFrame) -> None:
    alone = changed(table, ged_squared_to_share_0=np.nan, error_auroc_variance_to_share_0=np.nan).set_index("method")
    assert alone.loc["recycled", ["exceeds_presegmenter"]].tolist() == [True]
    assert alone.loc["recycled", ["ged_not_above", "auroc_not_below", "answers"]].isna().all()
    assert alone.loc["plain", ["ged_not_above", "auroc_not_below"]].tolist() == [True, True]
    masks = changed(table, presegmented_share=0.5, ged_squared_to_share_0=np.nan).set_index("method")
    assert pd.isna(masks.loc["plain", "ged_not_above"])  # its share of recycling is 0, but it is not the reference
    conditioned = changed(table, strategy="self_conditioning_same", ged_squared_to_share_0=np.nan).set_index("method")
    assert pd.isna(conditioned.loc["plain", "ged_not_above"])  # likewise


def test_answer_sentence_names_the_combinations_or_says_that_there_is_none(table: pd.DataFrame) -> None:
    noise, chance = "share 0.75, skip (noise, T' = 1000)", "Of 4 combinations, 0.1 would lie above zero by chance alone."
    assert answer_sentence(table) == (
        "No combination exceeds AttUNet in Dice with a 95 % interval above zero and has an honest spread. Those that exceed it "
        f"do not meet both conditions on the spread: {noise}. {chance}"
    )
    honest = changed(table, ged_squared_to_share_0=table["ged_squared_to_share_0"] - 0.2)
    assert answer_sentence(honest) == (
        f"Each of these exceeds AttUNet in Dice with a 95 % interval above zero and has an honest spread: {noise}. {chance}"
    )
    every = answer_sentence(changed(table, dice_to_presegmenter_low=0.001))
    assert "spread: share 0, skip (pre-segmentation, T' = 300; noise, T' = 1000); share 0.75, skip (pre-seg" in every
    assert f" These exceed it without meeting both conditions on the spread: {noise}. " in every
    none = answer_sentence(changed(table, dice_to_presegmenter_low=-0.01))
    assert none.startswith(
        "No combination exceeds AttUNet in Dice with a 95 % interval above zero. The highest is share 0.75, "
    )
    assert none.endswith("skip, noise, T' = 1000: +0.040 (−0.010\u00a0to\u00a0+0.065).")


def test_leak_document_has_scores_differences_and_trainings(table: pd.DataFrame) -> None:
    without_skip = leak_table(scores(), rows(skip=False), FLOPS, SECONDS)
    both = pd.concat([table, without_skip.iloc[1:]], ignore_index=True)
    document = leak_document(both, {"attunet": [0.0] * 3, "plain": [0.02, 0.0, 0.0]}, "Demo scale.")
    assert [part.heading for part in document.parts] == [
        "Scores with the likelihood skip",
        "Differences with the likelihood skip",
        "Scores without the likelihood skip",
        "Differences without the likelihood skip",
        "Answer",
        "Trainings",
    ]
    shown, differences = document.parts[0].table, document.parts[1].table
    assert shown["Denoiser"].tolist() == ["AttUNet", "share 0", "share 0", "share 0.75", "share 0.75"]
    assert shown["Start"].tolist()[:3] == ["pre-segmenter", "pre-segmentation, T' = 300", "noise, T' = 1000"]
    assert shown["Spread [10⁻³]"].tolist() == ["", "2.00", "3.00", "1.00", "1.50"]
    assert differences["Dice − AttUNet"].iloc[2] == "+0.020 (−0.005\u00a0to\u00a0+0.045)"
    assert differences["GED² − share 0"].iloc[0] == ""
    assert differences["Spread / share 0"].tolist() == ["", "", "0.50", "0.50"]
    answers = document.parts[-2]
    assert len(answers.table) == 8
    assert answers.table.iloc[3].tolist() == [
        *("share 0.75, skip", "noise, T' = 1000", "+0.040 (+0.015\u00a0to\u00a0+0.065)", "yes"),
        *("+0.050", "no", "+0.050", "yes", "no"),
    ]
    assert answers.notes[-1] == answer_sentence(both)
    trainings = document.parts[-1].table.set_index("Network")
    assert trainings["Seconds"].tolist() == ["100 (1.00 ×)", "90 (0.90 ×)", "120 (1.20 ×)"]
    assert trainings["Compute [TFLOP]"].tolist() == ["4.00 (1.00 ×)", "8.00 (2.00 ×)", "8.00 (2.00 ×)"]
    assert trainings.loc["plain", "Validation"].startswith("not yet flattened in 1 of 3 trainings")
    assert trainings.loc["recycled", "Validation"] == "unknown"
    only = leak_document(table, {}, "Demo scale.")
    assert len(only.parts) == 4


def test_leak_document_says_what_intervals_of_one_training_cover() -> None:
    one = leak_table(scores(seeds=1).query("split == 0"), rows(), FLOPS, SECONDS)
    notes = leak_document(one, {}, "Demo scale.").parts[1].notes
    assert "Each network was trained once" in " ".join(notes)


def test_compute_remark_states_the_range_of_operations_and_seconds() -> None:
    remark = compute_remark(FLOPS, SECONDS, "attunet")
    assert remark.startswith("Training compute of attunet: 4.0 TFLOP in 100 s. ")
    assert remark.endswith("The others take 2.00 times its TFLOP and 0.90 to 1.20 times its seconds.")


def test_training_seconds_are_the_mean_over_splits_and_seeds_with_those_of_inner_folds(tmp_path: Path) -> None:
    histories = []
    trainings = [("attunet", 0, 10.0), ("attunet", 1, 20.0), ("denoiser", 0, 7.0), ("masks", 0, 8.0)]
    inner = ["attunet@inner_fold=1-of-2", "attunet@inner_fold=2-of-2"]
    for name, split, seconds in (*trainings, (inner[0], 0, 100.0), (inner[1], 0, 1000.0)):
        folder = Run("d", name, split, 0).folder(tmp_path, "networks")
        folder.mkdir(parents=True)
        (folder / "model.json").write_text(json.dumps({"provenance": {"seconds": seconds}}), encoding="utf-8")
        histories.append(folder / "training.csv")
    seconds = training_seconds(histories, {"denoiser": [], "masks": inner})
    assert seconds == {"attunet": 15.0, "denoiser": 7.0, "masks": 1108.0}


def panels(figure: Figure) -> np.ndarray:
    return np.array(figure.axes).reshape(2, -1)


def test_leak_figure_has_a_line_per_share_from_masks_to_noise(table: pd.DataFrame) -> None:
    more = pd.concat(
        [table.iloc[:1], *[rows_of(table, t_start) for t_start in (100, 300, 500)], table[table["start"] == "noise"]]
    )
    upper, lower = panels(leak_figure(more, "phantom, demo scale"))[:, 0]
    assert upper.get_title() == "With likelihood skip"
    lines = {line.get_label(): line.get_xydata() for line in upper.lines}
    assert {"AttUNet", "share 0", "share 0.75"} <= set(lines)
    # The line is dodged to the side; it connects the starts from masks only.
    np.testing.assert_allclose(lines["share 0"][:, 0], [100, 300, 500], atol=10)
    np.testing.assert_allclose(lines["share 0"][:, 1], -0.02)
    markers = [line.get_xydata() for line in upper.lines if len(line.get_xydata()) == 4]
    assert sorted(round(float(points[-1, 1]), 4) for points in markers) == [0.0, 0.04]
    spread = {round(float(line.get_xydata()[-1, 1]), 4) for line in lower.lines if len(line.get_xydata()) == 4}
    assert spread == {3.0, 1.5}
    assert [label.get_text() for label in lower.get_xticklabels()] == ["100", "300", "500", "noise"]
    assert len(upper.collections) == 2  # one set of interval bars per denoiser


def rows_of(table: pd.DataFrame, t_start: int) -> pd.DataFrame:
    return table[table["start"] == "pre-segmentation"].assign(t_start=t_start)


def test_leak_figure_has_columns_for_further_trainings_with_the_line_of_share_0(table: pd.DataFrame) -> None:
    changes = {
        "from x_T": {"strategy": "recycling_last"},
        "pre-segmentations": {"presegmented_share": 0.5},
        "random raters": {"raters": "random"},
    }
    further = [
        table[table["network"] == "recycled"].assign(denoiser=f"share 0.75, {name}", **change)
        for name, change in changes.items()
    ]
    figure = leak_figure(pd.concat([table, *further]), "phantom")
    titles = ["Other strategies, with skip", "Trained on pre-segmentations", "Trained on random raters"]
    assert [axis.get_title() for axis in panels(figure)[0]] == ["With likelihood skip", *titles]
    lines = [{line.get_label(): line.get_color() for line in axis.lines} for axis in panels(figure)[0]]
    shown = [{label for label in panel if label.startswith("share")} for panel in lines]
    assert shown == [{"share 0", "share 0.75"}, *({"share 0", f"share 0.75, {name}"} for name in changes)]
    assert len({panel["share 0"] for panel in lines}) == 1


def test_leak_figure_compares_strategies_without_skip_with_share_0_without_skip(table: pd.DataFrame) -> None:
    plain = leak_table(scores(), rows(skip=False), FLOPS, SECONDS).iloc[1:]
    conditioned = plain[plain["network"] == "plain"].assign(denoiser="self-conditioned", strategy="self_conditioning_same")
    figure = leak_figure(pd.concat([table, plain, conditioned], ignore_index=True), "phantom")
    axis = panels(figure)[0, -1]
    assert axis.get_title() == "Other strategies, without skip"
    labels = {line.get_label() for line in axis.lines if not line.get_label().startswith("_")}
    assert labels == {"AttUNet", "share 0", "self-conditioned"}


def test_leak_figure_has_one_column_per_kind_of_skip(table: pd.DataFrame) -> None:
    both = pd.concat([table, leak_table(scores(), rows(skip=False), FLOPS, SECONDS).iloc[1:]], ignore_index=True)
    grid = panels(leak_figure(both, "phantom, demo scale"))
    assert [axis.get_title() for axis in grid[0]] == ["With likelihood skip", "Without likelihood skip"]
    assert panels(leak_figure(table, "phantom")).shape == (2, 1)
    legend = leak_figure(both, "phantom").legends[0]
    assert [text.get_text() for text in legend.get_texts()] == ["AttUNet", "share 0", "share 0.75"]
