"""Figure 4 of PD-DDPM: mean and standard deviation of Dice against the size of the ensemble.

All ensembles come from one pool of N members of each case, and that has a price. Subsets of n members share members, the
more so the larger n is, until at n = N there is but one; the deviation over subsets falls to zero whatever the method.
Hence three deviations:

* raw: over all subsets of n. Its square is in expectation too small, by the variance of the mean over all subsets.
* independent: from pairs of subsets that share no member and are therefore independent ensembles: half their mean square
  difference is an unbiased variance for any score. Such pairs exist up to n = N / 2.
* bound: raw / sqrt(1 - n / N), the correction for a finite population. For an average over members it is exact. The Dice of
  a thresholded mean is no such average; for any score the mean over all subsets has at most n / N of the variance of one
  (Hoeffding 1948, Annals of Mathematical Statistics 19(3)), so that the bound's square is in expectation not too small.
"""

import math
from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pd_ddpm.evaluation.ensemble_curve import variance_of_disjoint
from pd_ddpm.exhibits.figures import style


def fig4_numbers(ensembles: pd.DataFrame, labels: Mapping[str, str]) -> pd.DataFrame:
    """What Fig. 4 of PD-DDPM shows: a row per method (in the order of `labels`, method -> name) and ensemble size.

    dice: mean over cases of the mean over subsets and seeds, so that a case counts once however often it was run.
    dice_sd_raw, dice_sd_independent, dice_sd_bound: deviation (see the module) of the mean Dice of one test set, which is that
    of one split and seed; several are combined as the root of their mean square, so that the number stays that of one test set,
    as in the paper. Undefined where the pool has no such pairs, or only one ensemble of that size.
    dice_sd_cases: deviation over cases (n - 1).

    Raises ValueError if a method has no rows or pools of different size, or if the cases of a test set differ in subsets.
    """
    rows = []
    for method, label in labels.items():
        of_method = ensembles[ensembles["method"] == method]
        pools = of_method["pool"].unique()
        if len(pools) != 1:
            found = f"pools of {sorted(pools.tolist())} members" if len(pools) else "no rows"
            raise ValueError(f"the ensembles of {method} have {found}; a curve needs one pool size for all cases")
        pool = int(pools[0])
        for size, of_size in of_method.groupby("size"):
            tests = [_test_means(test, method) for _, test in of_size.groupby(["split", "seed"])]
            raw = _root_mean([_variance_over_subsets(means, math.comb(pool, int(size))) for means in tests])
            cases = of_size.groupby("case")["dice"].mean()
            rows.append(
                {
                    "label": label,
                    "method": method,
                    "pool": pool,
                    "size": size,
                    "dice": cases.mean(),
                    "dice_sd_raw": raw,
                    "dice_sd_independent": _root_mean([variance_of_disjoint(means) for means in tests]),
                    "dice_sd_bound": raw / math.sqrt(1 - size / pool) if size < pool else math.nan,
                    "dice_sd_cases": cases.std(ddof=1),
                    "subsets": max(len(means) for means in tests),
                    "tests": len(tests),
                    "cases": len(cases),
                }
            )
    return pd.DataFrame(rows)


def _test_means(test: pd.DataFrame, method: str) -> pd.Series:
    """Mean Dice over the cases of one test set for each subset."""
    by_subset = test.groupby("subset")["dice"]
    if (by_subset.size() != test["case"].nunique()).any():
        raise ValueError(f"the cases of {method} have different subsets of members; draw them from equally seeded streams")
    return by_subset.mean()


def _variance_over_subsets(means: pd.Series, possible: int) -> float:
    """Mean square deviation over all possible subsets, estimated from those that were drawn without replacement."""
    return 0.0 if possible == 1 else float(means.var(ddof=1)) * (possible - 1) / possible


def _root_mean(variances: list[float]) -> float:
    return math.sqrt(np.mean(variances))


def fig4_ensemble(numbers: pd.DataFrame, remark: str, chosen: int) -> Figure:
    """Mean Dice and its deviation over ensembles against their size, from the table of `fig4_numbers`.

    chosen: the size that the other exhibits use; remark: what data and scale the numbers are of.
    """
    style.apply()
    figure, (left, right) = plt.subplots(1, 2, figsize=(6.9, 3.3), layout="constrained")
    between_cases = []
    looks = style.looks(numbers["label"])
    for label, of_method in numbers.groupby("label", sort=False):
        colour, look = looks[label].colour, {"color": looks[label].colour, "marker": looks[label].marker}
        size, dice, spread = (of_method[name].to_numpy(float) for name in ("size", "dice", "dice_sd_cases"))
        raw, independent, bound = (1000 * of_method[f"dice_sd_{kind}"] for kind in ("raw", "independent", "bound"))
        left.errorbar(size, dice, independent / 1000, capsize=2, elinewidth=0.8, label=label, **look)
        right.plot(size, independent, label=f"{label}: independent ensembles", **look)
        right.plot(size, bound, color=colour, linewidth=0.9, linestyle=(0, (4, 2)), label=f"{label}: upper bound")
        right.plot(size, raw, color=colour, linewidth=0.9, linestyle=(0, (1, 1.5)), label=f"{label}: raw, lower bound")
        right.fill_between(size, raw, bound, color=colour, alpha=0.12, linewidth=0)
        if np.isfinite(spread).all():
            between_cases.append(f"{label} {1000 * spread[0]:.0f} at {size[0]:g}, {1000 * spread[-1]:.0f} at {size[-1]:g}")
    for axis in (left, right):
        axis.axvline(chosen, color="grey", linewidth=0.8, zorder=0, label=f"size in the other exhibits: {chosen}")
        axis.set_xlabel("Ensemble size, members")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    left.set_ylabel("Mean Dice")
    left.set_title("Mean; bars: ± deviation of independent ensembles", fontsize="small", loc="left")
    right.set_ylabel("Standard deviation of\nthe test set's mean Dice ($10^{-3}$)")
    right.set_ylim(bottom=0)
    right.set_title("Deviation over ensembles", fontsize="small", loc="left")
    pools = "/".join(f"{pool:g}" for pool in numbers["pool"].unique())
    notes = [
        f"{remark}. All ensembles are subsets of one pool of {pools}: at the whole pool the raw deviation is 0 for any method"
    ]
    if between_cases:
        notes.append(f"Deviation over cases, for comparison ($10^{{-3}}$): {'; '.join(between_cases)}")
    figure.suptitle("\n".join(notes), fontsize="small", x=0.01, ha="left")
    figure.legend(*right.get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize="small")
    return figure
