"""Catalogue of the tested claims of the PatchDDM paper.

Of the paper only the abstract and the captions are known here, without any number. The directions of the comparisons with its
rivals, and the bounds that say what "suffices", are therefore ours, as each statement says.

Reference: Bieder et al. 2023, Memory-Efficient 3D Denoising Diffusion Models for Medical Image Processing, MIDL.
"""

from functools import partial

import pandas as pd

from pd_ddpm.evaluation.statistics import CASE, TRAINING
from pd_ddpm.exhibits.claims.claim import Claim, Effect, Evidence, NotRun
from pd_ddpm.exhibits.claims.effects import ensemble_gain, ensemble_rows, paired_difference
from pd_ddpm.exhibits.tables.cells import number
from pd_ddpm.exhibits.tables.memory import training_ratio

# Ours: a method that is worse by less counts as slightly worse.
SMALL_DICE = 0.02


def patch_claims() -> list[Claim]:
    """Return all claims of PatchDDM."""
    not_worse = f"by less than {SMALL_DICE:g} Dice (ours)"
    return [
        Claim(
            name="training_needs_less_memory",
            statement="Training on patches needs less memory than training on whole volumes of the largest size",
            source="Abstract",
            unit="times less",
            effect=training_memory,
            bound=1.0,
        ),
        Claim(
            name="not_worse_than_full_resolution",
            statement=f"PatchDDM is at most slightly worse than training at full resolution: {not_worse}",
            source="Fig. 4; bound and direction: ours",
            unit="Dice",
            effect=partial(paired_difference, role="full_resolution", subject="patch"),
            bound=-SMALL_DICE,
        ),
        Claim(
            name="better_than_half_resolution",
            statement="PatchDDM has a higher Dice than training at half resolution",
            source="Fig. 4; direction: ours",
            unit="Dice",
            effect=partial(paired_difference, role="half_resolution", subject="patch"),
        ),
        Claim(
            name="lower_hd95_than_half_resolution",
            statement="PatchDDM has a lower HD95 than training at half resolution",
            source="Fig. 4; direction: ours",
            unit="mm",
            effect=partial(paired_difference, role="half_resolution", metric="hd95_mm", subject="patch"),
            is_above=False,
        ),
        Claim(
            name="ensemble_better_than_member",
            statement="The ensemble has a higher Dice than a single member",
            source="Fig. 4",
            unit="Dice",
            effect=patch_ensemble_gain,
        ),
        Claim(
            name="few_steps_suffice",
            statement=f"A chain of few reverse steps is at most slightly worse than the longest one: {not_worse}",
            source="Fig. 5; bound: ours",
            unit="Dice",
            effect=few_over_many_steps,
            bound=-SMALL_DICE,
        ),
    ]


def training_memory(evidence: Evidence) -> Effect:
    """Return the counted memory of training on whole volumes of the largest size, divided by that of training on patches."""
    if evidence.memory.empty:
        raise NotRun("There is no memory table")
    training = evidence.memory[evidence.memory["phase"] == "training"]
    ratios = training_ratio(evidence.memory)
    edge, largest = ratios.columns.max(), ratios[ratios.columns.max()]
    gb = training[training["edge"] == edge].set_index("label")["counted_gb"]
    detail = f"{edge}³: {number(gb[largest.idxmax()], 1)} GB ({largest.idxmax()}), {number(gb[largest.index[0]], 1)} GB "
    detail += f"({largest.index[0]}), from the sizes of the tensors."
    return Effect(pd.Series([largest.max()]), detail, is_exact=True)


def patch_ensemble_gain(evidence: Evidence) -> Effect:
    """Return the mean Dice over ensembles of PatchDDM minus that over single members."""
    samples = int(evidence.scores_of_role("patch")["samples"].max())
    return ensemble_gain(ensemble_rows(evidence, evidence.roles.patch), samples)


def few_over_many_steps(evidence: Evidence) -> Effect:
    """Return the Dice of few reverse steps minus that of the most, with the largest ensembles that both have."""
    chains, few = evidence.roles.chains, evidence.roles.few_steps
    if few not in chains or few == max(chains):
        raise NotRun("No chain of few reverse steps was named")
    short, long = (ensemble_rows(evidence, chains[steps]) for steps in (few, max(chains)))
    size = min(short["size"].max(), long["size"].max())
    dice = [rows[rows["size"] == size].groupby([TRAINING, CASE])["dice"].mean() for rows in (short, long)]
    means = f"Dice {number(dice[0].mean(), 3)} with {few} steps, {number(dice[1].mean(), 3)} with {max(chains)}"
    return Effect((dice[0] - dice[1]).rename("dice"), f"{means}, each with {size} member{'s' if size > 1 else ''}.")
