"""Table 2 of Fu et al. 2024: methods against one without diffusion, with paired tests."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from scipy import stats

from pd_ddpm.evaluation.scores import by_training, select_method
from pd_ddpm.evaluation.statistics import CASE, mean_interval, mean_over_cases, paired_differences, wilcoxon_p
from pd_ddpm.exhibits.document import Document, Part
from pd_ddpm.exhibits.tables.cells import (
    NO_PAPER_VALUES_NOTE,
    PAPER_VALUES_NOTE,
    counts_and_cost,
    decimals,
    effect_and_interval,
    interval_note,
    mean_and_deviation,
    missing_hd95_note,
    number,
    p_value,
    printed_values,
    summary,
)

HEADINGS = {"dice": "Dice", "hd95_mm": "HD95 [mm]"}


def no_diffusion_table(scores: pd.DataFrame, labels: Mapping[str, str], printed: pd.DataFrame) -> pd.DataFrame:
    """Compare methods with the first one, paired by case.

    Args:
        scores: score rows of all methods.
        labels: method -> label; the first one is the method without diffusion.
        printed: values that the paper prints for the data set.

    Returns:
        One row per method: label, and for each metric mean, standard deviation (`*_sd`), 95 % interval (`*_low`, `*_high`) and
        the paper's value (`*_paper`). All but the first row have the mean difference to the first (`*_difference`) with its
        95 % interval, the p-values of the paired t-test (`*_t_p`) and of Wilcoxon's test (`*_wilcoxon_p`), and Cohen's d of the
        differences (`*_effect`). Both tests compare cases, with the mean of their trainings.

    Raises:
        ValueError: a method has no score.

    Reference: Fu et al. 2024, Table 2, which does not say which test it used.
    """
    cases, paper, rows = by_training(scores), printed_values(printed, "table2"), []
    first = select_method(cases, next(iter(labels)))
    for name, label in labels.items():
        result = select_method(cases, name)
        row = {"method": name, "label": label}
        for metric in HEADINGS:
            row |= summary(result[metric], metric)
            row[f"{metric}_paper"] = paper.get((label, metric), np.nan)
            row |= _difference(result[metric], first[metric], metric) if rows else {}
        rows.append(row | counts_and_cost(result))
    return pd.DataFrame(rows)


def _difference(values: pd.Series, baseline: pd.Series, metric: str) -> dict[str, float]:
    """Return mean difference, interval, p-values and effect size of two methods, paired by case."""
    differences = paired_differences(values, baseline)
    low, high = mean_interval(differences)
    of_cases = differences.groupby(CASE).mean().dropna()
    deviation = of_cases.std(ddof=1)
    return {
        f"{metric}_difference": mean_over_cases(differences),
        f"{metric}_difference_low": low,
        f"{metric}_difference_high": high,
        f"{metric}_t_p": float(stats.ttest_1samp(of_cases, 0).pvalue) if deviation > 0 else np.nan,
        f"{metric}_wilcoxon_p": wilcoxon_p(of_cases),
        f"{metric}_effect": of_cases.mean() / deviation if deviation > 0 else np.nan,
    }


def no_diffusion_document(table: pd.DataFrame, caption_note: str) -> Document:
    """Return the document of the table, from the rows of `no_diffusion_table` and a note on dataset and scale."""
    rows, baseline = [row for _, row in table.iterrows()], table["label"].iloc[0]
    cells, tests = pd.DataFrame({"Method": table["label"]}), pd.DataFrame({"Method": table["label"][1:]})
    for metric, heading in HEADINGS.items():
        cells[heading] = [mean_and_deviation(row, metric, decimals(metric)) for row in rows]
        tests[f"{heading} − {baseline} (95 %)"] = [
            effect_and_interval(row, f"{metric}_difference", decimals(metric)) for row in rows[1:]
        ]
        tests[f"{heading}: t-test"] = [p_value(row[f"{metric}_t_p"]) for row in rows[1:]]
        tests[f"{heading}: Wilcoxon"] = [p_value(row[f"{metric}_wilcoxon_p"]) for row in rows[1:]]
        tests[f"{heading}: d"] = [number(row[f"{metric}_effect"], 2, signed=True) for row in rows[1:]]
    cells["Cases"] = table["cases"]
    has_paper_values = table[[f"{metric}_paper" for metric in HEADINGS]].notna().any(axis=None)
    notes = [PAPER_VALUES_NOTE if has_paper_values else NO_PAPER_VALUES_NOTE, missing_hd95_note(table, "label")]
    test_notes = [
        f"Differences are paired by case. {interval_note(int(table['trainings'].max()))}",
        "The paired t-test and Wilcoxon's signed-rank test compare the cases, each with the mean of its trainings. They take "
        "cases as independent, and so do not cover what another training would change. d: mean of the differences over their "
        "standard deviation (Cohen's d). p-values are not corrected for their number.",
    ]
    parts = [Part("Scores", cells, notes), Part(f"Differences to {baseline}", tests, test_notes)]
    return Document("Table 2: with and without diffusion", caption_note, parts)
