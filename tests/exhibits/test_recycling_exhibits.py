"""Figure 3, Table 2 and Table 4 of Fu et al. 2024, against plain loops and SciPy (about 2 s)."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from pd_ddpm.config import load
from pd_ddpm.config.exhibits import claims_roles, default_exhibits, no_diffusion_labels, planned_methods, step_points
from pd_ddpm.config.methods import resampling, step_methods
from pd_ddpm.config.validate import validate
from pd_ddpm.evaluation.step_scores import step_scores
from pd_ddpm.exhibits.claims.claim import roles_from_params
from pd_ddpm.exhibits.claims.table import claims_table
from pd_ddpm.exhibits.figures.fig3 import fig3, fig3_numbers
from pd_ddpm.exhibits.tables.class_scores import METRICS, class_groups
from pd_ddpm.exhibits.tables.no_diffusion import no_diffusion_document, no_diffusion_table
from pd_ddpm.exhibits.tables.table4 import table4, table4_document

POINTS = [{"method": f"rec@stop_after={step}", "label": "Rec.", "step": step} for step in (1, 2)]
PRINTED = pd.DataFrame(
    [
        ("table4", "Rec.", "dice_step_1", 0.0212),
        ("table2", "No diff.", "dice", 0.8815),
    ],
    columns=["exhibit", "row", "metric", "value"],
)


def ensembles(seeds=(0, 1)):
    """Scores of five members of four cases at two steps, and those of larger ensembles, which must not count."""
    random, rows = np.random.default_rng(0), []
    for point in POINTS:
        for seed in seeds:
            for case in "abcd":
                for size, subset in [*((1, str(member)) for member in range(5)), (2, "0+1")]:
                    values = {"dice": random.random(), "hd95_mm": 10 * random.random()}
                    identity = {"method": point["method"], "split": 0, "seed": seed, "case": case}
                    rows.append(identity | {"size": size, "subset": subset} | values)
    return pd.DataFrame(rows)


def test_seed_spread_and_step_means_equal_plain_loops():
    rows = ensembles()
    scores = step_scores(rows, POINTS)
    table, numbers = table4(scores, PRINTED), fig3_numbers(rows, POINTS)
    for point, spread, mean in zip(POINTS, table.to_dict("records"), numbers.to_dict("records"), strict=True):
        for metric in ("dice", "hd95_mm"):
            spreads, means = [], []
            for case in "abcd":
                for seed in (0, 1):
                    members = [
                        row[metric]
                        for row in rows.to_dict("records")
                        if (row["method"], row["case"], row["seed"], row["size"]) == (point["method"], case, seed, 1)
                    ]
                    assert len(members) == 5
                    spreads.append(max(members) - min(members))
                    means.append(sum(members) / 5)
            assert spread[f"{metric}_spread"] == pytest.approx(sum(spreads) / 8, abs=1e-9)
            assert mean[metric] == pytest.approx(sum(means) / 8, abs=1e-9)
        assert (spread["cases"], spread["trainings"]) == (4, 2)
    assert table["dice_spread_paper"].iloc[0] == 0.0212
    assert math.isnan(table["dice_spread_paper"].iloc[1])


def test_case_with_an_undefined_member_has_no_spread_and_is_counted():
    rows = ensembles(seeds=(0,))
    first = (rows["method"] == POINTS[0]["method"]) & (rows["case"] == "a") & (rows["subset"] == "3")
    rows.loc[first, "hd95_mm"] = np.nan
    table = table4(step_scores(rows, POINTS), PRINTED)
    others = [
        np.ptp(rows[(rows["method"] == POINTS[0]["method"]) & (rows["case"] == case) & (rows["size"] == 1)]["hd95_mm"])
        for case in "bcd"
    ]
    assert table["hd95_mm_spread"].iloc[0] == pytest.approx(np.mean(others), abs=1e-9)
    assert table["hd95_mm_spread_missing"].tolist() == [1, 0]


def test_method_without_single_members_is_named():
    with pytest.raises(ValueError, match=r"other: has no scores of single members"):
        step_scores(ensembles(), [{"method": "other", "label": "Other", "step": 1}])


def scores_of(count=12):
    random = np.random.default_rng(1)
    baseline = random.uniform(0.5, 0.9, count)
    dice = {"plain": baseline, "rec": baseline + random.normal(0.02, 0.03, count), "mean": baseline + 0.01}
    rows = []
    for method, values in dice.items():
        for case, value in enumerate(values):
            cost = {"samples": 1, "network_evaluations": 5.0, "seconds": 1.0}
            hd95 = {"hd95_mm": 20 * (1 - value)}
            rows.append({"method": method, "split": 0, "seed": 0, "case": f"c{case}", "dice": value} | hd95 | cost)
    return pd.DataFrame(rows), dice


def test_paired_tests_and_effect_size_equal_scipy():
    scores, dice = scores_of()
    labels = {"plain": "No diff.", "rec": "Diff. rec. x_T, DDPM", "mean": "Ensemble"}
    table = no_diffusion_table(scores, labels, PRINTED).set_index("method")
    difference = dice["rec"] - dice["plain"]
    row = table.loc["rec"]
    assert row["dice_difference"] == pytest.approx(difference.mean(), abs=1e-12)
    assert row["dice_t_p"] == pytest.approx(stats.ttest_rel(dice["rec"], dice["plain"]).pvalue, rel=1e-9)
    assert row["dice_wilcoxon_p"] == pytest.approx(stats.wilcoxon(dice["rec"], dice["plain"]).pvalue, rel=1e-9)
    assert row["dice_effect"] == pytest.approx(difference.mean() / difference.std(ddof=1), rel=1e-9)
    low, high = stats.t.interval(0.95, 11, difference.mean(), stats.sem(difference))
    assert (row["dice_difference_low"], row["dice_difference_high"]) == pytest.approx((low, high), rel=1e-9)
    assert table["dice"].tolist() == pytest.approx([values.mean() for values in dice.values()])
    assert table["dice_paper"].iloc[0] == 0.8815
    assert table["dice_difference"].isna().tolist() == [True, False, False]


def test_documents_show_every_method_and_the_papers_values():
    scores, _ = scores_of()
    labels = {"plain": "No diff.", "rec": "Rec.", "mean": "Ensemble"}
    table = no_diffusion_table(scores, labels, PRINTED)
    text = no_diffusion_document(table, "Note.").markdown()
    assert "[0.881]" in text or "[0.882]" in text
    assert "Differences to No diff." in text
    assert "Cohen's d" in text
    spread = table4(step_scores(ensembles(), POINTS), PRINTED)
    text = table4_document(spread, "Note.", 5).markdown()
    assert "[0.0212]" in text
    figure = fig3(fig3_numbers(ensembles(), POINTS), "Note.")
    assert [axis.get_ylabel() for axis in figure.axes] == ["Dice", "HD95 [mm]"]
    assert figure.axes[0].lines[0].get_xdata().tolist() == [1, 2]


STUDY = {
    "scale": "demo",
    "methods": {
        "mean-of-both": {"label": "Ensemble", "segmenter": "mean", "mean_of": ["attunet", "ddpm"], "denoiser": None},
        "ddpm": {"reverse_steps": 5, "variance": "small", "samples": 1, "step_spacing": "linspace"},
    },
    "exhibits": {
        "table2": None,
        "steps": {"methods": ["ddpm", "ddpm@sampler=ddim"], "samples": 4},
        "no_diffusion": {"methods": ["attunet", "ddpm", "mean-of-both"]},
    },
}


def configured(**changes):
    config = load.read(None, STUDY)
    config["exhibits"] |= changes
    return validate(config)


def test_steps_are_variations_that_stop_early_and_the_last_one_is_the_whole_chain():
    config = configured()
    names = step_methods(config)
    assert names[:5] == [*(f"ddpm@samples=4@stop_after={step}" for step in range(1, 5)), "ddpm@samples=4"]
    assert names[5] == "ddpm@sampler=ddim@samples=4@stop_after=1"
    assert [point["step"] for point in step_points(config)] == [1, 2, 3, 4, 5] * 2
    assert resampling(config, names[0]) == {"subsets": 4, "hd95": True, "largest": 1}
    assert resampling(config, "pd-ddpm")["largest"] is None
    assert {*names, "mean-of-both"} <= set(planned_methods(config))
    assert no_diffusion_labels(config)["mean-of-both"] == "Ensemble"
    assert {"fig3", "table4", "table2"} <= default_exhibits(config).keys()
    assert default_exhibits(config)["table2"].title == "Table 2: with and without diffusion"
    assert not {"fig3", "table4"} & default_exhibits(validate(load.read(None, {"scale": "demo"}))).keys()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": {"methods": ["attunet"], "samples": 4}}, "'attunet' has the segmenter deterministic"),
        ({"steps": {"methods": ["ddpm@stop_after=2"], "samples": 4}}, "ends early itself"),
        ({"steps": {"methods": ["ddpm"], "samples": 1}}, "`exhibits.steps.samples`"),
        ({"table2": load.read(None, {})["exhibits"]["table2"]}, "would both be shown as table2.csv"),
    ],
)
def test_impossible_exhibits_are_refused(changes, message):
    with pytest.raises(Exception, match=message):
        configured(**changes)


def test_claims_of_the_study_hold_where_scores_are_made_so():
    config = validate(load.read_study("recycling", {}))
    roles = roles_from_params(claims_roles(config))
    assert roles.others == {
        "diff": "Diff.",
        "diff-sc-same": "Diff. sc. x_t",
        "diff-sc-next": "Diff. sc. x_t+1",
        "diff-rec-next": "Diff. rec. x_t+1",
    }
    assert [point["step"] for point in roles.steps] == [1, 2, 3, 4, 5]
    random = np.random.default_rng(0)
    dice = {"both": 0.9, "recycled": 0.85, "no_diffusion": 0.8}
    means = {getattr(roles, role): value for role, value in dice.items()} | dict.fromkeys(roles.others, 0.7)
    scores = pd.DataFrame(
        [
            {"method": name, "split": 0, "seed": 0, "case": f"c{n}", "dice": mean + random.normal(0, 0.01)}
            for name, mean in means.items()
            for n in range(12)
        ]
    )
    rows = []
    for point in roles.steps:
        for case in range(12):
            for member in range(5):
                value = 0.7 + 0.02 * point["step"] + random.normal(0, 0.05 / point["step"] ** 2)
                identity = {"method": point["method"], "split": 0, "seed": 0, "case": f"c{case}", "size": 1}
                rows.append(identity | {"subset": str(member), "dice": value, "hd95_mm": 1.0})
    table = claims_table(scores, pd.DataFrame(rows), roles, PRINTED, pd.DataFrame()).set_index("claim")
    assert len(table) == 9
    assert set(table["verdict"]) == {"holds"}
    assert table.loc["seeds_converge", "effect"] < -0.05
    assert table.loc["mean_better_than_recycling", "effect"] == pytest.approx(0.05, abs=0.015)
    reversed_steps = [point | {"method": other["method"]} for point, other in zip(roles.steps, roles.steps[::-1], strict=True)]
    opposite = claims_table(scores, pd.DataFrame(rows), replace(roles, steps=reversed_steps), PRINTED, pd.DataFrame())
    verdicts = opposite.set_index("claim")["verdict"]
    assert verdicts[["steps_maintain_quality", "seeds_converge"]].tolist() == ["does not hold"] * 2


def test_scores_of_classes_keep_the_order_of_labels_and_methods() -> None:
    scores = pd.DataFrame(
        [
            {"class": name, "method": method, "case": case} | dict.fromkeys(METRICS, value + offset)
            for method, shift in (("recycled", 0.1), ("plain", 0.2))
            for case, value in (("b", shift), ("a", shift + 0.1))
            for name, offset in (("white matter", 0.0), ("lesion", 0.4))
        ]
    )
    groups = class_groups(scores, {"recycled": "R", "plain": "P"})
    assert list(zip(groups["group"], groups["method"], strict=True)) == [
        *(("white matter", "R"), ("white matter", "P"), ("lesion", "R"), ("lesion", "P")),
    ]
    assert groups["dice"].tolist() == pytest.approx([0.15, 0.25, 0.55, 0.65])
