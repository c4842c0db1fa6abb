"""Figure 4 of PD-DDPM: mean and standard deviation of Dice against the size of the ensemble.

All ensembles of a case are subsets of one pool of N members. Subsets of n members share members, and at n = N there is only one
subset. The standard deviation over subsets therefore falls to zero for any method. Three standard deviations are computed:

* raw: over all subsets of n members. Its square is too small in expectation, by the variance of the mean over all subsets.
* independent: from pairs of subsets without a common member, which are independent ensembles. Half of their mean squared
  difference is an unbiased variance for any score. Such pairs exist up to n = N / 2.
* bound: raw / sqrt(1 - n / N), the correction for a finite population. It is exact for an average over members, but the Dice
  of a thresholded mean is no such average. For any score, the mean over all subsets has at most n / N of the variance of one
  subset, so the square of the bound is not too small in expectation.

Reference: Hoeffding 1948, A class of statistics with asymptotically normal distribution, Annals of Mathematical Statistics
19(3).
"""

import math
from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pd_ddpm.evaluation.ensemble_curve import subset_means, variance_of_disjoint
from pd_ddpm.exhibits.figures import style


def fig4_numbers(ensembles: pd.DataFrame, labels: Mapping[str, str]) -> pd.DataFrame:
    """Return the numbers of Figure 4 of PD-DDPM: one row per method and ensemble size.

    A test set is the test cases of one split, sampled with one seed.

    Args:
        ensembles: ensemble rows of all methods.
        labels: method -> name in the figure.

    Returns:
        `dice` is the mean over cases of the mean over subsets and seeds. `dice_sd_raw`, `dice_sd_independent` and
        `dice_sd_bound` (see the module) are standard deviations of the mean Dice of one test set, combined over test sets as
        the root mean square. They are NaN if the pool has no suitable subsets. `dice_sd_cases` is the standard deviation over
        cases (n - 1).

    Raises:
        ValueError: a method has no rows or pools of different size, or cases of a test set have different subsets.
    """
    rows = []
    for method, label in labels.items():
        method_rows = ensembles[ensembles["method"] == method]
        pools = method_rows["pool"].unique()
        if len(pools) != 1:
            problem = f"pools of {sorted(pools.tolist())} members" if len(pools) else "no rows"
            raise ValueError(f"the ensembles of {method} have {problem}. Score all cases with the same `pool`.")
        pool = int(pools[0])
        for size, size_rows in method_rows.groupby("size"):
            tests = [subset_means(test, "dice", method) for _, test in size_rows.groupby(["split", "seed"])]
            raw = _root_mean([_variance_over_subsets(means, math.comb(pool, int(size))) for means in tests])
            cases = size_rows.groupby("case")["dice"].mean()
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


def _variance_over_subsets(means: pd.Series, possible: int) -> float:
    """Return the variance over all possible subsets, estimated from a sample without replacement."""
    return 0.0 if possible == 1 else float(means.var(ddof=1)) * (possible - 1) / possible


def _root_mean(variances: list[float]) -> float:
    return math.sqrt(np.mean(variances))


def fig4_ensemble(numbers: pd.DataFrame, caption_note: str, samples: int) -> Figure:
    """Draw Figure 4: mean Dice, and its standard deviation over ensembles, against the ensemble size.

    Args:
        numbers: table of `fig4_numbers`.
        caption_note: dataset and scale that the numbers belong to.
        samples: ensemble size in the other tables and figures.
    """
    style.apply()
    figure, (left, right) = plt.subplots(1, 2, figsize=(6.9, 3.3), layout="constrained")
    between_cases = []
    looks = style.looks(numbers["label"])
    for label, rows in numbers.groupby("label", sort=False):
        colour, look = looks[label].colour, {"color": looks[label].colour, "marker": looks[label].marker}
        size, dice, spread = (rows[name].to_numpy(float) for name in ("size", "dice", "dice_sd_cases"))
        raw, independent, bound = (1000 * rows[f"dice_sd_{kind}"] for kind in ("raw", "independent", "bound"))
        left.errorbar(size, dice, independent / 1000, capsize=2, elinewidth=0.8, label=label, **look)
        right.plot(size, independent, label=f"{label}: independent ensembles", **look)
        right.plot(
            size,
            bound,
            color=colour,
            linewidth=0.9,
            linestyle=(0, (4, 2)),
            label=f"{label}: upper bound, loose near the whole pool",
        )
        right.plot(size, raw, color=colour, linewidth=0.9, linestyle=(0, (1, 1.5)), label=f"{label}: raw, lower bound")
        right.fill_between(size, raw, bound, color=colour, alpha=0.12, linewidth=0)
        if np.isfinite(spread).all():
            between_cases.append(f"{label} {1000 * spread[0]:.0f} at {size[0]:g}, {1000 * spread[-1]:.0f} at {size[-1]:g}")
    for axis in (left, right):
        axis.axvline(samples, color="grey", linewidth=0.8, zorder=0, label=f"size in the other exhibits: {samples}")
        axis.set_xlabel("Ensemble size, members")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    left.set_ylabel("Mean Dice")
    left.set_title("Mean; bars: ± deviation of independent ensembles", fontsize="small", loc="left")
    right.set_ylabel("Standard deviation of\nthe test set's mean Dice ($10^{-3}$)")
    right.set_ylim(bottom=0)
    right.set_title("Deviation over ensembles", fontsize="small", loc="left")
    pools = "/".join(f"{pool:g}" for pool in numbers["pool"].unique())
    pool_note = f"All ensembles are subsets of one pool of {pools}: at the whole pool the raw deviation is 0 for any method"
    notes = [f"{caption_note}. {pool_note}"]
    if between_cases:
        notes.append(f"Deviation over cases, for comparison ($10^{{-3}}$): {'; '.join(between_cases)}")
    figure.suptitle("\n".join(notes), fontsize="small", x=0.01, ha="left")
    figure.legend(*right.get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize="small")
    return figure
