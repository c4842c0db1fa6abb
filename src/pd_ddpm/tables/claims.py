"""The claims of the PD-DDPM paper, each put to the test on our own scores.

Each claim becomes one number per case (its effect) and a side of a bound on which the claim puts it. The verdict comes from
the 95 % interval of the mean effect over cases: all of it on the claimed side, the claim holds; all of it on the other side,
it does not; anything else is undecided at this scale, which includes a single case. A claim is not run where no method plays
one of its parts, or where that method has no scores.

The interval is Student's t. With the four to twelve cases of a demo or of one fold the percentile bootstrap holds the true
mean too seldom (84 % at five cases, where it should be 95 %) and would decide what is not decided; a case's effect is a
difference or an average, hence not far from normal, and t is exact for normal effects from two cases on.

The unit is the case: seeds are averaged first, and trainings do not vary inside an interval. Each claim stands for itself,
without a correction for their number. What a claim is compared with, and any bound other than zero, stands in its statement.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from pd_ddpm.ensemble_curve import variance_of_disjoint
from pd_ddpm.scores import of_method, per_case
from pd_ddpm.statistics import paired_differences, student_interval
from pd_ddpm.tables.cells import interval, number, printed_values
from pd_ddpm.tables.document import Document, Part
from pd_ddpm.tables.table2 import Row, presegmentation_dice

HOLDS, FAILS, UNDECIDED, NOT_RUN = "holds", "does not hold", "undecided at this scale", "not run"

ROLE_NAMES = {
    "pd_ddpm": "PD-DDPM",
    "vanilla": "Vanilla DDPM",
    "presegmentation": "The pre-segmentation",
    "tdpm": "TDPM",
    "es_ddpm": "ES-DDPM",
}

# How much worse "far worse" is: about the standard deviation of Dice over cases. Ours; the paper's gap is 0.459.
FAR_IN_DICE = 0.1


@dataclass(frozen=True)
class Roles:
    """Which method plays which part in a claim; a claim whose part is None, empty or without scores is not run.

    grid: T' -> method. table2: rows of Table 2 as in `table2.Row`. ensemble: whose ensemble rows are read.
    """

    pd_ddpm: str
    vanilla: str | None = None
    presegmentation: str | None = None
    tdpm: str | None = None
    es_ddpm: str | None = None
    ensemble: str | None = None
    grid: Mapping[int, str] = field(default_factory=dict)
    table2: Sequence[Row] = ()


class NotRun(Exception):
    """What is missing for a claim."""


@dataclass(frozen=True)
class Effect:
    """The effect of each case, what was compared in words, and whether what the claim says beside it is true."""

    of_case: pd.Series
    detail: str
    condition: bool = True


@dataclass(frozen=True)
class Evidence:
    """Scores by case and method, ensemble rows, and who is who."""

    cases: pd.DataFrame
    ensembles: pd.DataFrame
    roles: Roles

    def of(self, method: str | None, called: str) -> pd.DataFrame:
        """The scores of a method by case; NotRun, naming what it is called, if it has none."""
        if method is None:
            raise NotRun(f"{called} is none of the methods that were run")
        if method not in set(self.cases["method"]):
            raise NotRun(f"{called} was not scored")
        return of_method(self.cases, method)

    def of_role(self, role: str) -> pd.DataFrame:
        """The scores of the method that plays this role, by case; NotRun if it has none."""
        return self.of(getattr(self.roles, role), ROLE_NAMES[role])

    def wide(self, metric: str, grid: Mapping[int, str]) -> pd.DataFrame:
        """A metric by case (rows) and T' (columns, ascending), cases with all of them only; NotRun if there is none."""
        columns = {t_start: self.of(grid[t_start], grid[t_start])[metric] for t_start in sorted(grid)}
        wide = pd.DataFrame(columns).dropna()
        if wide.empty:
            raise NotRun(f"No case has a value of {metric} at each T'")
        return wide


@dataclass(frozen=True)
class Claim:
    """A sentence of the paper made testable: the mean of `effect` over cases lies above (or below) the bound.

    printed: the effect as the paper's own numbers have it. scale: how effects, intervals and the bound are shown.
    """

    name: str
    statement: str
    paper: str
    unit: str
    effect: Callable[[Evidence], Effect]
    printed: float = math.nan
    bound: float = 0.0
    above: bool = True
    scale: Callable[[float], float] = float

    def row(self, evidence: Evidence) -> dict[str, object]:
        """The claim, tested."""
        identity = {"claim": self.name, "statement": self.statement, "paper": self.paper}
        try:
            found = self.effect(evidence)
        except NotRun as missing:
            nothing = dict.fromkeys(["effect", "effect_low", "effect_high"], math.nan)
            outcome = {"cases": 0, "verdict": NOT_RUN, "detail": f"{missing}."}
            return identity | nothing | {"effect_paper": self.printed, "unit": self.unit} | outcome
        effects = found.of_case.dropna()
        low, high = student_interval(effects)
        numbers = {"effect": self.scale(effects.mean()), "effect_low": self.scale(low), "effect_high": self.scale(high)}
        outcome = {"cases": len(effects), "verdict": self.verdict(low, high, found.condition), "detail": found.detail}
        return identity | numbers | {"effect_paper": self.printed, "unit": self.unit} | outcome

    def verdict(self, low: float, high: float, condition: bool) -> str:
        """What the interval says; a claim whose condition is false does not hold, whatever its effect."""
        claimed, opposite = (low > self.bound, high < self.bound) if self.above else (high < self.bound, low > self.bound)
        if not condition or opposite:
            return FAILS
        return HOLDS if claimed else UNDECIDED


def claims(scores: pd.DataFrame, ensembles: pd.DataFrame, roles: Roles, printed: pd.DataFrame) -> pd.DataFrame:
    """The paper's claims, a row each, tested on score rows and ensemble rows (an empty frame if there are none).

    Columns: claim, statement, paper (where it is made), effect (mean over cases), effect_low, effect_high (95 %),
    effect_paper (from the paper's printed values, where they give it), unit, cases, verdict ("holds", "does not hold",
    "undecided at this scale", "not run"), detail (what was compared). How a verdict is reached: see the module docstring.
    """
    evidence = Evidence(per_case(scores), ensembles, roles)
    return pd.DataFrame([claim.row(evidence) for claim in _all_claims(printed)])


def claims_document(table: pd.DataFrame, remark: str) -> Document:
    """The table of claims for reading."""
    rows = [row for _, row in table.iterrows()]
    shown = pd.DataFrame(
        {
            "Claim": table["statement"],
            "Paper": table["paper"],
            "Verdict": table["verdict"],
            "Effect (95 %)": [_effect_text(row) for row in rows],
            "[paper's]": ["" if pd.isna(row["effect_paper"]) else f"[{_plain(row['effect_paper'])}]" for row in rows],
            "Unit": table["unit"],
            "Cases": table["cases"],
            "What was compared": table["detail"],
        }
    )
    counts = table["verdict"].value_counts()
    tally = ", ".join(f"{verdict}: {counts.get(verdict, 0)}" for verdict in (HOLDS, FAILS, UNDECIDED, NOT_RUN))
    notes = [
        f"Of {len(table)} claims — {tally}.",
        "A claim is one number per case, its effect. Holds: the whole 95 % interval of the mean effect lies on the claimed "
        "side. Does not hold: all of it lies on the other side, or the claim says something else besides that is not so. "
        "Undecided: the interval reaches over the bound; that does not mean that there is no effect, only that these cases "
        "cannot tell. Not run: a method that the claim compares is not among those that were run, or has no scores. The bound "
        "is zero (for a ratio: one) where the claim names no other.",
        "The interval is Student's t over cases, not the bootstrap of the other tables: with a handful of cases the bootstrap "
        "is too narrow. Cases vary in it, trainings do not; several seeds are averaged. Claims are not corrected for their "
        "number: of 40 claims without any effect, one would be found to hold.",
        "[paper's]: the same effect from the paper's printed means; it prints neither intervals nor scores of single cases.",
    ]
    left = ("Paper", "Verdict", "Unit", "What was compared")
    return Document("The paper's claims, tested", remark, [Part("Claims", shown, notes, left)])


def _all_claims(printed: pd.DataFrame) -> list[Claim]:
    table1, curve = printed_values(printed, "table1"), printed_values(printed, "fig3_tprime")
    best, knee = int(curve["PD-DDPM", "best_t_start"]), int(curve["PD-DDPM", "saturation_t_start"])
    rows = printed[printed["exhibit"] == "table2"].pivot(index="row", columns="metric", values="value")
    weaker = rows[rows["presegmentation_dice"] > 0]
    slope = np.polyfit(weaker["presegmentation_dice"], weaker["dice"], 1)[0]
    drop = rows.loc[rows["presegmentation_dice"].idxmax(), "dice"] - rows.loc["Zero", "dice"]

    def gap(other: str, metric: str = "dice") -> float:
        return round(table1["PD-DDPM", metric] - table1[other, metric], 3)

    return [
        Claim(
            "better_and_cheaper_than_vanilla",
            "PD-DDPM has a higher Dice than vanilla DDPM, with fewer network evaluations",
            "Abstract, Table 1",
            "Dice",
            _better_and_cheaper_than_vanilla,
            gap("Vanilla DDPM"),
        ),
        Claim(
            "faster_than_vanilla",
            "PD-DDPM takes less time per case than vanilla DDPM",
            "Sec. 1, Sec. 2.2",
            "times faster",
            _faster_than_vanilla,
            scale=math.exp,
        ),
        Claim(
            "better_than_presegmentation",
            "PD-DDPM has a higher Dice than the pre-segmentation it starts from",
            "Table 1, Sec. 3.6",
            "Dice",
            lambda evidence: _difference(evidence, "presegmentation", "dice"),
            gap("AttUNet"),
        ),
        Claim(
            "better_lesion_f1_than_presegmentation",
            "PD-DDPM, an ensemble, has a higher lesion F1 than the single network it starts from",
            "Table 1",
            "F1",
            lambda evidence: _difference(evidence, "presegmentation", "lesion_f1"),
            gap("AttUNet", "lesion_f1"),
        ),
        Claim(
            "better_than_tdpm",
            "PD-DDPM has a higher Dice than TDPM",
            "Table 1, Sec. 4",
            "Dice",
            lambda evidence: _difference(evidence, "tdpm", "dice"),
            gap("TDPM"),
        ),
        Claim(
            "better_than_es_ddpm",
            "PD-DDPM has a higher Dice than ES-DDPM",
            "Table 1, Sec. 4",
            "Dice",
            lambda evidence: _difference(evidence, "es_ddpm", "dice"),
            gap("ES-DDPM"),
        ),
        Claim(
            "better_from_better_presegmentation",
            "The better the pre-segmentation, the better PD-DDPM",
            "Table 2, Sec. 3.6",
            "Dice per Dice",
            _slope_over_presegmentations,
            round(slope, 3),
        ),
        Claim(
            "far_worse_from_empty_mask",
            f"From an empty mask PD-DDPM is far worse than from the best pre-segmentation: by more than {FAR_IN_DICE:g} Dice "
            "(bound: ours)",
            "Table 2",
            "Dice",
            _best_over_empty,
            round(drop, 3),
            bound=FAR_IN_DICE,
        ),
        Claim(
            f"t{best}_better_than_smallest",
            f"T' = {best} gives a higher Dice than the smallest T'",
            "Fig. 3, Sec. 3.4",
            "Dice",
            lambda evidence: _best_t_start_over(evidence, best, min),
        ),
        Claim(
            f"t{best}_better_than_largest",
            f"T' = {best} gives a higher Dice than the largest T'",
            "Fig. 3, Sec. 3.4",
            "Dice",
            lambda evidence: _best_t_start_over(evidence, best, max),
        ),
        Claim(
            "uncertainty_grows",
            f"Uncertainty grows with T' up to {knee}",
            "Fig. 3, Sec. 3.4",
            "of the case's mean, per 100 steps",
            lambda evidence: _growth_of_uncertainty(evidence, knee),
        ),
        Claim(
            "uncertainty_saturates",
            f"Uncertainty saturates at T' = {knee}: it grows up to there, and beyond changes less than half as fast, up or "
            "down (half: ours)",
            "Fig. 3, Sec. 3.4",
            "change beyond − half of the growth before",
            lambda evidence: _saturation_of_uncertainty(evidence, knee),
            above=False,
        ),
        Claim(
            "ensemble_better_than_member",
            "The ensemble has a higher Dice than a single member",
            "Fig. 4, Sec. 3.5",
            "Dice",
            _ensemble_over_member,
        ),
        Claim(
            "spread_shrinks_with_size",
            "The Dice of an ensemble varies less than that of a single member",
            "Fig. 4, Sec. 3.5",
            "ratio of standard deviations",
            _spread_of_ensembles,
            bound=1.0,
            above=False,
        ),
    ]


def _difference(evidence: Evidence, role: str, metric: str) -> Effect:
    """PD-DDPM minus the method of another role."""
    ours, other = evidence.of_role("pd_ddpm"), evidence.of_role(role)
    name = {"dice": "Dice", "lesion_f1": "Lesion F1"}[metric]
    return Effect(
        paired_differences(ours[metric], other[metric]),
        f"{name} {number(ours[metric].mean(), 3)} against {number(other[metric].mean(), 3)}.",
    )


def _better_and_cheaper_than_vanilla(evidence: Evidence) -> Effect:
    found = _difference(evidence, "vanilla", "dice")
    ours = evidence.of_role("pd_ddpm")["network_evaluations"].mean()
    other = evidence.of_role("vanilla")["network_evaluations"].mean()
    detail = f"{found.detail} Network evaluations per slice: {ours:.0f} against {other:.0f}."
    return Effect(found.of_case, detail, condition=bool(ours < other))


def _faster_than_vanilla(evidence: Evidence) -> Effect:
    """Logarithm of the ratio of seconds, so that the mean over cases is the geometric one."""
    ours, other = evidence.of_role("pd_ddpm")["seconds"], evidence.of_role("vanilla")["seconds"]
    ratio = paired_differences(np.log(other.where(other > 0)), np.log(ours.where(ours > 0)))
    means = f"{number(ours.mean(), 1)} s against {number(other.mean(), 1)} s per case"
    return Effect(ratio, f"{means}, as measured on the machine that sampled; effect: geometric mean of the ratios.")


def _slope_over_presegmentations(evidence: Evidence) -> Effect:
    """Each case's least-squares slope of PD-DDPM's Dice over the mean Dice of the pre-segmentations that are not empty."""
    rows = [(method, before) for _, method, before, _ in evidence.roles.table2 if before is not None]
    if len(rows) < 2:
        raise NotRun("Table 2 has fewer than two pre-segmentations that are not empty")
    quality, reached = {}, {}
    for method, before in rows:
        reached[method] = evidence.of(method, method)["dice"]
        evidence.of(before, before)
        quality[method] = presegmentation_dice(evidence.cases, method, before).mean()
    quality = pd.Series(quality).sort_values()
    if np.ptp(quality) == 0:
        raise NotRun("The pre-segmentations of Table 2 have one and the same Dice")
    wide = pd.DataFrame(reached).dropna()[quality.index]
    pairs = ", ".join(f"{number(quality[method], 3)} → {number(wide[method].mean(), 3)}" for method in quality.index)
    return Effect(
        _slopes(wide.set_axis(quality.to_numpy(), axis=1)),
        f"Pre-segmentation's mean Dice → PD-DDPM's: {pairs}; effect: mean of the cases' slopes.",
    )


def _best_over_empty(evidence: Evidence) -> Effect:
    """PD-DDPM's Dice from the pre-segmentation with the highest Dice minus that from the empty mask."""
    empty = [method for _, method, before, _ in evidence.roles.table2 if before is None]
    quality = {}
    for _, method, before, _ in evidence.roles.table2:
        if before is not None:
            quality[method] = evidence.of(before, before)["dice"].mean()
    if not empty or not quality:
        raise NotRun("Table 2 lacks the empty mask or a pre-segmentation")
    best_method = max(quality, key=quality.get)
    best, worst = evidence.of(best_method, best_method)["dice"], evidence.of(empty[0], empty[0])["dice"]
    detail = f"Dice {number(best.mean(), 3)} from the best, {number(worst.mean(), 3)} from the empty mask."
    return Effect(paired_differences(best, worst), detail)


def _best_t_start_over(evidence: Evidence, best: int, extreme: Callable) -> Effect:
    """Dice at the paper's best T' minus Dice at one end of the grid: both named in advance, none chosen by its result."""
    grid = evidence.roles.grid
    if best not in grid or extreme(grid) == best:
        raise NotRun(f"The grid of T' has no {best}, or nothing {'below' if extreme is min else 'beyond'} it")
    wide = evidence.wide("dice", grid)
    other, here = extreme(grid), wide.mean().idxmax()
    return Effect(
        wide[best] - wide[other],
        f"Dice {number(wide[best].mean(), 3)} at T' = {best}, {number(wide[other].mean(), 3)} at T' = {other}; "
        f"highest here at T' = {here} ({number(wide[here].mean(), 3)}), which is not tested: it was chosen by its result.",
    )


def _growth_of_uncertainty(evidence: Evidence, knee: int) -> Effect:
    """Each case's slope of uncertainty over T' up to the knee, relative to the case's mean there."""
    grid = {t_start: method for t_start, method in evidence.roles.grid.items() if t_start <= knee}
    if len(grid) < 2:
        raise NotRun(f"The grid of T' has fewer than two values up to {knee}")
    wide = evidence.wide("uncertainty", grid)
    relative = _relative_slopes(wide, wide)
    means = ", ".join(f"{1000 * value:.3g} at {t_start}" for t_start, value in wide.mean().items())
    return Effect(relative, f"Mean variance in the brain [10⁻³] by T': {means}; effect: mean of the cases' relative slopes.")


def _saturation_of_uncertainty(evidence: Evidence, knee: int) -> Effect:
    """Size of the slope beyond the knee minus half of the slope up to it, each case's relative to its mean over the grid.

    Below zero only where uncertainty grew. Beyond the knee the direction of the mean slope counts as positive in every case:
    sizes of the single cases' slopes would add up their noise.
    """
    grid = evidence.roles.grid
    if knee not in grid or min(grid) == knee or max(grid) == knee:
        raise NotRun(f"The grid of T' has no {knee}, or nothing below or beyond it")
    wide = evidence.wide("uncertainty", grid)
    before = _relative_slopes(wide[[t_start for t_start in wide if t_start <= knee]], wide)
    beyond = _relative_slopes(wide[[t_start for t_start in wide if t_start >= knee]], wide)
    size = -beyond if beyond.mean() < 0 else beyond
    return Effect(
        size - before / 2,
        f"Growth per 100 steps: {number(100 * before.mean(), 1, signed=True)} % of the case's mean from T' = {min(grid)} to "
        f"{knee}, {number(100 * beyond.mean(), 1, signed=True)} % from {knee} to {max(grid)}.",
    )


def _ensemble_over_member(evidence: Evidence) -> Effect:
    """Mean Dice over the subsets of the ensemble's size minus that over single members."""
    rows = _ensemble_rows(evidence)
    samples = int(evidence.of_role("pd_ddpm")["samples"].max())
    sizes = rows.loc[rows["size"] <= samples, "size"]
    whole = sizes.max()
    if sizes.min() != 1 or whole == 1:
        raise NotRun("The ensemble rows lack single members or ensembles of several")
    dice = rows.groupby(["case", "split", "seed", "size"])["dice"].mean().unstack("size").groupby("case").mean()
    means = f"Dice {number(dice[whole].mean(), 3)} with {whole} members, {number(dice[1].mean(), 3)} with one"
    return Effect((dice[whole] - dice[1]).rename("dice"), f"{means}; mean over all subsets of that size that were scored.")


def _spread_of_ensembles(evidence: Evidence) -> Effect:
    """Standard deviation of Dice over ensembles of several members, as a share of that over single members.

    Subsets of one pool share members, which makes them too alike: only pairs that share none are compared.
    """
    rows = _ensemble_rows(evidence)
    pool = int(rows["pool"].min())
    several = rows.loc[rows["size"] <= pool / 2, "size"].max()
    if rows["size"].min() != 1 or not several > 1:
        raise NotRun("No ensembles of one member, or of several but at most half the pool, were scored")
    chosen = rows[rows["size"].isin([1, several])]
    groups = chosen.set_index("subset").groupby(["case", "split", "seed", "size"])["dice"]
    variance = {key: variance_of_disjoint(dice) for key, dice in groups}
    spread = np.sqrt(pd.Series(variance).rename_axis(["case", "split", "seed", "size"])).unstack("size").groupby("case").mean()
    ratio = (spread[several] / spread[1].where(spread[1] > 0)).rename("dice")
    return Effect(
        ratio,
        f"Standard deviation of a case's Dice: {number(spread[several].mean(), 4)} with {several} members, "
        f"{number(spread[1].mean(), 4)} with one, between ensembles that share no member of the pool of {pool}; 1/√{several} = "
        f"{number(several**-0.5, 2)} would be arithmetic, were Dice linear in the members.",
    )


def _ensemble_rows(evidence: Evidence) -> pd.DataFrame:
    name = evidence.roles.ensemble
    if name is None or evidence.ensembles.empty or name not in set(evidence.ensembles["method"]):
        raise NotRun("No ensembles were scored")
    return evidence.ensembles[evidence.ensembles["method"] == name]


def _relative_slopes(wide: pd.DataFrame, of_mean: pd.DataFrame) -> pd.Series:
    """Slope per 100 steps of T' for each case, as a share of the case's mean in `of_mean`; NaN where that is zero."""
    mean = of_mean.mean(axis=1)
    return 100 * _slopes(wide) / mean.where(mean > 0)


def _slopes(wide: pd.DataFrame) -> pd.Series:
    """Least-squares slope of each row over the numbers that name the columns."""
    x = wide.columns.to_numpy(dtype=float)
    return wide @ (x - x.mean()) / ((x - x.mean()) ** 2).sum()


def _effect_text(row: Mapping[str, float]) -> str:
    if pd.isna(row["effect"]):
        return ""
    if pd.isna(row["effect_low"]):
        return _plain(row["effect"])
    return f"{_plain(row['effect'])} {interval(_plain(row['effect_low']), _plain(row['effect_high']))}"


def _plain(value: float) -> str:
    return number(value, 1 if abs(value) >= 10 else 2 if abs(value) >= 2 else 3)
