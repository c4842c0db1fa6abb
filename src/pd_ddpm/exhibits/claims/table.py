"""Table of the claims with their verdicts."""

from collections.abc import Mapping

import pandas as pd

from pd_ddpm.evaluation.scores import by_training
from pd_ddpm.exhibits.claims.catalogue import all_claims
from pd_ddpm.exhibits.claims.claim import (
    FAILS,
    HOLDS,
    NOT_RUN,
    UNDECIDED,
    Evidence,
    PatchRoles,
    RecyclingRoles,
    Roles,
    plain_number,
)
from pd_ddpm.exhibits.claims.patch_catalogue import patch_claims
from pd_ddpm.exhibits.claims.recycling_catalogue import recycling_claims
from pd_ddpm.exhibits.document import Document, Part
from pd_ddpm.exhibits.tables.cells import interval, interval_note


def claims_table(
    scores: pd.DataFrame,
    ensembles: pd.DataFrame,
    roles: Roles | PatchRoles | RecyclingRoles,
    printed: pd.DataFrame,
    memory: pd.DataFrame,
) -> pd.DataFrame:
    """Test all claims of a paper, which the roles decide, and return one row per claim.

    Args:
        scores: score rows of all methods.
        ensembles: ensemble rows; an empty frame in studies without them.
        roles: methods that the claims compare.
        printed: values printed in the PD-DDPM paper; those of the PatchDDM paper are not known.
        memory: rows of the memory table; an empty frame in studies without it.

    Returns:
        Columns `claim`, `statement`, `paper` (sections that make the claim), `effect` (mean over cases), `effect_low` and
        `effect_high` (95 % interval), `effect_paper` (from the printed values, if they give it), `unit`, `cases`, `trainings`,
        `verdict` (see `claim`) and `detail` (what was compared).
    """
    evidence = Evidence(by_training(scores), ensembles, roles, memory)
    if isinstance(roles, RecyclingRoles):
        claims = recycling_claims(roles)
    else:
        claims = patch_claims() if isinstance(roles, PatchRoles) else all_claims(printed)
    return pd.DataFrame([claim.row(evidence) for claim in claims])


def claims_document(table: pd.DataFrame, caption_note: str) -> Document:
    """Return the document of the claims, from the rows of `claims_table` and a note on dataset and scale."""
    rows = [row for _, row in table.iterrows()]
    cells = pd.DataFrame(
        {
            "Claim": table["statement"],
            "Paper": table["paper"],
            "Verdict": table["verdict"],
            "Effect (95 %)": [_effect_text(row) for row in rows],
            "[paper's]": ["" if pd.isna(row["effect_paper"]) else f"[{plain_number(row['effect_paper'])}]" for row in rows],
            "Unit": table["unit"],
            "Cases": table["cases"],
            "What was compared": table["detail"],
        }
    )
    counts = table["verdict"].value_counts()
    tally = ", ".join(f"{verdict}: {counts.get(verdict, 0)}" for verdict in (HOLDS, FAILS, UNDECIDED, NOT_RUN))
    notes = [
        f"Of {len(table)} claims — {tally}.",
        "The effect of a claim is one number per training and case. Holds: the whole 95 % interval of the mean effect lies on "
        "the claimed side of the bound. Does not hold: the whole interval lies on the other side, or a second condition of "
        "the claim is false. Undecided: the interval contains the bound, so these cases cannot decide whether there is an "
        "effect. Not run: a method that the claim compares is not among those that were run, or has no scores. The bound is "
        "zero (for a ratio: one) unless the claim names another.",
        f"{interval_note(int(table['trainings'].max()))} A verdict covers what its interval covers.",
        "Claims are not corrected for their number: of 40 claims without any effect, one would be found to hold.",
        "[paper's]: the same effect from the means in the paper, which has neither intervals nor scores of single cases."
        if table["effect_paper"].notna().any()
        else "The values that the paper prints are not known here.",
    ]
    left = ("Paper", "Verdict", "Unit", "What was compared")
    return Document("The paper's claims, tested", caption_note, [Part("Claims", cells, notes, left)])


def _effect_text(row: Mapping[str, float]) -> str:
    if pd.isna(row["effect"]):
        return ""
    if pd.isna(row["effect_low"]):
        return plain_number(row["effect"])
    return f"{plain_number(row['effect'])} {interval(plain_number(row['effect_low']), plain_number(row['effect_high']))}"
