"""Catalogue of the tested claims of the PD-DDPM paper, in the order of its tables and figures."""

import math
from functools import partial

import numpy as np
import pandas as pd

from pd_ddpm.exhibits.claims.claim import Claim
from pd_ddpm.exhibits.claims.effects import (
    FAR_WORSE_DICE,
    best_over_empty,
    better_and_cheaper_than_vanilla,
    ensemble_over_member,
    faster_than_vanilla,
    growth_of_uncertainty,
    paired_difference,
    paper_best_over_end,
    saturation_of_uncertainty,
    slope_over_presegmentations,
    spread_of_ensembles,
)
from pd_ddpm.exhibits.tables.cells import printed_values


def all_claims(printed: pd.DataFrame) -> list[Claim]:
    """Return all claims, with the effects that follow from the values printed in the paper."""
    return [*_table1_claims(printed), *_table2_claims(printed), *_figure3_claims(printed), *_figure4_claims()]


def _table1_claims(printed: pd.DataFrame) -> list[Claim]:
    paper = printed_values(printed, "table1")

    def gap(method: str, metric: str = "dice") -> float:
        """Return PD-DDPM minus the method in the paper's Table 1."""
        return round(paper["PD-DDPM", metric] - paper[method, metric], 3)

    return [
        Claim(
            name="better_and_cheaper_than_vanilla",
            statement="PD-DDPM has a higher Dice than vanilla DDPM, with fewer network evaluations",
            source="Abstract, Table 1",
            unit="Dice",
            effect=better_and_cheaper_than_vanilla,
            printed=gap("Vanilla DDPM"),
        ),
        Claim(
            name="faster_than_vanilla",
            statement="PD-DDPM takes less time per case than vanilla DDPM",
            source="Sec. 1, Sec. 2.2",
            unit="times faster",
            effect=faster_than_vanilla,
            scale=math.exp,
        ),
        Claim(
            name="better_than_presegmentation",
            statement="PD-DDPM has a higher Dice than the pre-segmentation it starts from",
            source="Table 1, Sec. 3.6",
            unit="Dice",
            effect=partial(paired_difference, role="presegmentation"),
            printed=gap("AttUNet"),
        ),
        Claim(
            name="better_lesion_f1_than_presegmentation",
            statement="PD-DDPM, an ensemble, has a higher lesion F1 than the single network it starts from",
            source="Table 1",
            unit="F1",
            effect=partial(paired_difference, role="presegmentation", metric="lesion_f1"),
            printed=gap("AttUNet", "lesion_f1"),
        ),
        Claim(
            name="better_than_tdpm",
            statement="PD-DDPM has a higher Dice than TDPM",
            source="Table 1, Sec. 4",
            unit="Dice",
            effect=partial(paired_difference, role="tdpm"),
            printed=gap("TDPM"),
        ),
        Claim(
            name="better_than_es_ddpm",
            statement="PD-DDPM has a higher Dice than ES-DDPM",
            source="Table 1, Sec. 4",
            unit="Dice",
            effect=partial(paired_difference, role="es_ddpm"),
            printed=gap("ES-DDPM"),
        ),
    ]


def _table2_claims(printed: pd.DataFrame) -> list[Claim]:
    paper = printed[printed["exhibit"] == "table2"].pivot(index="row", columns="metric", values="value")
    not_empty = paper[paper["presegmentation_dice"] > 0]
    slope = np.polyfit(not_empty["presegmentation_dice"], not_empty["dice"], 1)[0]
    drop = paper.loc[paper["presegmentation_dice"].idxmax(), "dice"] - paper.loc["Zero", "dice"]
    return [
        Claim(
            name="better_from_better_presegmentation",
            statement="The better the pre-segmentation, the better PD-DDPM",
            source="Table 2, Sec. 3.6",
            unit="Dice per Dice",
            effect=slope_over_presegmentations,
            printed=round(slope, 3),
        ),
        Claim(
            name="far_worse_from_empty_mask",
            statement="From an empty mask PD-DDPM is far worse than from the best pre-segmentation: by more than "
            f"{FAR_WORSE_DICE:g} Dice (bound: ours)",
            source="Table 2",
            unit="Dice",
            effect=best_over_empty,
            printed=round(drop, 3),
            bound=FAR_WORSE_DICE,
        ),
    ]


def _figure3_claims(printed: pd.DataFrame) -> list[Claim]:
    paper = printed_values(printed, "fig3_tprime")
    best, knee = int(paper["PD-DDPM", "best_t_start"]), int(paper["PD-DDPM", "saturation_t_start"])
    return [
        Claim(
            name=f"t{best}_better_than_smallest",
            statement=f"T' = {best} gives a higher Dice than the smallest T'",
            source="Fig. 3, Sec. 3.4",
            unit="Dice",
            effect=partial(paper_best_over_end, best=best, end=min),
        ),
        Claim(
            name=f"t{best}_better_than_largest",
            statement=f"T' = {best} gives a higher Dice than the largest T'",
            source="Fig. 3, Sec. 3.4",
            unit="Dice",
            effect=partial(paper_best_over_end, best=best, end=max),
        ),
        Claim(
            name="uncertainty_grows",
            statement=f"Uncertainty grows with T' up to {knee}",
            source="Fig. 3, Sec. 3.4",
            unit="of the case's mean, per 100 steps",
            effect=partial(growth_of_uncertainty, knee=knee),
        ),
        Claim(
            name="uncertainty_saturates",
            statement=f"Uncertainty saturates at T' = {knee}: it grows up to there, and beyond changes less than half as fast, "
            "up or down (half: ours)",
            source="Fig. 3, Sec. 3.4",
            unit="change beyond − half of the growth before",
            effect=partial(saturation_of_uncertainty, knee=knee),
            is_above=False,
        ),
    ]


def _figure4_claims() -> list[Claim]:
    return [
        Claim(
            name="ensemble_better_than_member",
            statement="The ensemble has a higher Dice than a single member",
            source="Fig. 4, Sec. 3.5",
            unit="Dice",
            effect=ensemble_over_member,
        ),
        Claim(
            name="spread_shrinks_with_size",
            statement="The Dice of an ensemble varies less than that of a single member",
            source="Fig. 4, Sec. 3.5",
            unit="ratio of standard deviations",
            effect=spread_of_ensembles,
            bound=1.0,
            is_above=False,
        ),
    ]
