"""Table 1, its groups, Table 2 and the table of uncertainty from synthetic scores with known answers (about 2 s)."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from pd_ddpm.evaluation.statistics import holm
from pd_ddpm.exhibits.document import Document, Part
from pd_ddpm.exhibits.figures.style import METHODS
from pd_ddpm.exhibits.tables.table1 import table1, table1_document, table1_groups
from pd_ddpm.exhibits.tables.table2 import Table2Row, table2, table2_document
from pd_ddpm.exhibits.tables.uncertainty import uncertainty_document, uncertainty_table

LABELS = {"unet": "U-Net", "attunet": "AttUNet", "pd-ddpm": "PD-DDPM"}
PRINTED = pd.read_csv(Path(__file__).parents[2] / "config" / "printed_values.csv")
NOTE = "Demo scale."


def scores(method: str, dice: list[float], **columns: object) -> pd.DataFrame:
    """Return score rows of one method, one case for each Dice; `columns` override the defaults."""
    rows = len(dice)
    defaults = {
        "dataset": "d",
        "method": method,
        "split": 0,
        "seed": 0,
        "case": [f"{number:02d}" for number in range(rows)],
        "site": "s",
        "samples": 5,
        "dice": dice,
        "jaccard": [value / (2 - value) for value in dice],
        "hd95_mm": 4.0,
        "hd95_medpy_mm": 3.0,
        "avd_percent": 10.0,
        "lesion_recall": 0.7,
        "lesion_f1": 0.8,
        "reference_volume_ml": np.arange(rows) + 1.0,
        "reference_voxels": 100,
        "uncertainty": 2e-3,
        "ece": 0.004,
        "brier": 0.006,
        "error_auroc_variance": 0.9,
        "error_auroc_predictive": 0.95,
        "raters": 1,
        "ged_squared": np.nan,
        "interrater_dice": np.nan,
        "members_dice": 0.9,
        "kl": np.nan,
        "discriminator_loss": np.nan,
        "network_evaluations": 1501,
        "seconds": 2.0,
    }
    return pd.DataFrame(defaults | columns)


BOTH = pd.concat([scores("unet", [0.6, 0.8]), scores("pd-ddpm", [0.7, 0.9], hd95_mm=[2.0, np.nan])])
TWO = {"unet": "U-Net", "pd-ddpm": "PD-DDPM"}


def document_of(frame: pd.DataFrame, labels: dict[str, str], compared_with: str | None = "pd-ddpm") -> Document:
    return table1_document(table1(frame, labels, PRINTED, compared_with), table1_groups(frame, labels), "PD-DDPM", NOTE)


def test_table1_has_mean_deviation_and_interval_over_cases() -> None:
    table = table1(BOTH, TWO, PRINTED, "pd-ddpm").set_index("method")
    assert table.loc["U-Net", "dice"] == pytest.approx(0.7)
    assert table.loc["U-Net", "dice_sd"] == pytest.approx(0.2 / np.sqrt(2))
    reach = 0.1 * stats.t.ppf(0.975, 1)
    assert table.loc["U-Net", ["dice_low", "dice_high"]].tolist() == pytest.approx([0.7 - reach, 0.7 + reach])
    assert table.loc["U-Net", "dice_paper"] == 0.787
    assert table.loc["PD-DDPM", "hd95_mm"] == 2.0
    assert table.loc["PD-DDPM", "cases_without_hd95"] == 1
    assert table.loc["PD-DDPM", "network_evaluations"] == 1501
    assert list(table.index) == ["U-Net", "PD-DDPM"]


def test_table1_says_that_a_cost_is_not_known() -> None:
    files = scores("nnunet", [0.5, 0.7], network_evaluations=np.nan, seconds=np.nan)
    document = document_of(pd.concat([BOTH, files]), TWO | {"nnunet": "nnU-Net"})
    cells = document.parts[0].table.set_index("Method")
    assert cells.loc["nnU-Net", ["Evaluations", "s / case"]].tolist() == ["not known", "not known"]
    assert cells.loc["PD-DDPM", ["Evaluations", "s / case"]].tolist() == ["1501", "2.0"]


def test_table1_differences_are_paired_and_corrected() -> None:
    generator = np.random.default_rng(0)
    pd_ddpm = generator.uniform(0.6, 0.9, 12)
    others = {"unet": pd_ddpm - generator.normal(0.02, 0.01, 12), "attunet": pd_ddpm + generator.normal(0, 0.02, 12)}
    # The rows of a method may be in any order, because pairs follow from the case.
    frame = pd.concat(
        [scores("pd-ddpm", list(pd_ddpm)).iloc[::-1], *(scores(name, list(dice)) for name, dice in others.items())]
    )
    table = table1(frame, LABELS, PRINTED, "pd-ddpm").set_index("method")
    p_values = []
    for name, dice in others.items():
        row = table.loc[LABELS[name]]
        assert row["dice_difference"] == pytest.approx((dice - pd_ddpm).mean())
        expected = stats.ttest_rel(dice, pd_ddpm).confidence_interval(0.95)
        assert (row["dice_difference_low"], row["dice_difference_high"]) == pytest.approx((expected.low, expected.high))
        p_values.append(stats.wilcoxon(dice - pd_ddpm).pvalue)
        assert row["dice_p"] == pytest.approx(p_values[-1])
    assert table.loc[["U-Net", "AttUNet"], "dice_p_holm"].to_numpy() == pytest.approx(holm(p_values))
    compared = [column for column in table if "difference" in column or column.endswith(("_p", "_p_holm"))]
    assert len(compared) == 4 * 5
    assert table.loc["PD-DDPM", compared].isna().all()
    assert table["lesion_f1_p"].isna().all()  # all differences are zero


def test_table1_difference_drops_pairs_without_hd95() -> None:
    frame = pd.concat([scores("unet", [0.6] * 3, hd95_mm=[np.nan, 5.0, 7.0]), scores("pd-ddpm", [0.7] * 3, hd95_mm=4.0)])
    table = table1(frame, TWO, PRINTED, "pd-ddpm").set_index("method")
    assert table.loc["U-Net", ["hd95_mm", "hd95_mm_difference"]].tolist() == [6.0, 2.0]


def test_table1_averages_seeds_before_it_counts_cases() -> None:
    pd_ddpm = scores("pd-ddpm", [0.7, 0.8])
    frame = pd.concat([scores("unet", [0.6, 0.8]), scores("unet", [0.7, 0.9], seed=1), pd_ddpm, pd_ddpm.assign(seed=1)])
    table = table1(frame, TWO, PRINTED, "pd-ddpm").set_index("method")
    assert table.loc["U-Net", ["cases", "trainings"]].tolist() == [2, 2]
    assert table.loc["U-Net", "dice_difference"] == pytest.approx(0.0)
    assert table.loc["U-Net", "dice_sd"] == pytest.approx(0.2 / np.sqrt(2))


def two_splits(seeds: int = 1) -> tuple[pd.DataFrame, np.ndarray]:
    """Return scores of two methods in three splits of four cases, and their difference in Dice (seeds, splits, cases)."""
    difference = np.random.default_rng(seeds).normal(0.02, 0.01, (seeds, 3, 4))
    frames = []
    for seed, split in np.ndindex(seeds, 3):
        identity = {"split": split, "seed": seed, "case": [f"{split}-{case}" for case in range(4)]}
        frames += [scores("pd-ddpm", [0.7] * 4, **identity), scores("unet", list(0.7 + difference[seed, split]), **identity)]
    return pd.concat(frames), difference


@pytest.mark.parametrize("seeds", [1, 3])
def test_table1_of_several_splits_tests_over_splits(seeds: int) -> None:
    frame, difference = two_splits(seeds)
    result = stats.ttest_1samp(difference.mean(axis=(0, 2)), 0)
    row = table1(frame, TWO, PRINTED, "pd-ddpm").set_index("method").loc["U-Net"]
    assert row[["cases", "trainings"]].tolist() == [12, 3]
    assert row[["dice_difference", "dice_p"]].tolist() == pytest.approx([difference.mean(), result.pvalue])
    expected = result.confidence_interval(0.95)
    assert (row["dice_difference_low"], row["dice_difference_high"]) == pytest.approx((expected.low, expected.high))


def test_table1_of_splits_with_the_same_cases_adds_trainings_and_cases() -> None:
    """On cases of another dataset, the networks of all splits segment the same cases."""
    training, case = np.array([-0.02, 0.0, 0.02]), np.array([-0.03, -0.01, 0.01, 0.03])
    frames = [scores("unet", list(0.71 + training[split] + case), split=split) for split in range(3)]
    frames += [scores("pd-ddpm", [0.7] * 4, split=split) for split in range(3)]
    row = table1(pd.concat(frames), TWO, PRINTED, "pd-ddpm").set_index("method").loc["U-Net"]
    assert row[["cases", "trainings"]].tolist() == [4, 3]
    between_trainings, between_cases = training.var(ddof=1) / 3, case.var(ddof=1) / 4
    freedom = (between_trainings + between_cases) ** 2 / (between_trainings**2 / 2 + between_cases**2 / 3)
    reach = stats.t.ppf(0.975, freedom) * np.sqrt(between_trainings + between_cases)
    assert (row["dice_difference_low"], row["dice_difference_high"]) == pytest.approx((0.01 - reach, 0.01 + reach))
    assert row["dice_sd"] == pytest.approx(case.std(ddof=1))


def test_documents_state_what_their_intervals_cover() -> None:
    several, _ = two_splits()
    page = document_of(several, TWO).markdown()
    assert page.count("Student's t over 3 trainings and their cases. They cover what other trainings") == 2
    assert "Test: the t-test over trainings" in page
    assert "cannot give less" not in page
    one = document_of(several[several["split"] == 0], TWO).markdown()
    assert one.count("the intervals are for this training") == 2
    assert "Test: Wilcoxon's signed-rank test over cases" in one


def test_table1_document_has_paper_values_and_missing_cases() -> None:
    document = document_of(pd.concat([scores("unet", [0.6, 0.8], hd95_mm=[np.nan, 3.0]), scores("pd-ddpm", [0.7, 0.9])]), TWO)
    page = document.markdown()
    assert "| U-Net | 0.700 ± 0.141 [0.787] |" in page
    assert "left out of its mean: U-Net 1." in page
    assert page.startswith("# Table 1\n\n**Demo scale.**\n")
    assert "<td>0.700 ± 0.141 [0.787]</td>" in document.html()


def test_table1_of_a_paper_without_known_values_says_so() -> None:
    nothing = pd.read_csv(Path(__file__).parents[2] / "config" / "printed_values.patchddm.csv")
    table = table1(BOTH, TWO, nothing, "pd-ddpm")
    assert table[["dice_paper", "hd95_mm_paper"]].isna().all(axis=None)
    text = table1_document(table, table1_groups(BOTH, TWO), "PD-DDPM", NOTE).markdown()
    assert "The values that the paper prints are not known here." in text
    assert "what the paper prints" not in text
    assert "what the paper prints" in document_of(BOTH, TWO).markdown()


def test_table1_document_states_the_power_of_few_and_many_cases() -> None:
    five = document_of(
        pd.concat([scores("unet", [0.6] * 5), scores("attunet", [0.7] * 5), scores("pd-ddpm", [0.7] * 5)]), LABELS
    )
    assert "## Difference to PD-DDPM" in five.markdown()
    assert (
        "less than p = 0.062, or 0.12 after correction for 2 comparisons: no difference can be significant" in five.markdown()
    )
    many = document_of(
        pd.concat([scores("unet", [0.6] * 30), scores("pd-ddpm", list(np.linspace(0.6, 0.7, 30)))]), TWO
    ).markdown()
    assert "cannot give less" not in many
    assert "half-width of the interval of a Dice difference: 0.011" in many


def test_table1_document_without_compared_method_has_no_differences() -> None:
    for compared_with in (None, "ddpm"):
        document = document_of(scores("unet", [0.6, 0.8]), {"unet": "U-Net"}, compared_with)
        assert [part.heading for part in document.parts] == ["Scores and cost", "Dice by lesion load", "Dice by site"]


def test_table1_document_of_single_case_has_no_deviation() -> None:
    frame = pd.concat([scores("own", [0.6], hd95_mm=np.nan), scores("pd-ddpm", [0.7])])
    document = document_of(frame, {"own": "Own", "pd-ddpm": "PD-DDPM"})
    assert document.parts[0].table.loc[0, ["Dice", "HD95 [mm]"]].tolist() == ["0.600", "undefined"]
    assert document.parts[1].table.loc[0, ["Dice", "HD95 [mm]"]].tolist() == ["−0.100", "undefined"]
    assert "a single case has neither an interval nor a test" in document.markdown()


def test_table1_document_of_other_method_has_no_paper_value() -> None:
    assert "| Own | 0.700 ± 0.141 |" in document_of(scores("own", [0.6, 0.8]), {"own": "Own"}).markdown()


def test_table1_names_a_method_without_scores() -> None:
    with pytest.raises(ValueError, match="ddpm: has no scores"):
        table1(BOTH, TWO | {"ddpm": "Vanilla DDPM"}, PRINTED, "pd-ddpm")


def test_table1_groups_are_terciles_of_the_reference_volume() -> None:
    volumes = [9.0, 1.0, 5.0, 2.0, 30.0, 4.0]
    sites = ["a", "b", "a", "b", "b", "b"]
    frame = scores("unet", [0.9, 0.1, 0.5, 0.2, 0.8, 0.4], reference_volume_ml=volumes, site=sites)
    table = table1_groups(pd.concat([frame, frame.assign(method="pd-ddpm")]), TWO)
    load = table.query("grouping == 'lesion load' and method == 'PD-DDPM'").set_index("group")
    assert load["dice"].to_dict() == pytest.approx({"low": 0.15, "medium": 0.45, "high": 0.85})
    assert load["dice_sd"].to_numpy() == pytest.approx([0.1 / np.sqrt(2)] * 3)
    assert load[["from_ml", "to_ml"]].to_numpy() == pytest.approx(np.array([[1, 10 / 3], [10 / 3, 19 / 3], [19 / 3, 30]]))
    by_site = table.query("grouping == 'site' and method == 'U-Net'").set_index("group")
    assert by_site["cases"].to_dict() == {"a": 2, "b": 4}
    assert by_site.loc["a", "dice"] == pytest.approx(0.7)
    page = document_of(pd.concat([frame, frame.assign(method="pd-ddpm")]), TWO).markdown()
    assert "low, 1.0–3.3 ml (n = 2)" in page
    assert "b (n = 4)" in page


@pytest.mark.parametrize(("cases", "groups"), [(1, ["all"]), (2, ["all"]), (3, ["low", "medium", "high"])])
def test_table1_groups_of_few_cases_are_one_group(cases: int, groups: list[str]) -> None:
    table = table1_groups(scores("unet", [0.5] * cases), {"unet": "U-Net"})
    assert table.query("grouping == 'lesion load'")["group"].tolist() == groups
    assert table.query("grouping == 'lesion load'")["cases"].sum() == cases


def test_table1_groups_of_equal_loads_are_not_empty() -> None:
    table = table1_groups(scores("unet", [0.5] * 4, reference_volume_ml=7.0), {"unet": "U-Net"})
    assert table.query("grouping == 'lesion load'")["cases"].tolist() == [4]


ROWS = [
    Table2Row("Zero", "pd-zero", None, "Zero"),
    Table2Row("Early", "pd-early", "early", "0.754"),
    Table2Row("AttUNet", "pd-ddpm", "attunet", None),
]


def table2_scores() -> pd.DataFrame:
    return pd.concat(
        [
            scores("pd-zero", [0.3, 0.2, 1.0], reference_voxels=[50, 60, 0], hd95_mm=[9.0, np.nan, np.nan]),
            scores("early", [0.6, 0.7, 0.8]),
            scores("pd-early", [0.65, 0.72, 0.83]),
            scores("attunet", [0.8, 0.8, 0.8, 0.1], case=["00", "01", "02", "not in the test"]),
            scores("pd-ddpm", [0.7, 0.8, 0.9]),
        ]
    )


def test_table2_compares_pd_ddpm_with_its_presegmentation() -> None:
    table = table2(table2_scores(), ROWS, PRINTED).set_index("presegmentation")
    assert table["presegmentation_dice"].to_dict() == pytest.approx({"Zero": 1 / 3, "Early": 0.7, "AttUNet": 0.8})
    assert table["presegmentation_dice_paper"].tolist()[:2] == [0.0, 0.754]
    assert np.isnan(table.loc["AttUNet", "dice_paper"])
    assert table.loc["Early", "dice_paper"] == 0.790
    expected = stats.ttest_1samp([0.05, 0.02, 0.03], 0).confidence_interval(0.95)
    gain = table.loc["Early", ["gain", "gain_low", "gain_high"]]
    assert gain.tolist() == pytest.approx([0.1 / 3, expected.low, expected.high])
    assert table.loc["AttUNet", "gain"] == pytest.approx(0.0)
    assert table.loc["Zero", "gain"] == pytest.approx(0.5 / 3)
    assert table["cases_without_hd95"].tolist() == [2, 0, 0]
    page = table2_document(table.reset_index(), NOTE).markdown()
    assert "| Early | 0.700 ± 0.100 [0.754] | 0.733 ± 0.091 [0.790] |" in page
    assert "+0.033 (−0.005 to +0.071)".replace(" to ", "\u00a0to\u00a0") in page
    assert "so the intervals are for this training" in page
    assert "left out of its mean: Zero 2." in page


def test_table2_names_a_presegmentation_without_scores() -> None:
    with pytest.raises(ValueError, match=r"early.*: has no scores"):
        table2(table2_scores().query("method != 'early'"), ROWS, PRINTED)


def test_printed_values_equal_the_tables_of_the_paper() -> None:
    printed = PRINTED.query("exhibit == 'table1'").pivot(index="row", columns="metric", values="value")
    assert printed.shape == (9, 4)
    assert printed.loc["PD-DDPM"].to_dict() == {"dice": 0.812, "hd95_mm": 3.494, "jaccard": 0.689, "lesion_f1": 0.800}
    assert printed["dice"].idxmax() == "PD-DDPM"
    assert set(printed.index) <= set(METHODS)
    second = PRINTED.query("exhibit == 'table2'").pivot(index="row", columns="metric", values="value")
    assert second.shape == (5, 5)
    assert second.loc["0.799"].drop("presegmentation_dice").to_dict() == printed.loc["PD-DDPM"].to_dict()
    assert second["presegmentation_dice"].to_dict() == {"Zero": 0.0} | {
        f"{dice:.3f}": dice for dice in (0.754, 0.77, 0.785, 0.799)
    }
    assert second.loc["0.770", "lesion_f1"] == 0.770


def test_uncertainty_table_averages_cases_and_has_a_row_of_raters() -> None:
    rated = {"raters": [2, 2, 1], "ged_squared": [0.2, 0.4, np.nan], "interrater_dice": [0.7, 0.9, np.nan]}
    alone = {"samples": 1, "members_dice": np.nan, "error_auroc_variance": np.nan, "uncertainty": np.nan}
    frame = pd.concat([scores("pd-ddpm", [0.7, 0.8, 0.9], **rated), scores("unet", [0.6, 0.7, 0.8], **rated, **alone)])
    table = uncertainty_table(frame, TWO).set_index("method")
    assert table.loc["PD-DDPM", "ged_squared"] == pytest.approx(0.3)
    assert table.loc["PD-DDPM", "ged_squared_sd"] == pytest.approx(0.2 / np.sqrt(2))
    assert table["samples"].tolist()[:2] == [1, 5]
    assert np.isnan(table.loc["U-Net", "error_auroc_variance"])
    assert table.loc["Inter-rater", ["cases", "raters", "dice"]].tolist() == [2, 2, pytest.approx(0.8)]
    page = uncertainty_document(table.reset_index(), 5, NOTE).markdown()
    assert (
        "| PD-DDPM | 3 | 5 | 4.00 ± 0.00 | 6.00 ± 0.00 | 0.900 ± 0.000 | 0.950 ± 0.000 | 0.300 ± 0.141 | 0.900 ± 0.000 | 2.00 ±"
        in page
    )
    assert "| U-Net | 3 | 1 | 4.00 ± 0.00 | 6.00 ± 0.00 |  | 0.950 ± 0.000 | 0.300 ± 0.141 |  |  | 0.700 ± 0.100 |" in page
    assert "Only 2 cases have more than one rater" in page
    assert "plus a margin of 5 mm" in page


def test_uncertainty_table_of_one_rater_has_no_row_of_raters() -> None:
    table = uncertainty_table(scores("pd-ddpm", [0.7, 0.8]), {"pd-ddpm": "PD-DDPM"})
    assert table["method"].tolist() == ["PD-DDPM"]
    assert "Only" not in uncertainty_document(table, 5, NOTE).markdown()


def test_document_escapes_markup_of_each_format() -> None:
    table = pd.DataFrame({"Method": ["a|b & <c> 5 % −1 ±"], "p_value": ["0.5"]})
    document = Document("T", "R_1.", [Part("H", table, ["100 % of #1"])])
    assert r"| a\|b & \<c> 5 % −1 ± | 0.5 |" in document.markdown()
    assert '<th scope="row">a|b &amp; &lt;c&gt; 5 % −1 ±</th><td>0.5</td>' in document.html()
    latex = document.latex()
    assert r"a|b \& $<$c$>$ 5 \% $-$1 $\pm$ & 0.5 \\" in latex
    assert r"\begin{tabular}{lr}" in latex
    assert r"p\_value" in latex
    assert r"\footnotesize R\_1. 100" in latex  # each table stands alone in LaTeX and repeats the note
    assert r"100 \% of \#1" in latex
    assert latex.count(r"\begin{") == latex.count(r"\end{")


def test_document_shows_remarks_once_before_the_tables() -> None:
    table = pd.DataFrame({"Method": ["a"]})
    document = Document("T", NOTE, [Part("H", table), Part("I", table)]).with_remarks(["TDPM: 2 % < chance.", "A: b."])
    assert document.markdown().startswith(f"# T\n\n**{NOTE}**\n\n**Remark:** TDPM: 2 % < chance.\n\n**Remark:** A: b.\n\n## H")
    assert f"{NOTE}</strong></p>\n<p><strong>Remark:</strong> TDPM: 2 % &lt; chance.</p>\n" in document.html()
    first, second = document.latex().split(r"\end{table}")[:2]
    assert rf"\footnotesize {NOTE} Remark: TDPM: 2 \% $<$ chance. Remark: A: b." in first
    assert "Remark" not in second
    assert document.parts[0].notes == ()
