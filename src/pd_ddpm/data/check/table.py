"""Check names, sites and patients of a case table, as far as its source allows doubts about them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from pd_ddpm.data.cases.bids import participants_problems
from pd_ddpm.data.cases.csv_table import missing_sites
from pd_ddpm.data.cases.table import MISSING_VALUES, CohortError
from pd_ddpm.runtime.problem import Problem

_MAX_LISTED_GROUPS = 3

# The end of a name that tells scans of one patient apart. Words that are common in other names need a number.
_WORD = (
    "time-?point|time|tp|t|session|sess?|visit|vis|v|exam|ex|scan|acq|run|rep|repeat|follow-?up|fu|"
    "month|m|week|wk|w|year|yr|y|day|d"
)
_ENDS = tuple(
    re.compile(rf"(?P<stem>.*[A-Za-z0-9]){end}", re.I)
    for end in (
        r"[_.-]+(ses|run|acq|rec|dir|echo|tp)-[A-Za-z0-9]+",
        rf"[_.-]+({_WORD})[_.-]?\d+",
        rf"(?<=\d)({_WORD})\d+",
        r"[_.-]+(baseline|base|bl|follow-?up|fu|pre|post|re-?test|test|re-?scan)",
        r"[_.-]+(19|20)\d\d[_.-]?\d\d[_.-]?\d\d",
    )
)

# The same without a word, after a name that ends with a number of its own: 017_1, 017-2, 017a.
_NUMBERED = re.compile(r"(?P<stem>.*\d)([_.-]+\d{1,2}|[a-e])", re.I)


def table_problems(table: pd.DataFrame, source: Mapping[str, Any]) -> list[Problem]:
    """Return what is doubtful about names, sites and patients.

    Args:
        table: the case table.
        source: the dataset's entry in the configuration; empty for a single scan.
    """
    problems = [*_grouped_names(table), *_missing_values(table)]
    layout = source.get("layout")
    try:
        if layout == "bids":
            problems += participants_problems(source["folder"])
        if layout == "table" and (cases := missing_sites(source["table"])):
            problem = f"the site of {_listed(cases)} is NA or the like, which is read as a missing value"
            problems.append(Problem(source["table"], problem, "Enter the site, or rename it if it is called so"))
    except CohortError:
        # A table that cannot be read stops the search for cases, with its own message.
        pass
    return problems


def _missing_values(table: pd.DataFrame) -> list[Problem]:
    """Return a problem for each column that holds what other programs write for a missing value."""
    problems = []
    for column in ("case", "site"):
        if names := sorted(set(table[column]) & set(MISSING_VALUES)):
            text = f"a {column} is called {', '.join(names)}, which other programs read as a missing value"
            problems.append(Problem("", text, f"Enter the {column}, or rename it if it is called so"))
    return problems


def patient_stem(name: str) -> str:
    """Return the name of a case without the ends that tell scans of one patient apart: sub-01 of sub-01_ses-2_run-1."""
    while match := next(filter(None, (end.fullmatch(name) for end in _ENDS)), None):
        name = match["stem"]
    return name


def _grouped_names(table: pd.DataFrame) -> list[Problem]:
    """Return a problem if cases without a patient have names like several scans of one patient."""
    problem = "the names of {count} look like several scans of one patient ({groups}), but column `patient` is empty"
    remedy = (
        "Fill in `patient` in a csv of the cases (layout: table), else scans of one patient are trained on and tested. If each "
        "case is another patient, nothing needs to be done"
    )
    unnamed = table[table["patient"] == ""]
    groups = list(_groups(unnamed))
    if not groups:
        return []
    listed = [f"{stem}: {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}" for stem, names in groups]
    further = f"; {len(listed) - _MAX_LISTED_GROUPS} more" if len(listed) > _MAX_LISTED_GROUPS else ""
    count = f"{sum(len(names) for _, names in groups)} cases"
    text = problem.format(count=count, groups="; ".join(listed[:_MAX_LISTED_GROUPS]) + further)
    return [Problem("", text, remedy)]


def _groups(table: pd.DataFrame) -> Iterator[tuple[str, list[str]]]:
    """Yield stem and names of cases that may be one patient's and may have different roles."""
    stems = table["case"].map(patient_stem)
    if (stems == table["case"]).all():
        numbered = table["case"].map(lambda name: match["stem"] if (match := _NUMBERED.fullmatch(name)) else name)
        # A stem of many cases is a site or a cohort, whose cases are numbered.
        stems = numbered.where(numbered.map(numbered.value_counts()) <= max(2, len(table) // 3), table["case"])
    # The only stem is the name of the cohort.
    if stems.nunique() < 2:
        return
    for stem, rows in table.groupby(stems, sort=True):
        is_site = stem.lower() in rows["site"].str.lower().tolist()
        has_one_role = any(rows[column].astype(str).nunique() == 1 and _is_filled(rows[column]) for column in ("role", "fold"))
        if len(rows) > 1 and not is_site and not has_one_role:
            yield stem, rows["case"].tolist()


def _is_filled(cells: pd.Series) -> bool:
    return bool(cells.replace("", None).notna().all())


def _listed(cases: list[str]) -> str:
    return f"case {cases[0]}" if len(cases) == 1 else f"{len(cases)} cases ({', '.join(cases[:5])}{', ...' * (len(cases) > 5)})"
