"""Effects of PD-DDPM's claims: each function returns one number per training and case."""

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd

from pd_ddpm.evaluation.ensemble_curve import variance_of_disjoint
from pd_ddpm.evaluation.scores import name_trainings
from pd_ddpm.evaluation.statistics import CASE, TRAINING, paired_differences
from pd_ddpm.exhibits.claims.claim import Effect, Evidence, NotRun, Roles
from pd_ddpm.exhibits.step_sizes import step_sizes_phrase, unequal_steps
from pd_ddpm.exhibits.tables.cells import number
from pd_ddpm.exhibits.tables.table2 import presegmentation_dice

# Our definition of "far worse": about the standard deviation of Dice over cases. The gap in the paper is 0.459.
FAR_WORSE_DICE = 0.1

RUN_AND_CASE = (TRAINING, "split", "seed", CASE)

METRIC_NAMES = {"dice": "Dice", "lesion_f1": "Lesion F1", "hd95_mm": "HD95 [mm]"}


def paired_difference(evidence: Evidence, role: str, metric: str = "dice", subject: str = "pd_ddpm") -> Effect:
    """Return PD-DDPM, or another method, minus a method, paired by case.

    Args:
        evidence: scores and roles.
        role: role of the method that is subtracted.
        metric: column of the scores.
        subject: role of the method that it is subtracted from.

    Raises:
        NotRun: a method has no scores.
    """
    ours, baseline = evidence.scores_of_role(subject)[metric], evidence.scores_of_role(role)[metric]
    detail = f"{METRIC_NAMES[metric]} {number(ours.mean(), 3)} against {number(baseline.mean(), 3)}."
    return Effect(paired_differences(ours, baseline), detail)


def better_and_cheaper_than_vanilla(evidence: Evidence) -> Effect:
    """Return the difference in Dice to vanilla DDPM, with the condition of fewer network evaluations."""
    difference = paired_difference(evidence, "vanilla")
    ours = evidence.scores_of_role("pd_ddpm")["network_evaluations"].mean()
    vanilla = evidence.scores_of_role("vanilla")["network_evaluations"].mean()
    detail = f"{difference.detail} Network evaluations per slice: {ours:.0f} against {vanilla:.0f}."
    return Effect(difference.values, detail, condition=bool(ours < vanilla))


def faster_than_vanilla(evidence: Evidence) -> Effect:
    """Return the logarithm of the ratio of seconds, so that the mean over cases is the geometric mean."""
    ours, vanilla = evidence.scores_of_role("pd_ddpm")["seconds"], evidence.scores_of_role("vanilla")["seconds"]
    ratio = paired_differences(np.log(vanilla.where(vanilla > 0)), np.log(ours.where(ours > 0)))
    means = f"{number(ours.mean(), 1)} s against {number(vanilla.mean(), 1)} s per case"
    return Effect(ratio, f"{means}, as measured on the machine that sampled; effect: geometric mean of the ratios.")


def slope_over_presegmentations(evidence: Evidence) -> Effect:
    """Return each case's least-squares slope of PD-DDPM's Dice over the mean Dice of the pre-segmentations.

    Empty pre-segmentations are left out.
    """
    rows = [row for row in evidence.roles.table2 if row.presegmentation is not None]
    if len(rows) < 2:
        raise NotRun("Table 2 has fewer than two pre-segmentations that are not empty")
    start_dice, dice = {}, {}
    for row in rows:
        dice[row.method] = evidence.scores_of(row.method, row.method)["dice"]
        evidence.scores_of(row.presegmentation, row.presegmentation)  # raises NotRun if it has no scores
        start_dice[row.method] = presegmentation_dice(evidence.cases, row.method, row.presegmentation).mean()
    start_dice = pd.Series(start_dice).sort_values()
    if np.ptp(start_dice) == 0:
        raise NotRun("All pre-segmentations of Table 2 have the same Dice")
    table = pd.DataFrame(dice).dropna()[start_dice.index]
    pairs = ", ".join(f"{number(start_dice[method], 3)} → {number(table[method].mean(), 3)}" for method in start_dice.index)
    return Effect(
        _slopes(table.set_axis(start_dice.to_numpy(), axis=1)),
        f"Pre-segmentation's mean Dice → PD-DDPM's: {pairs}; effect: mean of the cases' slopes.",
    )


def best_over_empty(evidence: Evidence) -> Effect:
    """Return PD-DDPM's Dice from the pre-segmentation with the highest Dice minus that from the empty mask."""
    empty = [row.method for row in evidence.roles.table2 if row.presegmentation is None]
    start_dice = {}
    for row in evidence.roles.table2:
        if row.presegmentation is not None:
            start_dice[row.method] = evidence.scores_of(row.presegmentation, row.presegmentation)["dice"].mean()
    if not empty or not start_dice:
        raise NotRun("Table 2 lacks the empty mask or a pre-segmentation")
    best_method = max(start_dice, key=start_dice.get)
    best, worst = (evidence.scores_of(method, method)["dice"] for method in (best_method, empty[0]))
    detail = f"Dice {number(best.mean(), 3)} from the best, {number(worst.mean(), 3)} from the empty mask."
    return Effect(paired_differences(best, worst), detail)


def paper_best_over_end(evidence: Evidence, best: int, end: Callable[[Mapping[int, str]], int]) -> Effect:
    """Return Dice at the paper's best T' minus Dice at one end of our grid. Neither is chosen by its result.

    Args:
        evidence: scores and roles.
        best: T' that is best in the paper.
        end: `min` or `max`, the end of the grid.

    Raises:
        NotRun: the grid lacks one of the two values.
    """
    grid = evidence.roles.grid
    if best not in grid or end(grid) == best:
        raise NotRun(f"The grid of T' has no {best}, or nothing {'below' if end is min else 'beyond'} it")
    dice = evidence.by_t_start("dice", grid)
    end_t_start, our_best = end(grid), dice.mean().idxmax()
    step_sizes, compared = evidence.roles.step_sizes, (best, end_t_start)
    sizes = step_sizes_phrase({t_start: step_sizes[t_start] for t_start in compared if t_start in step_sizes})
    steps = f" Steps differ in size, not only T': {sizes}." if set(compared) & set(unequal_steps(step_sizes)) else ""
    return Effect(
        dice[best] - dice[end_t_start],
        f"Dice {number(dice[best].mean(), 3)} at T' = {best}, {number(dice[end_t_start].mean(), 3)} at T' = {end_t_start}; "
        f"highest here at T' = {our_best} ({number(dice[our_best].mean(), 3)}), not tested because it is chosen by its result."
        f"{steps}",
    )


def growth_of_uncertainty(evidence: Evidence, knee: int) -> Effect:
    """Return each case's slope of uncertainty over T' up to the knee, relative to the case's mean there.

    Only chains with steps of equal size are compared: longer steps may change the uncertainty, too.
    """
    equal_steps, left_out = _grid_with_equal_steps(evidence.roles)
    grid = {t_start: method for t_start, method in equal_steps.items() if t_start <= knee}
    if len(grid) < 2:
        raise NotRun(f"The grid of T' has fewer than two values up to {knee} whose steps have the size of the largest T'")
    uncertainty = evidence.by_t_start("uncertainty", grid)
    relative = _relative_slopes(uncertainty, uncertainty)
    means = ", ".join(f"{1000 * value:.3g} at {t_start}" for t_start, value in uncertainty.mean().items())
    detail = f"Mean variance in the brain [10⁻³] by T': {means}; effect: mean of the cases' relative slopes."
    return Effect(relative, detail + left_out)


def saturation_of_uncertainty(evidence: Evidence, knee: int) -> Effect:
    """Return the size of the slope beyond the knee minus half of the slope up to it, relative to each case's mean.

    The effect is below zero only if uncertainty grew. Beyond the knee, the direction of the mean slope counts as positive in
    every case. The absolute slopes of single cases would add up their noise. Only chains with steps of equal size are compared.
    """
    grid, left_out = _grid_with_equal_steps(evidence.roles)
    if knee not in grid or min(grid) == knee or max(grid) == knee:
        raise NotRun(f"The grid of T', with steps of the size of the largest T', has no {knee}, or nothing below or beyond it")
    uncertainty = evidence.by_t_start("uncertainty", grid)
    before = _relative_slopes(uncertainty[[t_start for t_start in uncertainty if t_start <= knee]], uncertainty)
    beyond = _relative_slopes(uncertainty[[t_start for t_start in uncertainty if t_start >= knee]], uncertainty)
    size = -beyond if beyond.mean() < 0 else beyond
    return Effect(
        size - before / 2,
        f"Growth per 100 steps: {number(100 * before.mean(), 1, signed=True)} % of the case's mean from T' = {min(grid)} to "
        f"{knee}, {number(100 * beyond.mean(), 1, signed=True)} % from {knee} to {max(grid)}."
        f"{left_out}",
    )


def ensemble_over_member(evidence: Evidence) -> Effect:
    """Return the mean Dice over subsets of the ensemble's size minus that over single members, for PD-DDPM."""
    samples = int(evidence.scores_of_role("pd_ddpm")["samples"].max())
    return ensemble_gain(ensemble_rows(evidence, evidence.roles.ensemble), samples)


def ensemble_gain(rows: pd.DataFrame, samples: int) -> Effect:
    """Return the mean Dice over subsets of an ensemble size minus that over single members.

    Args:
        rows: ensemble rows of one method, see `ensemble_rows`.
        samples: the largest ensemble size that is compared.

    Raises:
        NotRun: single members or ensembles of several are missing.
    """
    sizes = rows.loc[rows["size"] <= samples, "size"]
    largest = sizes.max()
    if sizes.min() != 1 or largest == 1:
        raise NotRun("The ensemble rows lack single members or ensembles of several")
    dice = rows.groupby([*RUN_AND_CASE, "size"])["dice"].mean().unstack("size").groupby([TRAINING, CASE]).mean()
    means = f"Dice {number(dice[largest].mean(), 3)} with {largest} members, {number(dice[1].mean(), 3)} with one"
    return Effect((dice[largest] - dice[1]).rename("dice"), f"{means}; mean over all subsets of that size that were scored.")


def spread_of_ensembles(evidence: Evidence) -> Effect:
    """Return the standard deviation of Dice over ensembles of several members, divided by that over single members.

    Subsets of one pool share members and are therefore too similar. Only pairs without a common member are compared.
    """
    rows = ensemble_rows(evidence, evidence.roles.ensemble)
    pool = int(rows["pool"].min())
    several = rows.loc[rows["size"] <= pool / 2, "size"].max()
    if rows["size"].min() != 1 or not several > 1:
        raise NotRun("No ensembles of one member, or of several but at most half the pool, were scored")
    compared = rows[rows["size"].isin([1, several])]
    groups = compared.set_index("subset").groupby([*RUN_AND_CASE, "size"])["dice"]
    variance = pd.Series({key: variance_of_disjoint(dice) for key, dice in groups}).rename_axis([*RUN_AND_CASE, "size"])
    spread = np.sqrt(variance).unstack("size").groupby([TRAINING, CASE]).mean()
    ratio = (spread[several] / spread[1].where(spread[1] > 0)).rename("dice")
    return Effect(
        ratio,
        f"Standard deviation of a case's Dice: {number(spread[several].mean(), 4)} with {several} members, "
        f"{number(spread[1].mean(), 4)} with one, between ensembles that share no member of the pool of {pool}; 1/√{several} = "
        f"{number(several**-0.5, 2)} would follow if Dice were linear in the members.",
    )


def _grid_with_equal_steps(roles: Roles) -> tuple[Mapping[int, str], str]:
    """Return the grid of T' without the chains whose steps have another size, and a sentence on those, or no text."""
    unequal = unequal_steps(roles.step_sizes)
    if not unequal:
        return roles.grid, ""
    grid = {t_start: method for t_start, method in roles.grid.items() if t_start not in unequal}
    sizes = step_sizes_phrase({t_start: roles.step_sizes[t_start] for t_start in unequal})
    largest = max(roles.step_sizes)
    usual = f"{roles.step_sizes[largest]:.4g} timesteps"
    return grid, f" Left out, since their steps have another size than the {usual} of T' = {largest}: {sizes}."


def ensemble_rows(evidence: Evidence, name: str | None) -> pd.DataFrame:
    """Return the ensemble rows of a method with their trainings, or raise NotRun if it has none."""
    if name is None or evidence.ensembles.empty or name not in set(evidence.ensembles["method"]):
        raise NotRun("No ensembles were scored")
    return name_trainings(evidence.ensembles[evidence.ensembles["method"] == name])


def _relative_slopes(table: pd.DataFrame, reference: pd.DataFrame) -> pd.Series:
    """Return each case's slope per 100 steps of T', divided by the case's mean in `reference`; NaN if that mean is zero."""
    mean = reference.mean(axis=1)
    return 100 * _slopes(table) / mean.where(mean > 0)


def _slopes(table: pd.DataFrame) -> pd.Series:
    """Return the least-squares slope of each row over the numeric names of the columns."""
    x = table.columns.to_numpy(dtype=float)
    return table @ (x - x.mean()) / ((x - x.mean()) ** 2).sum()
