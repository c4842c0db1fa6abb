"""Verdicts on synthetic scores in which each effect is planted, absent or reversed (about 2 s)."""

import math
from dataclasses import asdict, replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from pd_ddpm.exhibits.claims.claim import FAILS, HOLDS, NOT_RUN, UNDECIDED, PatchRoles, Roles, roles_from_params
from pd_ddpm.exhibits.claims.table import claims_document, claims_table
from pd_ddpm.exhibits.tables.table2 import Table2Row

PRINTED = pd.read_csv(Path(__file__).parents[2] / "config" / "printed_values.csv")
NOISE = np.array([0.004, -0.003, 0.001, -0.004, 0.002])
BASE = np.array([0.6, 0.7, 0.75, 0.8, 0.85])
GRID = {50: "pd@50", 300: "pd", 500: "pd@500", 1000: "pd@1000"}
STEP_SIZES = dict.fromkeys(GRID, 50.0)
TABLE2 = [
    Table2Row("Zero", "pd-zero", None, "Zero"),
    Table2Row("Early", "pd-early", "early", "0.754"),
    Table2Row("AttUNet", "pd", "attunet", "0.799"),
]
ROLES = Roles(
    pd_ddpm="pd",
    vanilla="ddpm",
    presegmentation="attunet",
    tdpm="tdpm",
    es_ddpm="es",
    ensemble="pd",
    grid=GRID,
    step_sizes=STEP_SIZES,
    table2=TABLE2,
)
NO_ENSEMBLES = pd.DataFrame()


def scores(
    method: str, dice: np.ndarray, evaluations: int = 16, seconds: float = 2.0, uncertainty: float = np.nan
) -> pd.DataFrame:
    cases = [f"{number:02d}" for number in range(len(dice))]
    rows = {"method": method, "split": 0, "seed": 0, "case": cases, "samples": 5, "dice": dice, "lesion_f1": dice - 0.1}
    rows |= {"hd95_mm": np.nan, "reference_voxels": 100, "uncertainty": uncertainty}
    return pd.DataFrame(rows | {"network_evaluations": evaluations, "seconds": seconds * (1 + np.arange(len(dice)) / 100)})


def world(shift: float, cases: int = 5, evaluations: int = 16) -> pd.DataFrame:
    """Return scores in which PD-DDPM is better than all others by `shift`, with noise; worse if it is negative."""
    base, noise = BASE[:cases], NOISE[:cases]
    return pd.concat(
        [
            scores("pd", base, evaluations, 2.0, uncertainty=2e-3),
            scores("ddpm", base - shift + noise, 50, 8.0),
            scores("attunet", base - shift + np.roll(noise, 1), 1, 0.1),
            scores("tdpm", base - shift - noise),
            scores("es", base - shift - np.roll(noise, 2)),
            scores("early", base - shift - 0.1, 1),
            scores("pd-early", base - 0.05 * np.sign(shift) + noise),
            scores("pd-zero", base - 0.1 - 5 * shift + noise),
            scores("pd@50", base - shift + noise, uncertainty=0.2e-3),
            scores("pd@500", base + noise, uncertainty=3e-3),
            scores("pd@1000", base - shift - noise, uncertainty=3.1e-3),
        ]
    )


def members(quality: np.ndarray, gain: float) -> pd.DataFrame:
    """Return ensemble rows of a pool: the Dice of a subset is the mean of its members (cases, N), plus `gain` for several."""
    rows = []
    for case, member_dice in enumerate(quality):
        for size in (1, 2, 3, 5):
            for subset in combinations(range(len(member_dice)), size):
                dice = member_dice[list(subset)].mean() + gain * (size > 1)
                identity = {"method": "pd", "split": 0, "seed": 0, "case": f"{case:02d}", "pool": len(member_dice)}
                rows.append(identity | {"size": size, "subset": "+".join(map(str, subset)), "dice": dice})
    return pd.DataFrame(rows)


def verdicts(frame: pd.DataFrame, ensembles: pd.DataFrame = NO_ENSEMBLES, roles: Roles = ROLES) -> pd.DataFrame:
    return claims_table(frame, ensembles, roles, PRINTED, pd.DataFrame()).set_index("claim")


DICE_CLAIMS = [
    "better_and_cheaper_than_vanilla",
    "better_than_presegmentation",
    "better_lesion_f1_than_presegmentation",
    "better_than_tdpm",
    "better_than_es_ddpm",
    "t300_better_than_smallest",
    "t300_better_than_largest",
]


@pytest.mark.parametrize(("shift", "verdict"), [(0.02, HOLDS), (0.0, UNDECIDED), (-0.02, FAILS)])
def test_verdict_follows_planted_absent_and_reversed_effects(shift: float, verdict: str) -> None:
    table = verdicts(world(shift))
    assert table.loc[DICE_CLAIMS, "verdict"].to_dict() == dict.fromkeys(DICE_CLAIMS, verdict)
    assert table.loc[DICE_CLAIMS, "effect"].to_numpy() == pytest.approx(shift, abs=0.002)
    assert (table.loc[DICE_CLAIMS, "cases"] == 5).all()


def test_effect_and_interval_equal_paired_t_test() -> None:
    frame = world(0.003)
    row = verdicts(frame).loc["better_than_es_ddpm"]
    dice = frame.set_index(["method", "case"])["dice"]
    paired = stats.ttest_rel(dice["pd"], dice["es"])
    assert (row["effect_low"], row["effect_high"]) == pytest.approx(tuple(paired.confidence_interval()))
    assert row["effect"] == pytest.approx((dice["pd"] - dice["es"]).mean())


def test_effect_paper_follows_from_printed_values() -> None:
    paper = verdicts(world(0.02))["effect_paper"]
    assert paper["better_and_cheaper_than_vanilla"] == 0.016
    assert paper["better_than_presegmentation"] == 0.013
    assert paper["better_lesion_f1_than_presegmentation"] == 0.047
    assert paper["far_worse_from_empty_mask"] == 0.459
    x, y = [0.754, 0.770, 0.785, 0.799], [0.790, 0.795, 0.798, 0.812]
    assert paper["better_from_better_presegmentation"] == pytest.approx(stats.linregress(x, y).slope, abs=1e-3)
    assert np.isnan(paper["uncertainty_grows"])


def test_better_than_vanilla_fails_without_fewer_evaluations() -> None:
    row = verdicts(world(0.02, evaluations=50)).loc["better_and_cheaper_than_vanilla"]
    assert row["verdict"] == FAILS
    assert row["effect_low"] > 0
    assert "Network evaluations per slice: 50 against 50" in row["detail"]


def test_faster_than_vanilla_is_a_ratio() -> None:
    row = verdicts(world(0.0)).loc["faster_than_vanilla"]
    assert (row["effect"], row["verdict"]) == (pytest.approx(4.0), HOLDS)
    slower = pd.concat([scores("pd", BASE, seconds=8.0), scores("ddpm", BASE, seconds=2.0)])
    assert verdicts(slower).loc["faster_than_vanilla", ["effect", "verdict"]].tolist() == [pytest.approx(0.25), FAILS]


@pytest.mark.parametrize(("shift", "verdict"), [(0.02, HOLDS), (-0.02, FAILS)])
def test_better_presegmentation_slope_of_two_rows_is_exact(shift: float, verdict: str) -> None:
    row = verdicts(world(shift)).loc["better_from_better_presegmentation"]
    dice = world(shift).groupby("method")["dice"].mean()
    assert row["effect"] == pytest.approx((dice["pd"] - dice["pd-early"]) / (dice["attunet"] - dice["early"]))
    assert row["verdict"] == verdict


def test_better_presegmentation_slope_equals_least_squares() -> None:
    generator = np.random.default_rng(3)
    dice = {name: generator.uniform(0.5, 0.9, 5) for name in ("a", "b", "c", "pd-a", "pd-b", "pd-c", "pd")}
    roles = Roles("pd", table2=[Table2Row(name, f"pd-{name}", name, None) for name in "abc"])
    row = verdicts(pd.concat([scores(name, values) for name, values in dice.items()]), roles=roles)
    x = [dice[name].mean() for name in "abc"]
    slopes = [stats.linregress(x, [dice[f"pd-{name}"][case] for name in "abc"]).slope for case in range(5)]
    assert row.loc["better_from_better_presegmentation", "effect"] == pytest.approx(np.mean(slopes))


@pytest.mark.parametrize(("shift", "verdict"), [(0.06, HOLDS), (0.0, UNDECIDED), (-0.01, FAILS)])
def test_far_worse_from_empty_mask_compares_with_its_bound(shift: float, verdict: str) -> None:
    row = verdicts(world(shift)).loc["far_worse_from_empty_mask"]
    assert row["verdict"] == verdict
    assert row["effect"] == pytest.approx(0.1 + 5 * shift, abs=0.001)


def uncertain(curve: dict[int, float], noise: float = 0.05) -> pd.DataFrame:
    generator = np.random.default_rng(5)
    return pd.concat(
        [
            scores("pd" if t == 300 else f"pd@{t}", BASE).assign(uncertainty=u * (1 + generator.normal(0, noise, 5)))
            for t, u in curve.items()
        ]
    )


@pytest.mark.parametrize(
    ("curve", "grows", "saturates"),
    [
        ({50: 0.1, 300: 0.6, 500: 1.0, 1000: 1.05}, HOLDS, HOLDS),
        ({50: 0.1, 300: 0.6, 500: 1.0, 1000: 2.0}, HOLDS, FAILS),
        ({50: 0.1, 300: 0.6, 500: 1.0, 1000: 0.95}, HOLDS, HOLDS),
        ({50: 1.0, 300: 0.6, 500: 0.2, 1000: 0.2}, FAILS, FAILS),
        ({50: 1.0, 300: 1.0, 500: 1.0, 1000: 1.0}, UNDECIDED, UNDECIDED),
        ({50: 0.05, 300: 0.04, 500: 0.03, 800: 0.02, 1000: 0.01}, FAILS, FAILS),  # falls all the way
        ({50: 0.01, 300: 0.02, 500: 0.03, 800: 0.01, 1000: 0.002}, HOLDS, FAILS),  # collapses
    ],
)
def test_uncertainty_claims_follow_the_shape_of_the_curve(curve: dict[int, float], grows: str, saturates: str) -> None:
    table = verdicts(uncertain(curve))
    assert table.loc["uncertainty_grows", "verdict"] == grows
    assert table.loc["uncertainty_saturates", "verdict"] == saturates


def test_uncertainty_growth_is_relative_to_the_mean_of_the_case() -> None:
    linear = uncertain({50: 0.5, 300: 3.0, 500: 5.0, 1000: 10.0}, noise=0.0)
    table = verdicts(linear)
    mean_until_500, mean_of_all = (0.5 + 3 + 5) / 3, (0.5 + 3 + 5 + 10) / 4
    assert table.loc["uncertainty_grows", "effect"] == pytest.approx(1.0 / mean_until_500)
    assert table.loc["uncertainty_saturates", "effect"] == pytest.approx(0.5 / mean_of_all)
    falling = verdicts(uncertain({50: 0.5, 300: 3.0, 500: 5.0, 1000: 2.0}, noise=0.0))
    mean_of_all = (0.5 + 3 + 5 + 2) / 4
    assert falling.loc["uncertainty_saturates", "effect"] == pytest.approx((0.6 - 0.5) / mean_of_all)


@pytest.mark.parametrize("size", [44.9, 55.1, 25.0])
def test_uncertainty_claims_leave_out_chains_with_steps_of_another_size(size: float) -> None:
    """The uncertainty at T' = 50 would reverse the verdict. Its steps are shorter or longer than those of the other chains."""
    frame = uncertain({50: 9.0, 300: 3.0, 500: 5.0, 1000: 5.0}, noise=0.0)
    assert verdicts(frame).loc["uncertainty_grows", "verdict"] == FAILS
    table = verdicts(frame, roles=replace(ROLES, step_sizes=STEP_SIZES | {50: size}))
    assert table.loc["uncertainty_grows", "effect"] == pytest.approx(1.0 / 4)  # 3 to 5 in 200 steps, mean 4
    left_out = f"Left out, since their steps have another size than the 50 timesteps of T' = 1000: {size:.4g} at T' = 50."
    assert table.loc[["uncertainty_grows", "uncertainty_saturates"], "detail"].str.endswith(left_out).all()
    assert f"{size:.4g} at T' = 50, 50 at T' = 300." in table.loc["t300_better_than_smallest", "detail"]
    assert "differ in size" not in table.loc["t300_better_than_largest", "detail"]


def test_uncertainty_claims_accept_step_sizes_that_differ_by_rounding() -> None:
    frame = uncertain({50: 0.5, 300: 3.0, 500: 5.0, 1000: 10.0}, noise=0.0)
    rounded = verdicts(frame, roles=replace(ROLES, step_sizes=STEP_SIZES | {50: 45.0, 300: 55.0}))
    pd.testing.assert_frame_equal(rounded, verdicts(frame))


def test_uncertainty_claims_without_equal_steps_are_not_run() -> None:
    sizes = {50: 50.0, 300: 150.0, 500: 125.0, 1000: 125.0}  # 8 steps over T = 1000
    table = verdicts(uncertain({50: 0.1, 300: 0.6, 500: 1.0, 1000: 1.05}), roles=replace(ROLES, step_sizes=sizes))
    assert table.loc[["uncertainty_grows", "uncertainty_saturates"], "verdict"].tolist() == [NOT_RUN, NOT_RUN]
    assert "whose steps have the size of the largest T'" in table.loc["uncertainty_grows", "detail"]


def test_uncertainty_saturates_ignores_changes_of_opposite_sign() -> None:
    """The absolute changes of single cases would on average exceed half of the growth."""
    beyond = np.array([0.8, -0.8, 0.8, -0.8, 0.0])
    frame = pd.concat(
        [
            scores(method, BASE).assign(uncertainty=level)
            for method, level in (("pd@50", 0.5), ("pd", 3.0), ("pd@500", 5.0), ("pd@1000", 5.0 + 5 * beyond))
        ]
    )
    assert verdicts(frame).loc["uncertainty_saturates", "effect"] < 0


@pytest.mark.parametrize(("gain", "verdict"), [(0.01, HOLDS), (0.0, UNDECIDED), (-0.01, FAILS)])
def test_ensemble_better_than_member_follows_the_gain(gain: float, verdict: str) -> None:
    # An ensemble of equal members is as good as each of them. The size-5 subsets of a pool of 6 add noise per case.
    quality = BASE[:, None] + np.random.default_rng(0).normal(0, 0.02, (5, 6))
    rows = members(quality, gain)
    rows.loc[rows["size"] == 5, "dice"] += rows.loc[rows["size"] == 5, "case"].map(
        dict(zip(["00", "01", "02", "03", "04"], NOISE, strict=True))
    )
    row = verdicts(world(0.0), rows).loc["ensemble_better_than_member"]
    assert row["verdict"] == verdict
    assert row["effect"] == pytest.approx(gain + NOISE.mean())


@pytest.mark.parametrize(("pool", "several"), [(5, 2), (6, 3), (10, 5)])
def test_spread_of_linear_score_shrinks_with_root_of_size(pool: int, several: int) -> None:
    """This is exact for any members, because only subsets without a common member are compared."""
    rows = members(BASE[:, None] + np.random.default_rng(pool).normal(0, 0.02, (5, pool)), 0.0)
    row = verdicts(world(0.0), rows).loc["spread_shrinks_with_size"]
    assert row["effect"] == pytest.approx(several**-0.5)
    assert row["verdict"] == HOLDS
    assert f"with {several} members" in row["detail"]


@pytest.mark.parametrize(("factor", "verdict"), [(2.5, FAILS), (1.414, UNDECIDED)])
def test_spread_that_does_not_shrink_fails_or_is_undecided(factor: float, verdict: str) -> None:
    rows = members(BASE[:, None] + np.random.default_rng(1).normal(0, 0.02, (5, 5)), 0.0)
    middle = rows.groupby(["case", "size"])["dice"].transform("mean")
    widened = (rows["dice"] - middle) * factor * rows["case"].map(lambda case: 1 + 10 * NOISE[int(case)])
    rows.loc[rows["size"] == 2, "dice"] = (middle + widened)[rows["size"] == 2]
    assert verdicts(world(0.0), rows).loc["spread_shrinks_with_size", "verdict"] == verdict


def test_ensemble_claims_use_one_pool_per_seed() -> None:
    """Subsets of two very different seeds would spread more if they were pooled, and each case would count twice."""
    first = members(BASE[:, None] + np.random.default_rng(2).normal(0, 0.02, (5, 6)), 0.01)
    second = members(BASE[:, None] - 0.3 + np.random.default_rng(3).normal(0, 0.02, (5, 6)), 0.01).assign(seed=1)
    table = verdicts(world(0.0), pd.concat([first, second]))
    assert table.loc["spread_shrinks_with_size", ["effect", "cases"]].tolist() == [pytest.approx(3**-0.5), 5]
    assert table.loc["ensemble_better_than_member", ["effect", "cases"]].tolist() == [pytest.approx(0.01), 5]


def test_claims_average_over_seeds() -> None:
    frame = pd.concat([world(0.03), world(0.01).assign(seed=1)])
    row = verdicts(frame).loc["better_than_tdpm"]
    assert (row["effect"], row["cases"]) == (pytest.approx(0.02), 5)


def test_claims_of_several_splits_count_trainings() -> None:
    """Cases agree within each split, but the splits do not: fifteen cases decide nothing, and each split alone would."""
    splits = [world(shift).assign(split=split) for split, shift in enumerate([0.02, 0.03, -0.02])]
    frame = pd.concat([rows.assign(case=f"{split}-" + rows["case"]) for split, rows in enumerate(splits)])
    row = verdicts(frame).loc["better_than_tdpm"]
    assert row[["verdict", "cases", "trainings"]].tolist() == [UNDECIDED, 15, 3]
    means = [0.02 + NOISE.mean(), 0.03 + NOISE.mean(), -0.02 + NOISE.mean()]
    expected = stats.ttest_1samp(means, 0).confidence_interval(0.95)
    assert (row["effect_low"], row["effect_high"]) == pytest.approx((expected.low, expected.high))
    assert verdicts(splits[0]).loc["better_than_tdpm", "verdict"] == HOLDS
    assert verdicts(splits[2]).loc["better_than_tdpm", "verdict"] == FAILS
    document = claims_document(verdicts(frame).reset_index(), "Three splits.").markdown()
    assert "Student's t over 3 trainings and their cases" in document


def test_ensemble_claims_of_several_splits_count_trainings() -> None:
    quality = BASE[:, None] + np.random.default_rng(2).normal(0, 0.02, (5, 6))
    rows = [members(quality, gain).assign(split=split) for split, gain in enumerate([0.01, 0.02, -0.02])]
    rows = pd.concat([frame.assign(case=f"{split}-" + frame["case"]) for split, frame in enumerate(rows)])
    row = verdicts(world(0.0), rows).loc["ensemble_better_than_member"]
    expected = stats.ttest_1samp([0.01, 0.02, -0.02], 0).confidence_interval(0.95)
    assert (row["effect_low"], row["effect_high"]) == pytest.approx((expected.low, expected.high))
    assert row[["verdict", "cases", "trainings"]].tolist() == [UNDECIDED, 15, 3]


def test_claims_of_single_case_are_undecided() -> None:
    rows = members(np.array([[0.6, 0.62, 0.58, 0.61, 0.6]]), 0.01)
    table = verdicts(world(0.02, cases=1), rows)
    assert (table["verdict"] == UNDECIDED).all()
    assert (table["cases"] == 1).all()
    assert table["effect"].notna().all()
    assert table[["effect_low", "effect_high"]].isna().all(axis=None)
    assert "| 0.016 | [0.016] | Dice | 1 |" in claims_document(table.reset_index(), "One case.").markdown()


def test_claims_without_scores_are_not_run() -> None:
    table = verdicts(scores("pd", BASE), roles=Roles("pd", tdpm="tdpm", grid={300: "pd"}))
    assert (table["verdict"] == NOT_RUN).all()
    assert table.loc["better_than_tdpm", "detail"] == "TDPM was not scored."
    assert table.loc["ensemble_better_than_member", "detail"] == "No ensembles were scored."
    assert (table["cases"] == 0).all()


def test_claims_without_a_role_are_not_run() -> None:
    roles = Roles("pd", presegmentation="attunet", grid=GRID, table2=TABLE2, ensemble="pd")
    table = verdicts(world(0.02), roles=roles)
    missing = {
        "better_and_cheaper_than_vanilla": "Vanilla DDPM",
        "faster_than_vanilla": "Vanilla DDPM",
        "better_than_tdpm": "TDPM",
        "better_than_es_ddpm": "ES-DDPM",
    }
    for claim, name in missing.items():
        row = table.loc[claim]
        assert (row["verdict"], row["detail"]) == (NOT_RUN, f"{name} was not run.")
    assert (table.loc[["better_than_presegmentation", "uncertainty_saturates"], "verdict"] == HOLDS).all()
    page = claims_document(table.reset_index(), "Without them.").markdown()
    assert "not run: 6." in page
    assert "Not run: a method that the claim compares is not among those that were run" in page


def test_ensemble_claims_of_small_pools() -> None:
    three_members = members(BASE[:, None] + np.random.default_rng(2).normal(0, 0.02, (5, 3)), 0.01)
    table = verdicts(world(0.0), three_members)
    assert table.loc["ensemble_better_than_member", "verdict"] == HOLDS
    assert table.loc["spread_shrinks_with_size", "verdict"] == NOT_RUN
    alone = verdicts(world(0.0), three_members[three_members["size"] == 1])
    assert alone.loc["ensemble_better_than_member", "verdict"] == NOT_RUN


def test_uncertainty_claims_without_members_are_not_run() -> None:
    table = verdicts(uncertain({50: np.nan, 300: np.nan, 500: np.nan, 1000: np.nan}))
    assert table.loc[["uncertainty_grows", "uncertainty_saturates"], "verdict"].tolist() == [NOT_RUN, NOT_RUN]


@pytest.mark.workflow  # takes 4 s
def test_claims_without_effect_hold_at_the_nominal_rate() -> None:
    """With five cases, about one in forty claims without any effect holds, as the document states."""
    generator = np.random.default_rng(0)
    holds = 0
    for _ in range(120):
        frame = pd.concat([scores(name, generator.normal(0.8, 0.02, 5)) for name in ("pd", "ddpm", "tdpm", "es", "attunet")])
        holds += (verdicts(frame).loc[["better_than_tdpm", "better_than_es_ddpm"], "verdict"] == HOLDS).sum()
    assert holds / 240 == pytest.approx(0.025, abs=0.025)


def test_roles_from_params_reads_plain_rows_of_table_2() -> None:
    params = asdict(ROLES)
    assert isinstance(params["table2"][0], dict)
    assert Roles.from_params(params) == ROLES


def test_claims_document_counts_the_verdicts() -> None:
    page = claims_document(verdicts(world(0.02)).reset_index(), "Demo scale.").markdown()
    assert "Of 14 claims — holds: 12, does not hold: 0, undecided at this scale: 0, not run: 2." in page
    assert "| PD-DDPM has a higher Dice than TDPM | Table 1, Sec. 4 | holds | 0.020 (0.016" in page


PATCH_ROLES = PatchRoles("patch", "full", "half", chains={5: "patch@5", 50: "patch"}, few_steps=5)
MEMORY = pd.DataFrame(
    {"phase": ["training"] * 4 + ["sampling"], "label": ["Patches", "Whole"] * 2 + ["Patches"], "edge": [64, 64, 256, 256, 256]}
).assign(counted_gb=[1.0, 2.0, 12.0, 90.0, 4.0])


def patch_verdicts(shift: float, memory: pd.DataFrame = MEMORY) -> pd.DataFrame:
    """Test PatchDDM's claims where it is better than its rivals, and few steps than many, by `shift`."""
    rivals = [scores("patch", BASE), *(scores(name, BASE - shift + NOISE) for name in ("full", "half"))]
    frame = pd.concat([table.assign(hd95_mm=10 * (1 - table["dice"])) for table in rivals])
    quality = BASE[:, None] + np.outer(NOISE, [1, -1, 2, -2, 0, 1])
    several = members(quality, gain=shift).assign(method="patch")
    few = members(quality + shift, gain=shift).assign(method="patch@5")
    return claims_table(frame, pd.concat([several, few]), PATCH_ROLES, PRINTED, memory).set_index("claim")


@pytest.mark.parametrize(("shift", "verdict"), [(0.03, HOLDS), (-0.03, FAILS)])
def test_patch_claims_follow_planted_and_reversed_effects(shift: float, verdict: str) -> None:
    table = patch_verdicts(shift).drop("training_needs_less_memory")
    assert table["verdict"].to_dict() == dict.fromkeys(table.index, verdict)
    dice = table.drop("lower_hd95_than_half_resolution")["effect"]
    assert dice.to_numpy(float) == pytest.approx(shift, abs=0.004)
    assert table.loc["lower_hd95_than_half_resolution", "effect"] == pytest.approx(-10 * shift, abs=0.04)
    assert table["effect_paper"].isna().all()


def test_patch_claims_of_equal_methods_hold_within_their_margin_only() -> None:
    table = patch_verdicts(0.0)["verdict"]
    assert table[["not_worse_than_full_resolution", "few_steps_suffice"]].tolist() == [HOLDS, HOLDS]
    assert table[["better_than_half_resolution", "lower_hd95_than_half_resolution"]].tolist() == [UNDECIDED, UNDECIDED]


def test_claim_on_memory_is_a_ratio_without_interval() -> None:
    row = patch_verdicts(0.0).loc["training_needs_less_memory"]
    assert (row["effect"], row["verdict"], row["cases"]) == (7.5, HOLDS, 0)
    assert math.isnan(row["effect_low"])
    assert "256³: 90.0 GB (Whole), 12.0 GB (Patches)" in row["detail"]
    assert patch_verdicts(0.0, MEMORY.assign(counted_gb=1.0)).loc["training_needs_less_memory", "verdict"] == UNDECIDED
    assert patch_verdicts(0.0, pd.DataFrame()).loc["training_needs_less_memory", "verdict"] == NOT_RUN


def test_patch_claims_document_says_that_no_printed_value_is_known() -> None:
    document = claims_document(patch_verdicts(0.03).reset_index(), "synthetic").markdown()
    assert "The values that the paper prints are not known here." in document
    assert roles_from_params(asdict(PATCH_ROLES)) == PATCH_ROLES
