"""Tables from per-case scores."""

import html
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from pd_ddpm.metrics import EMPTY_MASK_POLICY

TABLE1_METRICS = {"dice": "Dice", "hd95_mm": "HD95 [mm]", "jaccard": "Jaccard", "lesion_f1": "F1"}
TABLE1_EXTRA = ["hd95_medpy_mm", "avd_percent", "lesion_recall"]


def read_scores(files: Sequence[str | Path]) -> pd.DataFrame:
    """All rows of these score files; they carry their data set, method, split, seed and case."""
    return pd.concat([pd.read_csv(file, dtype={"case": str}) for file in files], ignore_index=True)


def per_case(scores: pd.DataFrame) -> pd.DataFrame:
    """One row per method and case: the mean over seeds, so that a case counts once however often it was run."""
    return scores.groupby(["method", "case"], as_index=False).mean(numeric_only=True)


def table1(scores: pd.DataFrame, labels: Mapping[str, str], printed: pd.DataFrame) -> pd.DataFrame:
    """Table 1 of PD-DDPM: a row per method, in the order of `labels` (method -> name).

    For each metric the mean over cases, the standard deviation over cases (n - 1), and `*_paper`, the value that the paper
    prints for the row of this name. Network evaluations are those for one slice with all members.
    """
    cases = per_case(scores)
    paper = printed[printed["exhibit"] == "table1"].set_index(["row", "metric"])["value"]
    rows = []
    for method, label in labels.items():
        of_method = cases[cases["method"] == method]
        row = {"method": label}
        for metric in [*TABLE1_METRICS, *TABLE1_EXTRA]:
            row[metric], row[f"{metric}_sd"] = of_method[metric].mean(), of_method[metric].std(ddof=1)
            if metric in TABLE1_METRICS:
                row[f"{metric}_paper"] = paper.get((label, metric))
        row |= {
            "cases": len(of_method),
            "cases_without_hd95": int(of_method["hd95_mm"].isna().sum()),
            "samples": int(of_method["samples"].max()),
            "network_evaluations": round(of_method["network_evaluations"].mean()),
            "seconds_per_case": of_method["seconds"].mean(),
        }
        rows.append(row)
    return pd.DataFrame(rows)


def table1_for_reading(table: pd.DataFrame) -> pd.DataFrame:
    """Table 1 as text: mean ± standard deviation, the paper's value in brackets."""
    shown = pd.DataFrame({"Method": table["method"]})
    for metric, heading in TABLE1_METRICS.items():
        digits = 2 if metric.endswith("_mm") else 3
        shown[heading] = [
            _cell(mean, deviation, digits) + ("" if pd.isna(paper) else f" [{paper:.3f}]")
            for mean, deviation, paper in zip(table[metric], table[f"{metric}_sd"], table[f"{metric}_paper"], strict=True)
        ]
    shown["Cases"] = table["cases"].astype(str)
    shown["Evaluations"] = table["network_evaluations"].astype(str)
    shown["s / case"] = table["seconds_per_case"].map("{:.1f}".format)
    return shown


def _cell(mean: float, deviation: float, digits: int) -> str:
    """Mean ± standard deviation; a single case has no deviation, and no case with a value has neither."""
    if pd.isna(mean):
        return "undefined"
    return f"{mean:.{digits}f}" + ("" if pd.isna(deviation) else f" ± {deviation:.{digits}f}")


def table1_notes(table: pd.DataFrame, remark: str) -> list[str]:
    """What a reader of Table 1 must know; remark: of what scale and data the numbers are."""
    missing = table.loc[table["cases_without_hd95"] > 0, ["method", "cases_without_hd95"]]
    undefined = ", ".join(f"{row['method']} {row['cases_without_hd95']}" for _, row in missing.iterrows()) or "none"
    return [
        remark,
        "Mean ± standard deviation over test cases; [in brackets: what the paper prints for the WMH challenge data].",
        "Metrics are the WMH challenge's, on the whole 3D case in millimetres on the scan's own grid; F1 is that of lesions.",
        "Evaluations: network evaluations for one slice with all members, the pre-segmentation's included.",
        f"Cases whose HD95 is undefined and left out of its mean: {undefined}. {EMPTY_MASK_POLICY}",
    ]


def table1_markdown(table: pd.DataFrame, remark: str) -> str:
    """Table 1 and its notes as Markdown."""
    shown = table1_for_reading(table)
    lines = [list(shown.columns), ["---", *["---:"] * (shown.shape[1] - 1)], *shown.to_numpy().tolist()]
    body = ["| " + " | ".join(line) + " |" for line in lines]
    return "\n".join(["# Table 1", "", *body, "", *(f"{note}\n" for note in table1_notes(table, remark))])


def table1_html(table: pd.DataFrame, remark: str) -> str:
    """Table 1 and its notes as a page of its own."""
    style = "body{font-family:sans-serif;margin:2em} td,th{padding:.3em .8em;text-align:right} td:first-child{text-align:left}"
    notes = "".join(f"<p>{html.escape(note)}</p>" for note in table1_notes(table, remark))
    body = table1_for_reading(table).to_html(index=False, border=0)
    return f'<!DOCTYPE html><meta charset="utf-8"><title>Table 1</title><style>{style}</style><h1>Table 1</h1>{body}{notes}\n'
