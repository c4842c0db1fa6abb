"""Table 1 of PD-DDPM: scores of all methods, their differences to PD-DDPM, and Dice in groups of cases."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from pd_ddpm.evaluation.scores import average_over_seeds, by_training, select_method
from pd_ddpm.evaluation.statistics import (
    holm,
    mean_interval,
    mean_over_cases,
    paired_differences,
    paired_p,
    smallest_wilcoxon_p,
)
from pd_ddpm.exhibits.document import Document, Part
from pd_ddpm.exhibits.tables.cells import (
    METRICS_NOTE,
    NO_PAPER_VALUES_NOTE,
    PAPER_METRICS,
    PAPER_VALUES_NOTE,
    best_rows,
    cost_cell,
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
from pd_ddpm.exhibits.tables.class_scores import MEANS_NOTE, class_groups, classes_part

FURTHER_METRICS = ("hd95_medpy_mm", "avd_percent", "lesion_recall")
LESION_LOADS = ("low", "medium", "high")
LESION_LOAD, CLASS_VOLUME = "lesion load", "volume of all classes"  # groupings of cases by the volume of their reference


def table1(scores: pd.DataFrame, labels: Mapping[str, str], printed: pd.DataFrame, compared_with: str | None) -> pd.DataFrame:
    """Return Table 1 of PD-DDPM: one row per method, in the order of `labels`.

    Args:
        scores: score rows of all methods.
        labels: method -> name in the table.
        printed: values printed in the paper.
        compared_with: method that the others are compared with.

    Returns:
        For each metric the mean over cases, the standard deviation (n - 1, `*_sd`), the 95 % interval (`*_low`, `*_high`) and
        the paper's value (`*_paper`). For the paper's four metrics also the paired difference (row minus `compared_with`) with
        its interval, its p-value (see `paired_p`), and that p-value after Holm's correction over the other methods, for each
        metric separately. Differences are empty in the row of `compared_with`, and in all rows if it is None or not in the
        table. `network_evaluations` counts one slice with all members.

    Raises:
        ValueError: a method has no score.
    """
    rows_by_training = by_training(scores)
    paper = printed_values(printed, "table1")
    compared = select_method(rows_by_training, compared_with) if compared_with in labels else None
    rows = []
    for method, label in labels.items():
        method_rows = select_method(rows_by_training, method)
        row = {"method": label}
        for metric in PAPER_METRICS:
            row |= summary(method_rows[metric], metric) | {f"{metric}_paper": paper.get((label, metric), np.nan)}
            is_compared = compared is not None and method != compared_with
            row |= _comparison(method_rows[metric], compared[metric] if is_compared else None)
        for metric in FURTHER_METRICS:
            row |= summary(method_rows[metric], metric)
        rows.append(row | counts_and_cost(method_rows))
    table = pd.DataFrame(rows)
    for metric in PAPER_METRICS:
        table.insert(table.columns.get_loc(f"{metric}_p") + 1, f"{metric}_p_holm", holm(table[f"{metric}_p"]))
    return table


@dataclass(frozen=True)
class _Group:
    """Cases of one site or of one range of lesion loads."""

    grouping: str
    name: str
    cases: pd.Index
    from_ml: float = np.nan
    to_ml: float = np.nan


def table1_groups(scores: pd.DataFrame, labels: Mapping[str, str], class_scores: pd.DataFrame | None = None) -> pd.DataFrame:
    """Return the Dice of each method in groups of cases, by lesion load and then by site, one row per group and method.

    Before them come the rows of `class_groups` for each class, if there are classes. Lesion loads are the terciles of the
    ground truth's volume over all cases (a single group below three cases). `from_ml` and `to_ml` are the bounds of a group.
    The upper bound belongs to the group, the lower one only in the lowest group.
    """
    cases = average_over_seeds(scores)
    rows = []
    grouping = LESION_LOAD if class_scores is None or class_scores.empty else CLASS_VOLUME
    for group in [*_load_groups(cases, grouping), *_site_groups(scores)]:
        for method, label in labels.items():
            method_cases = select_method(cases, method)
            dice = method_cases.loc[method_cases.index.isin(group.cases), "dice"]
            row = {"grouping": group.grouping, "group": group.name, "from_ml": group.from_ml, "to_ml": group.to_ml}
            rows.append(row | {"method": label, "cases": len(dice), "dice": dice.mean(), "dice_sd": dice.std(ddof=1)})
    table = pd.DataFrame(rows)
    table = table[table.groupby(["grouping", "group"])["cases"].transform("max") > 0].reset_index(drop=True)
    if class_scores is None or class_scores.empty:
        return table
    return pd.concat([class_groups(class_scores, labels), table], ignore_index=True)


def _load_groups(cases: pd.DataFrame, grouping: str) -> list[_Group]:
    volumes = cases.groupby("case")["reference_volume_ml"].mean()
    bounds = volumes.quantile(np.linspace(0, 1, 4 if len(volumes) >= 3 else 2)).to_numpy()
    names = LESION_LOADS if len(volumes) >= 3 else ("all",)
    index = np.searchsorted(bounds[1:-1], volumes)
    return [
        _Group(grouping, name, volumes.index[index == number], bounds[number], bounds[number + 1])
        for number, name in enumerate(names)
    ]


def _site_groups(scores: pd.DataFrame) -> list[_Group]:
    sites = scores.drop_duplicates("case").set_index("case")["site"].astype(str)
    return [_Group("site", site, sites.index[sites == site]) for site in sorted(sites.unique())]


def table1_document(table: pd.DataFrame, groups: pd.DataFrame, compared_with: str | None, caption_note: str) -> Document:
    """Return the document of Table 1: scores and cost, differences, groups.

    Args:
        table: rows of `table1`.
        groups: rows of `table1_groups`.
        compared_with: name in the table of the method that the others are compared with.
        caption_note: dataset and scale that the numbers belong to.
    """
    parts = [_scores_part(table)]
    if (classes := classes_part(groups)) is not None:
        parts.append(classes)
    if table["dice_difference"].notna().any():
        parts.append(_differences_part(table, compared_with))
    parts += [_groups_part(groups, name) for name in (LESION_LOAD, CLASS_VOLUME, "site") if name in set(groups["grouping"])]
    return Document("Table 1", caption_note, parts)


def _comparison(values: pd.Series, others: pd.Series | None) -> dict[str, float]:
    """Return the mean paired difference, its interval and p-value, in columns that begin with the name of `values`."""
    name = f"{values.name}_difference"
    if others is None:
        return dict.fromkeys([name, f"{name}_low", f"{name}_high", f"{values.name}_p"], np.nan)
    differences = paired_differences(values, others)
    low, high = mean_interval(differences)
    mean, p = mean_over_cases(differences), paired_p(differences)
    return {name: mean, f"{name}_low": low, f"{name}_high": high, f"{values.name}_p": p}


def _scores_part(table: pd.DataFrame) -> Part:
    cells = pd.DataFrame({"Method": table["method"]})
    for metric, heading in PAPER_METRICS.items():
        cells[heading] = [mean_and_deviation(row, metric, decimals(metric)) for _, row in table.iterrows()]
    cells["Cases"] = table["cases"]
    cells["K"] = table["samples"]
    cells["Evaluations"] = table["network_evaluations"].map(cost_cell)
    cells["s / case"] = [cost_cell(seconds, digits=1) for seconds in table["seconds_per_case"]]
    of_classes = "classes_without_dice" in table
    has_paper_values = table[[f"{metric}_paper" for metric in PAPER_METRICS]].notna().any(axis=None)
    notes = [
        PAPER_VALUES_NOTE if has_paper_values else NO_PAPER_VALUES_NOTE,
        METRICS_NOTE,
        *([MEANS_NOTE, _missing_classes_note(table)] if of_classes else []),
        "K: number of ensemble members. Evaluations: network evaluations for one slice with all members, including those of "
        "the pre-segmentation. The csv has 95 % intervals of the means.",
        interval_note(int(table["trainings"].min())),
        *([] if of_classes else [missing_hd95_note(table, "method")]),
    ]
    best = {heading: best_rows(table[metric]) for metric, heading in PAPER_METRICS.items()}
    return Part("Scores and cost", cells, notes, best=best)


def _missing_classes_note(table: pd.DataFrame) -> str:
    """Return a note that counts the classes of all cases without Dice and without HD95."""

    def listed(column: str) -> str:
        missing = table[table[column] > 0]
        return ", ".join(f"{row['method']} {row[column]:g}" for _, row in missing.iterrows()) or "none"

    dice, hd95 = listed("classes_without_dice"), listed("classes_without_hd95")
    return f"Classes of all cases together that are left out of the means: of Dice {dice}; of HD95 {hd95}."


def _differences_part(table: pd.DataFrame, compared_with: str) -> Part:
    others = table[table["dice_difference"].notna()]
    cells = pd.DataFrame({"Method": others["method"]})
    for metric, heading in PAPER_METRICS.items():
        effects = [effect_and_interval(row, f"{metric}_difference", decimals(metric)) for _, row in others.iterrows()]
        p_values = others[f"{metric}_p_holm"].map(p_value)
        cells[heading] = [f"{effect}, {p}" if p else effect for effect, p in zip(effects, p_values, strict=True)]
    trainings = int(others["trainings"].min())
    test = "Wilcoxon's signed-rank test over cases" if trainings < 2 else "the t-test over trainings, as for the interval"
    notes = [
        f"Mean over cases of (method − {compared_with}), paired. A negative Dice means that {compared_with} is better; a "
        "negative HD95 means that it is worse. In parentheses: 95 % interval. Then: p-value after Holm's correction over the "
        f"methods compared with {compared_with}, for each metric separately. Test: {test}.",
        f"{interval_note(trainings)} The same is true of the test.",
        _power_note(others, compared_with),
    ]
    return Part(f"Difference to {compared_with}", cells, notes)


def _power_note(others: pd.DataFrame, compared_with: str) -> str:
    """Return a note on the differences that this number of cases can show."""
    cases, methods = int(others["cases"].min()), len(others)
    if cases < 2:
        return "n = 1: a single case has neither an interval nor a test, and says nothing about other cases."
    smallest = smallest_wilcoxon_p(cases)
    corrected = min(methods * smallest, 1.0)
    text = f"n = {cases} cases. "
    if corrected >= 0.05 and others["trainings"].min() < 2:
        comparisons = f"{methods} {'comparison' if methods == 1 else 'comparisons'}"
        text += (
            f"With so few cases the test cannot give less than p = {smallest:.2g}, or {corrected:.2g} after correction for "
            f"{comparisons}: no difference can be significant, however large. "
        )
    half_width = ((others["dice_difference_high"] - others["dice_difference_low"]) / 2).median()
    return text + (
        f"Typical half-width of the interval of a Dice difference: {number(half_width, 3)}. Smaller true differences to "
        f"{compared_with} cannot be detected. An interval that contains zero does not show that two methods are equal."
    )


def _groups_part(groups: pd.DataFrame, grouping: str) -> Part:
    grouped = groups[groups["grouping"] == grouping]
    cells = pd.DataFrame({"Method": grouped["method"].drop_duplicates().to_list()})
    for group, rows in grouped.groupby("group", sort=False):
        first = rows.iloc[0]
        bounds = "" if pd.isna(first["from_ml"]) else f", {first['from_ml']:.1f}–{first['to_ml']:.1f} ml"
        cells[f"{group}{bounds} (n = {rows['cases'].max()})"] = [
            mean_and_deviation(row, "dice") if row["cases"] else "" for _, row in rows.iterrows()
        ]
    note = "Mean ± standard deviation of Dice over the cases of a group."
    if grouping in (LESION_LOAD, CLASS_VOLUME):
        volume, part = ("lesion volume", "lesion") if grouping == LESION_LOAD else (grouping, "structure")
        note += (
            f" Groups: terciles of the reference's {volume} over these test cases; bounds in ml. Any method tends to have "
            f"a lower Dice for small volumes, because a border of the same width is a larger part of a small {part}. Compare "
            "within a column."
        )
    return Part(f"Dice by {grouping}", cells, [note])
