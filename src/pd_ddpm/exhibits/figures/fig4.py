"""Figure 4 of PatchDDM: Dice and HD95 against the size of the ensemble.

All ensembles of a case are subsets of one pool of members. The deviation between ensembles is that of subsets without a common
member, see `fig4_ensemble`.
"""

import math
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pd_ddpm.evaluation.ensemble_curve import subset_means, variance_of_disjoint
from pd_ddpm.exhibits.figures import style

SCORES = {"dice": "Mean Dice", "hd95_mm": "Mean HD95 [mm]"}


def fig4_numbers(ensembles: pd.DataFrame, labels: Mapping[str, str]) -> pd.DataFrame:
    """Return the numbers of Figure 4 of PatchDDM: one row per method and ensemble size.

    Args:
        ensembles: ensemble rows of all methods, with HD95.
        labels: method -> name in the figure.

    Returns:
        Columns `label`, `method`, `pool`, `size`; for both scores the mean over cases of the mean over subsets and seeds, the
        standard deviation of a test set's mean over ensembles without a common member (`*_sd_independent`, NaN for more than
        half of the pool), and that over cases (`*_sd_cases`, n - 1); `subsets`, `cases`, and `cases_without_hd95`, in which no
        ensemble of the size has a defined HD95.

    Raises:
        ValueError: a method has no rows, or cases of a test set have different subsets.
    """
    rows = []
    for method, label in labels.items():
        method_rows = ensembles[ensembles["method"] == method]
        if method_rows.empty:
            raise ValueError(f"{method} has no ensembles. Run rule `resample_ensemble` for it.")
        for size, size_rows in method_rows.groupby("size"):
            tests = [test for _, test in size_rows.groupby(["split", "seed"])]
            row = {"label": label, "method": method, "pool": int(method_rows["pool"].max()), "size": size}
            cases = size_rows.groupby("case")[list(SCORES)].mean()
            for score in SCORES:
                variances = [variance_of_disjoint(subset_means(test, score, method)) for test in tests]
                row |= {score: cases[score].mean(), f"{score}_sd_independent": math.sqrt(np.mean(variances))}
                row[f"{score}_sd_cases"] = cases[score].std(ddof=1)
            row |= {"subsets": size_rows["subset"].nunique(), "cases": len(cases)}
            rows.append(row | {"cases_without_hd95": int(cases["hd95_mm"].isna().sum())})
    return pd.DataFrame(rows)


def fig4(numbers: pd.DataFrame, caption_note: str, samples: Sequence[int]) -> Figure:
    """Draw both scores against the ensemble size, with a curve for each method.

    Args:
        numbers: table of `fig4_numbers`.
        caption_note: dataset and scale that the numbers belong to.
        samples: ensemble sizes of these methods in the other tables and figures.
    """
    style.apply()
    figure, axes = plt.subplots(1, 2, figsize=(6.9, 3.1), layout="constrained")
    looks = style.looks(numbers["label"])
    for axis, (score, heading) in zip(axes, SCORES.items(), strict=True):
        for label, rows in numbers.groupby("label", sort=False):
            look = {"color": looks[label].colour, "marker": looks[label].marker, "linestyle": looks[label].line}
            spread = rows[f"{score}_sd_independent"]
            axis.errorbar(rows["size"], rows[score], spread, capsize=2, elinewidth=0.8, label=label, **look)
        for size in samples:
            axis.axvline(size, color="grey", linewidth=0.8, zorder=0)
        axis.set_xlabel("Ensemble size, members")
        axis.set_ylabel(heading)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    better = {"Mean Dice": "higher is better", "Mean HD95 [mm]": "lower is better"}
    for axis, heading in zip(axes, SCORES.values(), strict=True):
        axis.set_title(better[heading], fontsize="small", loc="left")
    figure.suptitle(f"{caption_note}. {_notes(numbers, samples)}", fontsize="small", x=0.01, ha="left")
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=min(len(names), 4), fontsize="small")
    return figure


def _notes(numbers: pd.DataFrame, samples: Sequence[int]) -> str:
    listed = ", ".join(map(str, samples))
    text = f"Bars: ± deviation of independent ensembles\nGrey: size in the other exhibits ({listed})"
    missing = numbers.groupby("label", sort=False)["cases_without_hd95"].max()
    missing = ", ".join(f"{label} {count}" for label, count in missing[missing > 0].items())
    return text + (f". Cases without HD95: {missing}" if missing else "")
