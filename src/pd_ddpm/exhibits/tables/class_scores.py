"""Scores of each class, next to tables whose scores are means over the classes."""

from collections.abc import Mapping

import pandas as pd

from pd_ddpm.evaluation.scores import CLASS, CLASS_POLICY
from pd_ddpm.exhibits.document import Part
from pd_ddpm.exhibits.tables.cells import decimals, mean_and_deviation

GROUPING = "class"  # of the rows in the table of groups

METRICS = {"dice": "Dice", "jaccard": "Jaccard", "hd95_mm": "HD95 [mm]", "hd95_largest_mm": "HD95, largest [mm]"}

MEANS_NOTE = (
    "Each score is the mean over the classes without background; F1 counts connected parts of a class. The table of classes "
    f"has the scores of each. {CLASS_POLICY}"
)


def class_groups(class_scores: pd.DataFrame, labels: Mapping[str, str]) -> pd.DataFrame:
    """Return one row per class and method: mean and standard deviation (n - 1) over cases, and the cases without a value.

    Args:
        class_scores: score rows of the single classes.
        labels: method -> name in the table.

    Returns:
        Columns grouping, group (the class), method, cases, and for each metric its mean, `*_sd` and `*_missing`. Empty if there
        are no classes.
    """
    by_case = class_scores.groupby([CLASS, "method", "case"])[list(METRICS)].mean() if len(class_scores) else None
    rows = []
    for name in class_scores[CLASS].unique():
        for method, label in labels.items():
            cases = by_case.loc[name, method]
            row = {"grouping": GROUPING, "group": name, "method": label, "cases": len(cases)}
            for metric in METRICS:
                values = cases[metric]
                row |= {
                    metric: values.mean(),
                    f"{metric}_sd": values.std(ddof=1),
                    f"{metric}_missing": int(values.isna().sum()),
                }
            rows.append(row)
    return pd.DataFrame(rows)


def classes_part(groups: pd.DataFrame) -> Part | None:
    """Return the section with the scores of each class, from the rows of `class_groups`; None if there are no classes."""
    rows = groups[groups["grouping"] == GROUPING]
    if rows.empty:
        return None
    cells = pd.DataFrame({"Class": rows["group"], "Method": rows["method"]})
    for metric, heading in METRICS.items():
        cells[heading] = [_cell(row, metric) for _, row in rows.iterrows()]
    note = (
        "Mean ± standard deviation over cases; in parentheses the number of cases without a value. HD95 is that of the WMH "
        "challenge, whose surfaces lie in slices. HD95, largest: surfaces in space, the larger of both directions, as Fu et "
        "al. 2024 and MONAI define it."
    )
    return Part("Scores of each class", cells, [note], left=["Method"])


def _cell(row: pd.Series, metric: str) -> str:
    text = mean_and_deviation(row, metric, decimals(metric))
    return f"{text} ({int(row[f'{metric}_missing'])})" if row[f"{metric}_missing"] else text
