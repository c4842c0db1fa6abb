"""Table of cases: its columns, its checks, reading and writing."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

ROLES = ("train", "validation", "test")

# The columns of further raters' masks, and who they are among the observers of the WMH challenge.
OBSERVERS = {"observer_2": "o3", "observer_3": "o4"}

# What a channel of this name is called in the file names of BIDS; the first name is a channel's as well.
WEIGHTED = {"T1": "T1w", "T2": "T2w", "PD": "PDw"}


class CohortError(ValueError):
    """All that is wrong with the cases of a data set; `table` holds what could be read, without paths that lead nowhere."""

    def __init__(self, source: str, problems: Sequence[str], table: pd.DataFrame | None = None):
        super().__init__(f"{source}: {len(problems)} problem(s):\n" + "\n".join(f"  {text}" for text in problems))
        self.source, self.problems, self.table = source, list(problems), table


def table_columns(channels: Sequence[str]) -> list[str]:
    """The columns of a case table, in order: per channel an image and a transform, empty where there is none."""
    return [
        *("case", "patient", "site", "role", "fold"),
        *channels,
        "mask",
        *(f"{channel}_transform" for channel in channels),
        *OBSERVERS,
    ]


def write_table(table: pd.DataFrame, csv_path: str | Path) -> None:
    """Write a case table as csv, with its paths as they are."""
    table.to_csv(csv_path, index=False, lineterminator="\n")


def read_table(csv_path: str | Path) -> pd.DataFrame:
    """Read back a table written by `write_table`, without checking that its files exist."""
    cells = read_cells(Path(csv_path))
    cells["fold"] = _as_integers(cells["fold"])
    return cells.reset_index(drop=True)


def clean_name(name: str) -> str:
    """Turn a name into one that is safe in file names: letters, digits, underscore, dot and hyphen only."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", name).strip("._-")


def read_cells(csv_path: Path) -> pd.DataFrame:
    if not csv_path.is_file():
        raise ValueError(f"{csv_path}: there is no such table of cases; correct the path.")
    try:
        # utf-8-sig, because spreadsheets put a byte order mark before the first column name.
        cells = pd.read_csv(
            csv_path,
            dtype=str,
            keep_default_na=False,
            encoding="utf-8-sig",
            skipinitialspace=True,
            skip_blank_lines=False,
        )
    except (UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise ValueError(f"{csv_path}: cannot be read as a table ({error}); save it as comma-separated UTF-8.") from error
    if not isinstance(cells.index, pd.RangeIndex):
        raise ValueError(f"{csv_path}: lines hold more cells than the header; remove commas, or quote cells with commas.")
    cells.columns = [str(name).strip() for name in cells.columns]
    cells = cells.fillna("").apply(lambda column: column.str.strip())
    # Blank lines go only now, so that the others keep their line numbers.
    return cells[(cells != "").any(axis=1)].copy()


def name_problems(name: str) -> list[str]:
    """What is wrong with the name of a case, which becomes part of file names."""
    if clean_name(name) == name:
        return []
    return [
        f"the case name {name!r} is not safe in file names (letters, digits, _ . -, the last three only within); "
        f"rename it, for instance to {clean_name(name)!r}."
    ]


def _repeated(names: Sequence[str]) -> list[str]:
    return sorted({name for name in names if names.count(name) > 1})


def duplicates(names: list[str], places: list[str]) -> list[str]:
    """A problem for each name of a case that several places have."""
    return [
        f"case {name} occurs more than once: {', '.join(p for n, p in zip(names, places, strict=True) if n == name)}; "
        "rename or remove all but one."
        for name in _repeated(names)
        if name
    ]


def raise_all(source: str, problems: list[str], table: pd.DataFrame | None = None) -> None:
    """Raise CohortError if there are problems."""
    if problems:
        raise CohortError(source, problems, table)


def as_table(rows: pd.DataFrame, channels: Sequence[str]) -> pd.DataFrame:
    """A case table with all columns, in order; columns that are not given are empty."""
    table = rows.reindex(columns=table_columns(channels), fill_value="").reset_index(drop=True)
    table["fold"] = _as_integers(table["fold"])
    return table


def _as_integers(column: pd.Series) -> pd.Series:
    return pd.to_numeric(column.replace("", None)).astype("Int64")
