"""Table 1 of PD-DDPM: all methods side by side, their differences to PD-DDPM, and Dice in groups of cases."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from pd_ddpm.evaluation.scores import average_over_seeds, select_method
from pd_ddpm.evaluation.statistics import bootstrap_interval, holm, paired_differences, smallest_wilcoxon_p, wilcoxon_p
from pd_ddpm.exhibits.document import Document, Part
from pd_ddpm.exhibits.tables.cells import (
    METRICS_NOTE,
    PAPER_METRICS,
    SHOWN_NOTE,
    decimals,
    effect_and_interval,
    mean_and_deviation,
    missing_hd95_note,
    number,
    p_value,
    printed_values,
    summary,
)

FURTHER_METRICS = ("hd95_medpy_mm", "avd_percent", "lesion_recall")
LESION_LOADS = ("low", "medium", "high")


def table1(scores: pd.DataFrame, labels: Mapping[str, str], printed: pd.DataFrame, against: str | None) -> pd.DataFrame:
    """Table 1 of PD-DDPM: a row per method, in the order of `labels` (method -> name).

    For each metric the mean over cases, the standard deviation (n - 1), the 95 % bootstrap interval (`*_low`, `*_high`)
    and `*_paper`, the value that the paper prints for the row of this name. For the paper's four metrics also the paired
    difference to the method `against` (row minus `against`), its interval, Wilcoxon's p-value and that after Holm's
    correction over the other methods of the table, for each metric by itself. The differences are empty in the row of
    `against`, and in all rows if it is None or not in the table.
    Network evaluations are those for one slice with all members. Raises ValueError if a method has no score.
    """
    cases = average_over_seeds(scores)
    paper = printed_values(printed, "table1")
    compared = select_method(cases, against) if against in labels else None
    rows = []
    for method, label in labels.items():
        of_this = select_method(cases, method)
        row = {"method": label}
        for metric in PAPER_METRICS:
            row |= summary(of_this[metric], metric) | {f"{metric}_paper": paper.get((label, metric), np.nan)}
            row |= _comparison(of_this[metric], None if compared is None or method == against else compared[metric])
        for metric in FURTHER_METRICS:
            row |= summary(of_this[metric], metric)
        row |= {
            "cases": len(of_this),
            "cases_without_hd95": int(of_this["hd95_mm"].isna().sum()),
            "samples": int(of_this["samples"].max()),
            "network_evaluations": round(of_this["network_evaluations"].mean()),
            "seconds_per_case": of_this["seconds"].mean(),
        }
        rows.append(row)
    table = pd.DataFrame(rows)
    for metric in PAPER_METRICS:
        table.insert(table.columns.get_loc(f"{metric}_p") + 1, f"{metric}_p_holm", holm(table[f"{metric}_p"]))
    return table


def table1_groups(scores: pd.DataFrame, labels: Mapping[str, str]) -> pd.DataFrame:
    """Dice of each method in groups of cases, a row per group and method: by lesion load, then by site.

    Lesion loads are the terciles of the reference volume over all cases (one group below three cases); `from_ml` and
    `to_ml` bound a group, the upper bound included, the lower one in the lowest group only.
    """
    cases = average_over_seeds(scores)
    volumes = cases.groupby("case")["reference_volume_ml"].mean()
    bounds = volumes.quantile(np.linspace(0, 1, 4 if len(volumes) >= 3 else 2)).to_numpy()
    names = LESION_LOADS if len(volumes) >= 3 else ("all",)
    load_of_case = pd.Series(np.searchsorted(bounds[1:-1], volumes), index=volumes.index)
    site_of_case = scores.drop_duplicates("case").set_index("case")["site"].astype(str)
    groups = [
        ("lesion load", name, bounds[place], bounds[place + 1], load_of_case.index[load_of_case == place])
        for place, name in enumerate(names)
    ]
    groups += [
        ("site", site, np.nan, np.nan, site_of_case.index[site_of_case == site]) for site in sorted(site_of_case.unique())
    ]
    rows = []
    for grouping, group, from_ml, to_ml, members in groups:
        for method, label in labels.items():
            of_this = select_method(cases, method)
            dice = of_this.loc[of_this.index.isin(members), "dice"]
            identity = {"grouping": grouping, "group": group, "from_ml": from_ml, "to_ml": to_ml, "method": label}
            rows.append(identity | {"cases": len(dice), "dice": dice.mean(), "dice_sd": dice.std(ddof=1)})
    table = pd.DataFrame(rows)
    return table[table.groupby(["grouping", "group"])["cases"].transform("max") > 0].reset_index(drop=True)


def table1_document(table: pd.DataFrame, groups: pd.DataFrame, against: str | None, remark: str) -> Document:
    """Table 1 for reading: scores and cost, differences, groups. against: the name of the compared method in the table."""
    parts = [_scores_part(table)]
    if table["dice_difference"].notna().any():
        parts.append(_differences_part(table, against))
    parts += [_groups_part(groups, "lesion load"), _groups_part(groups, "site")]
    return Document("Table 1", remark, parts)


def _comparison(values: pd.Series, others: pd.Series | None) -> dict[str, float]:
    """Mean paired difference, its interval and p-value; the column names begin with that of `values`."""
    differences = pd.Series(dtype=float) if others is None else paired_differences(values, others)
    low, high = bootstrap_interval(differences)
    name = f"{values.name}_difference"
    tested = wilcoxon_p(differences)
    return {name: differences.mean(), f"{name}_low": low, f"{name}_high": high, f"{values.name}_p": tested}


def _scores_part(table: pd.DataFrame) -> Part:
    shown = pd.DataFrame({"Method": table["method"]})
    for metric, heading in PAPER_METRICS.items():
        shown[heading] = [mean_and_deviation(row, metric, decimals(metric)) for _, row in table.iterrows()]
    shown["Cases"] = table["cases"]
    shown["K"] = table["samples"]
    shown["Evaluations"] = table["network_evaluations"]
    shown["s / case"] = table["seconds_per_case"].map("{:.1f}".format)
    notes = [
        SHOWN_NOTE,
        METRICS_NOTE,
        "K: members of the ensemble. Evaluations: network evaluations for one slice with all members, the "
        "pre-segmentation's included. 95 % intervals of the means are in the csv.",
        missing_hd95_note(table, "method"),
    ]
    return Part("Scores and cost", shown, notes)


def _differences_part(table: pd.DataFrame, against: str) -> Part:
    others = table[table["dice_difference"].notna()]
    shown = pd.DataFrame({"Method": others["method"]})
    for metric, heading in PAPER_METRICS.items():
        effects = [effect_and_interval(row, f"{metric}_difference", decimals(metric)) for _, row in others.iterrows()]
        p_values = others[f"{metric}_p_holm"].map(p_value)
        shown[heading] = [f"{effect}, {p}" if p else effect for effect, p in zip(effects, p_values, strict=True)]
    notes = [
        f"Mean over cases of (method − {against}), paired: a negative Dice means that {against} is better, a negative HD95 "
        "that it is worse. In parentheses the 95 % percentile bootstrap interval over cases (10,000 resamples); then p of "
        f"Wilcoxon's signed-rank test after Holm's correction over the methods compared with {against}, for each metric by "
        "itself. Cases vary in these intervals, trainings do not: another training run may move a method by more.",
        _power_note(others, against),
    ]
    return Part(f"Difference to {against}", shown, notes)


def _power_note(others: pd.DataFrame, against: str) -> str:
    """What so many cases can and cannot show."""
    cases, methods = int(others["cases"].min()), len(others)
    if cases < 2:
        return "n = 1: a single case has neither interval nor test, and shows nothing of another case."
    smallest = smallest_wilcoxon_p(cases)
    corrected = min(methods * smallest, 1.0)
    text = f"n = {cases} cases. "
    if corrected >= 0.05:
        text += (
            f"The test cannot give less than p = {smallest:.2g}, or {corrected:.2g} after correction for {methods} "
            f"{'comparison' if methods == 1 else 'comparisons'}: no difference can be significant here, however large. "
        )
    if cases < 20:
        text += (
            "With fewer than about 20 cases the bootstrap interval is too narrow (5 cases: it holds the true mean in 84 % of "
            "samples instead of 95 %); the verdicts of the table of claims rest on Student's t instead. "
        )
    half_width = ((others["dice_difference_high"] - others["dice_difference_low"]) / 2).median()
    return text + (
        f"Typical half-width of an interval of a Dice difference: {number(half_width, 3)}. True differences to {against} that "
        "are smaller cannot be told from none, and an interval that holds zero does not show that two methods are equal."
    )


def _groups_part(groups: pd.DataFrame, grouping: str) -> Part:
    of_this = groups[groups["grouping"] == grouping]
    shown = pd.DataFrame({"Method": of_this["method"].drop_duplicates().to_list()})
    for group, rows in of_this.groupby("group", sort=False):
        first = rows.iloc[0]
        bounds = "" if pd.isna(first["from_ml"]) else f", {first['from_ml']:.1f}–{first['to_ml']:.1f} ml"
        shown[f"{group}{bounds} (n = {rows['cases'].max()})"] = [
            mean_and_deviation(row, "dice") if row["cases"] else "" for _, row in rows.iterrows()
        ]
    note = "Mean ± standard deviation of Dice over the cases of a group."
    if grouping == "lesion load":
        note += (
            " Groups: terciles of the reference's lesion volume over these test cases; bounds in ml. Dice tends to be lower "
            "for small loads with any method, since a border of the same width is more of a small lesion: compare within a "
            "column."
        )
    return Part(f"Dice by {grouping}", shown, [note])
