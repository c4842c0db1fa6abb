"""Table of cases: its columns, its checks, reading and writing."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from pd_ddpm.data.cases.text import TextError, read_text, separator_of
from pd_ddpm.runtime.formula import is_formula
from pd_ddpm.runtime.missing_file import missing_file_problem
from pd_ddpm.runtime.problem import Problem, ProblemError
from pd_ddpm.runtime.sealed import read_sealed
from pd_ddpm.runtime.sealed_tables import write_sealed_csv

ROLES = ("train", "validation", "test")

# The columns of further observers' masks -> the names of these observers in the WMH challenge.
OBSERVERS = {"observer_2": "o3", "observer_3": "o4"}

# What R, pandas, BIDS and spreadsheets write for a missing value.
MISSING_VALUES = ("NA", "N/A", "n/a", "#N/A", "<NA>", "NaN", "nan", "NULL", "null", "None")

# Channel name -> BIDS suffix. A channel may have either name.
WEIGHTED = {"T1": "T1w", "T2": "T2w", "PD": "PDw"}


class CohortError(ProblemError):
    """Raised if the cases of a dataset cannot be used.

    Attributes:
        table: the case table as far as it could be read, with empty paths instead of wrong ones, or None.
    """

    def __init__(self, *problems: Problem, heading: str = "", table: pd.DataFrame | None = None):
        super().__init__(*problems, heading=heading)
        self.table = table


def table_columns(channels: Sequence[str]) -> list[str]:
    """Return the columns of a case table, in order. Each channel has an image and, if needed, a transform."""
    return [
        *("case", "patient", "site", "role", "fold"),
        *channels,
        "mask",
        *(f"{channel}_transform" for channel in channels),
        *OBSERVERS,
    ]


def write_table(table: pd.DataFrame, csv_path: str | Path) -> None:
    """Write a case table as sealed csv, with unchanged paths."""
    write_sealed_csv(table, csv_path, lineterminator="\n")


def read_table(csv_path: str | Path) -> pd.DataFrame:
    """Read a table written by `write_table`, without checking that its files exist.

    Raises:
        DamagedFileError: the table was changed after it was written.
    """
    if Path(csv_path).is_file():
        read_sealed(csv_path)
    cells = read_cells(Path(csv_path))
    cells["fold"] = _as_integers(cells["fold"])
    return cells.reset_index(drop=True)


def clean_name(name: str) -> str:
    """Return a name that is safe in file names: letters, digits, underscore, dot and hyphen only."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", name).strip("._-")


def read_cells(csv_path: Path) -> pd.DataFrame:
    """Read the cells of a user's table as stripped text, without blank lines. The index counts all lines below the header.

    Cells are separated by commas, semicolons or tabs, see `separator_of`.

    Raises:
        CohortError: the file does not exist or is no such table.
    """
    if not csv_path.is_file():
        problem = missing_file_problem(csv_path, "Correct the path")
        if problem.problem == "the file does not exist":
            problem = Problem(csv_path, "the table of cases does not exist", "Correct the path")
        raise CohortError(problem)
    try:
        text = read_text(csv_path)
        if re.match("sep=.?\\s", text):
            raise CohortError(Problem(csv_path, "its first line is one for Excel (sep=)", "Remove that line"))
        separator = separator_of(text)
        cells = pd.read_csv(
            io.StringIO(text),
            sep=separator,
            dtype=str,
            keep_default_na=False,
            skipinitialspace=True,
            skip_blank_lines=False,
        )
    except TextError as error:
        raise CohortError(*error.problems) from error
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        remedy = "Save it as comma-separated UTF-8, and quote cells that contain the separator"
        raise CohortError(Problem(csv_path, f"cannot be read as a table ({error})", remedy)) from error
    if not isinstance(cells.index, pd.RangeIndex):
        problem = "some lines hold more cells than the header"
        name = {",": "commas", ";": "semicolons", "\t": "tabs"}[separator]
        raise CohortError(Problem(csv_path, problem, f"Remove {name}, or quote cells that contain {name}"))
    if len(cells.columns) == 1:
        problem = f"its first line is a single cell, {str(cells.columns[0])[:80]!r}, and not the names of columns"
        remedy = "Begin with the names, such as case,site,FLAIR,T1,mask, separated by commas, semicolons or tabs"
        raise CohortError(Problem(csv_path, problem, remedy))
    cells.columns = [str(name).strip() for name in cells.columns]
    cells = cells.fillna("").apply(lambda column: column.str.strip())
    # Remove blank lines only now, so that the index keeps the line numbers.
    return cells[(cells != "").any(axis=1)].copy()


def name_problems(name: str) -> list[Problem]:
    """Return what is wrong with the name of a case, which becomes part of file names."""
    if clean_name(name) == name:
        return []
    return [
        Problem(
            "",
            f"the case name {name!r} is not safe in file names (letters, digits, _ . -, the last three only within)",
            f"Rename it, for instance to {clean_name(name)!r}",
        )
    ]


def site_problems(sites: Iterable[str]) -> list[Problem]:
    """Return a problem for each site whose name would be a formula in published tables."""
    return [
        Problem(f"site {site!r}", "spreadsheets would execute it as a formula", "Begin the name with a letter or digit")
        for site in dict.fromkeys(sites)
        if is_formula(site)
    ]


def duplicate_problems(names: Sequence[str], places: Sequence[str]) -> list[Problem]:
    """Return a problem for each case name that occurs in several places, such as lines or files."""
    problems = []
    for repeated in sorted({name for name in names if name and names.count(name) > 1}):
        listed = ", ".join(place for name, place in zip(names, places, strict=True) if name == repeated)
        problems.append(Problem("", f"case {repeated} occurs more than once: {listed}", "Rename or remove all but one"))
    return problems


def raise_problems(heading: str, problems: Sequence[Problem], table: pd.DataFrame | None = None) -> None:
    """Raise CohortError if there are problems.

    Args:
        heading: file or folder that has the problems.
        problems: all problems of the dataset, possibly none.
        table: the case table as far as it could be read.
    """
    if problems:
        raise CohortError(*problems, heading=heading, table=table)


def complete_table(rows: pd.DataFrame, channels: Sequence[str]) -> pd.DataFrame:
    """Return a case table with all columns, in order. Missing columns are empty."""
    table = rows.reindex(columns=table_columns(channels), fill_value="").reset_index(drop=True)
    table["fold"] = _as_integers(table["fold"])
    return table


def _as_integers(column: pd.Series) -> pd.Series:
    return pd.to_numeric(column.replace("", None)).astype("Int64")
