"""Effects: one number per case for each claim."""

from collections.abc import Callable

import numpy as np
import pandas as pd

from pd_ddpm.evaluation.ensemble_curve import variance_of_disjoint
from pd_ddpm.evaluation.statistics import paired_differences
from pd_ddpm.exhibits.claims.claim import Effect, Evidence, NotRun
from pd_ddpm.exhibits.tables.cells import number
from pd_ddpm.exhibits.tables.table2 import presegmentation_dice

# How much worse "far worse" is: about the standard deviation of Dice over cases. Ours; the paper's gap is 0.459.
FAR_IN_DICE = 0.1


def paired_difference(evidence: Evidence, role: str, metric: str) -> Effect:
    """PD-DDPM minus the method of another role."""
    ours, other = evidence.of_role("pd_ddpm"), evidence.of_role(role)
    name = {"dice": "Dice", "lesion_f1": "Lesion F1"}[metric]
    return Effect(
        paired_differences(ours[metric], other[metric]),
        f"{name} {number(ours[metric].mean(), 3)} against {number(other[metric].mean(), 3)}.",
    )


def better_and_cheaper_than_vanilla(evidence: Evidence) -> Effect:
    found = paired_difference(evidence, "vanilla", "dice")
    ours = evidence.of_role("pd_ddpm")["network_evaluations"].mean()
    other = evidence.of_role("vanilla")["network_evaluations"].mean()
    detail = f"{found.detail} Network evaluations per slice: {ours:.0f} against {other:.0f}."
    return Effect(found.of_case, detail, condition=bool(ours < other))


def faster_than_vanilla(evidence: Evidence) -> Effect:
    """Logarithm of the ratio of seconds, so that the mean over cases is the geometric one."""
    ours, other = evidence.of_role("pd_ddpm")["seconds"], evidence.of_role("vanilla")["seconds"]
    ratio = paired_differences(np.log(other.where(other > 0)), np.log(ours.where(ours > 0)))
    means = f"{number(ours.mean(), 1)} s against {number(other.mean(), 1)} s per case"
    return Effect(ratio, f"{means}, as measured on the machine that sampled; effect: geometric mean of the ratios.")


def slope_over_presegmentations(evidence: Evidence) -> Effect:
    """Each case's least-squares slope of PD-DDPM's Dice over the mean Dice of the pre-segmentations that are not empty."""
    rows = [row for row in evidence.roles.table2 if row.presegmentation is not None]
    if len(rows) < 2:
        raise NotRun("Table 2 has fewer than two pre-segmentations that are not empty")
    quality, reached = {}, {}
    for row in rows:
        reached[row.method] = evidence.of(row.method, row.method)["dice"]
        evidence.of(row.presegmentation, row.presegmentation)
        quality[row.method] = presegmentation_dice(evidence.cases, row.method, row.presegmentation).mean()
    quality = pd.Series(quality).sort_values()
    if np.ptp(quality) == 0:
        raise NotRun("The pre-segmentations of Table 2 have one and the same Dice")
    wide = pd.DataFrame(reached).dropna()[quality.index]
    pairs = ", ".join(f"{number(quality[method], 3)} → {number(wide[method].mean(), 3)}" for method in quality.index)
    return Effect(
        _slopes(wide.set_axis(quality.to_numpy(), axis=1)),
        f"Pre-segmentation's mean Dice → PD-DDPM's: {pairs}; effect: mean of the cases' slopes.",
    )


def best_over_empty(evidence: Evidence) -> Effect:
    """PD-DDPM's Dice from the pre-segmentation with the highest Dice minus that from the empty mask."""
    empty = [row.method for row in evidence.roles.table2 if row.presegmentation is None]
    quality = {}
    for row in evidence.roles.table2:
        if row.presegmentation is not None:
            quality[row.method] = evidence.of(row.presegmentation, row.presegmentation)["dice"].mean()
    if not empty or not quality:
        raise NotRun("Table 2 lacks the empty mask or a pre-segmentation")
    best_method = max(quality, key=quality.get)
    best, worst = evidence.of(best_method, best_method)["dice"], evidence.of(empty[0], empty[0])["dice"]
    detail = f"Dice {number(best.mean(), 3)} from the best, {number(worst.mean(), 3)} from the empty mask."
    return Effect(paired_differences(best, worst), detail)


def best_t_start_over(evidence: Evidence, best: int, extreme: Callable) -> Effect:
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


def growth_of_uncertainty(evidence: Evidence, knee: int) -> Effect:
    """Each case's slope of uncertainty over T' up to the knee, relative to the case's mean there."""
    grid = {t_start: method for t_start, method in evidence.roles.grid.items() if t_start <= knee}
    if len(grid) < 2:
        raise NotRun(f"The grid of T' has fewer than two values up to {knee}")
    wide = evidence.wide("uncertainty", grid)
    relative = _relative_slopes(wide, wide)
    means = ", ".join(f"{1000 * value:.3g} at {t_start}" for t_start, value in wide.mean().items())
    return Effect(relative, f"Mean variance in the brain [10⁻³] by T': {means}; effect: mean of the cases' relative slopes.")


def saturation_of_uncertainty(evidence: Evidence, knee: int) -> Effect:
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


def ensemble_over_member(evidence: Evidence) -> Effect:
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


def spread_of_ensembles(evidence: Evidence) -> Effect:
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
