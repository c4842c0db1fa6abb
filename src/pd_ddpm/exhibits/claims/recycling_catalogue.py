"""Catalogue of the tested claims of the recycling paper.

Bounds that say what "on par" and "maintains" mean are ours, as each statement says.

Reference: Fu et al. 2024, A Recycling Training Strategy for Medical Image Segmentation with Diffusion Denoising Models, MELBA.
"""

from functools import partial

import pandas as pd

from pd_ddpm.evaluation.statistics import CASE, TRAINING, paired_differences
from pd_ddpm.evaluation.step_scores import step_scores
from pd_ddpm.exhibits.claims.claim import Claim, Effect, Evidence, NotRun, RecyclingRoles
from pd_ddpm.exhibits.claims.effects import paired_difference
from pd_ddpm.exhibits.tables.cells import number

# Ours: a Dice that is lower by less counts as on par, or as maintained.
SMALL_DICE = 0.01


def recycling_claims(roles: RecyclingRoles) -> list[Claim]:
    """Return all claims of the recycling paper; the first ones compare it with each other strategy of the roles."""
    slightly = f"by less than {SMALL_DICE:g} Dice (ours)"
    better = [
        Claim(
            name=f"recycling_better_than_{method}",
            statement=f"Recycling has a higher Dice than {label}",
            source="Table 1",
            unit="Dice",
            effect=partial(difference_to, method=method, label=label),
        )
        for method, label in roles.others.items()
    ]
    return [
        *better,
        Claim(
            name="steps_maintain_quality",
            statement=f"Later reverse steps of recycling are at most slightly worse than the first: {slightly}",
            source="Fig. 3; bound: ours",
            unit="Dice",
            effect=partial(last_minus_first_step, column="dice"),
            bound=-SMALL_DICE,
        ),
        Claim(
            name="on_par_without_diffusion",
            statement=f"Recycling is at most slightly worse than the network without diffusion: {slightly}",
            source="Table 2; bound: ours",
            unit="Dice",
            effect=partial(paired_difference, role="no_diffusion", subject="recycled"),
            bound=-SMALL_DICE,
        ),
        Claim(
            name="mean_better_than_no_diffusion",
            statement="The mean of both has a higher Dice than the network without diffusion",
            source="Table 2",
            unit="Dice",
            effect=partial(paired_difference, role="no_diffusion", subject="both"),
        ),
        Claim(
            name="mean_better_than_recycling",
            statement="The mean of both has a higher Dice than recycling",
            source="Table 2",
            unit="Dice",
            effect=partial(paired_difference, role="recycled", subject="both"),
        ),
        Claim(
            name="seeds_converge",
            statement="Chains with different noise differ less in Dice after the last step than after the first",
            source="Table 4",
            unit="Dice",
            effect=partial(last_minus_first_step, column="dice_spread"),
            is_above=False,
        ),
    ]


def difference_to(evidence: Evidence, method: str, label: str) -> Effect:
    """Return the Dice of recycling minus that of another strategy, paired by case.

    Args:
        evidence: scores and roles.
        method: the other method.
        label: its label.
    """
    ours, other = evidence.scores_of_role("recycled")["dice"], evidence.scores_of(method, label)["dice"]
    return Effect(paired_differences(ours, other), f"Dice {number(ours.mean(), 3)} against {number(other.mean(), 3)}.")


def last_minus_first_step(evidence: Evidence, column: str) -> Effect:
    """Return a column of `step_scores` after the last step of recycling minus that after the first, paired by case."""
    points = evidence.roles.steps
    if len(points) < 2 or evidence.ensembles.empty:
        raise NotRun("No steps of recycling were scored")
    scores = step_scores(evidence.ensembles, points)
    steps: dict[int, pd.Series] = {
        step: rows.set_index([TRAINING, CASE])[column] for step, rows in scores.groupby("step") if step in (1, len(points))
    }
    first, last = steps[1], steps[len(points)]
    detail = f"{number(first.mean(), 4)} after step 1, {number(last.mean(), 4)} after step {len(points)}."
    return Effect(paired_differences(last, first), detail)
