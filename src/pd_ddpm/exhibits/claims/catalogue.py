"""The claims of the PD-DDPM paper that are tested."""

import math

import numpy as np
import pandas as pd

from pd_ddpm.exhibits.claims.claim import Claim
from pd_ddpm.exhibits.claims.effects import (
    FAR_IN_DICE,
    best_over_empty,
    best_t_start_over,
    better_and_cheaper_than_vanilla,
    ensemble_over_member,
    faster_than_vanilla,
    growth_of_uncertainty,
    paired_difference,
    saturation_of_uncertainty,
    slope_over_presegmentations,
    spread_of_ensembles,
)
from pd_ddpm.exhibits.tables.cells import printed_values


def all_claims(printed: pd.DataFrame) -> list[Claim]:
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
            better_and_cheaper_than_vanilla,
            gap("Vanilla DDPM"),
        ),
        Claim(
            "faster_than_vanilla",
            "PD-DDPM takes less time per case than vanilla DDPM",
            "Sec. 1, Sec. 2.2",
            "times faster",
            faster_than_vanilla,
            scale=math.exp,
        ),
        Claim(
            "better_than_presegmentation",
            "PD-DDPM has a higher Dice than the pre-segmentation it starts from",
            "Table 1, Sec. 3.6",
            "Dice",
            lambda evidence: paired_difference(evidence, "presegmentation", "dice"),
            gap("AttUNet"),
        ),
        Claim(
            "better_lesion_f1_than_presegmentation",
            "PD-DDPM, an ensemble, has a higher lesion F1 than the single network it starts from",
            "Table 1",
            "F1",
            lambda evidence: paired_difference(evidence, "presegmentation", "lesion_f1"),
            gap("AttUNet", "lesion_f1"),
        ),
        Claim(
            "better_than_tdpm",
            "PD-DDPM has a higher Dice than TDPM",
            "Table 1, Sec. 4",
            "Dice",
            lambda evidence: paired_difference(evidence, "tdpm", "dice"),
            gap("TDPM"),
        ),
        Claim(
            "better_than_es_ddpm",
            "PD-DDPM has a higher Dice than ES-DDPM",
            "Table 1, Sec. 4",
            "Dice",
            lambda evidence: paired_difference(evidence, "es_ddpm", "dice"),
            gap("ES-DDPM"),
        ),
        Claim(
            "better_from_better_presegmentation",
            "The better the pre-segmentation, the better PD-DDPM",
            "Table 2, Sec. 3.6",
            "Dice per Dice",
            slope_over_presegmentations,
            round(slope, 3),
        ),
        Claim(
            "far_worse_from_empty_mask",
            f"From an empty mask PD-DDPM is far worse than from the best pre-segmentation: by more than {FAR_IN_DICE:g} Dice "
            "(bound: ours)",
            "Table 2",
            "Dice",
            best_over_empty,
            round(drop, 3),
            bound=FAR_IN_DICE,
        ),
        Claim(
            f"t{best}_better_than_smallest",
            f"T' = {best} gives a higher Dice than the smallest T'",
            "Fig. 3, Sec. 3.4",
            "Dice",
            lambda evidence: best_t_start_over(evidence, best, min),
        ),
        Claim(
            f"t{best}_better_than_largest",
            f"T' = {best} gives a higher Dice than the largest T'",
            "Fig. 3, Sec. 3.4",
            "Dice",
            lambda evidence: best_t_start_over(evidence, best, max),
        ),
        Claim(
            "uncertainty_grows",
            f"Uncertainty grows with T' up to {knee}",
            "Fig. 3, Sec. 3.4",
            "of the case's mean, per 100 steps",
            lambda evidence: growth_of_uncertainty(evidence, knee),
        ),
        Claim(
            "uncertainty_saturates",
            f"Uncertainty saturates at T' = {knee}: it grows up to there, and beyond changes less than half as fast, up or "
            "down (half: ours)",
            "Fig. 3, Sec. 3.4",
            "change beyond − half of the growth before",
            lambda evidence: saturation_of_uncertainty(evidence, knee),
            above=False,
        ),
        Claim(
            "ensemble_better_than_member",
            "The ensemble has a higher Dice than a single member",
            "Fig. 4, Sec. 3.5",
            "Dice",
            ensemble_over_member,
        ),
        Claim(
            "spread_shrinks_with_size",
            "The Dice of an ensemble varies less than that of a single member",
            "Fig. 4, Sec. 3.5",
            "ratio of standard deviations",
            spread_of_ensembles,
            bound=1.0,
            above=False,
        ),
    ]
