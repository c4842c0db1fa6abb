"""Cases from a user's csv file."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from pd_ddpm.data.cases.table import OBSERVERS, ROLES, as_table, duplicates, name_problems, raise_all, read_cells, table_columns


def channels_of_table(csv_path: str | Path) -> list[str]:
    """The columns of a user's table that name NIfTI images, other than those of masks, in their order."""
    cells = read_cells(Path(csv_path))
    images = [name for name in cells.columns if cells[name].str.endswith((".nii", ".nii.gz")).any()]
    return [name for name in images if name != "mask" and not name.startswith("observer")]


def read_case_table(csv_path: str | Path, channels: Sequence[str], folder: str | Path | None = None) -> pd.DataFrame:
    """Read a user's table of cases and check all of it before anything is computed.

    Columns: case, site, one per channel, mask; optionally patient, role, fold, `<channel>_transform`, observer_2 and
    observer_3; others are ignored. Relative paths start from `folder`, by default the folder of the table. A case without
    a site gets "unknown"; one without a patient is the only case of its patient.

    Raises CohortError with every problem found, each with its line.
    """
    csv_path = Path(csv_path)
    base = csv_path.parent if folder is None else Path(folder)
    cells = read_cells(csv_path)
    required = ["case", "site", *channels, "mask"]
    known = table_columns(channels)
    optional = [name for name in known if name not in required]
    problems = _column_problems(list(cells.columns), required, optional)
    raise_all(str(csv_path), problems)
    if cells.empty:
        raise ValueError(f"{csv_path}: the table has no cases; add one line per case.")

    lines = [f"line {number + 2}" for number in cells.index]
    for name in known:
        if name not in cells:
            cells[name] = ""
    paths = [*channels, "mask", *(f"{channel}_transform" for channel in channels), *OBSERVERS]
    for line, (index, row) in zip(lines, cells.iterrows(), strict=True):
        problems += [f"{line}: {text}" for text in _row_problems(row, channels)]
        for name in paths:
            if not row[name]:
                continue
            path = base / Path(row[name]).expanduser()
            cells.loc[index, name] = str(path)
            if not path.is_file():
                problems.append(f"{line}: case {row['case']}: {name}: there is no file {path}; correct the path.")
                cells.loc[index, name] = ""
    problems += duplicates(cells["case"].tolist(), lines)
    for name in ("role", "fold"):
        given = int((cells[name] != "").sum())
        if 0 < given < len(cells):
            problems.append(f"column {name}: given for {given} of {len(cells)} cases; give it for all or for none.")
    cells["site"] = cells["site"].replace("", "unknown")
    cells["fold"] = cells["fold"].where(cells["fold"].str.fullmatch(r"\d+"), "")
    table = as_table(cells, channels)
    raise_all(str(csv_path), problems, table)
    return table


def _column_problems(columns: list[str], required: list[str], optional: list[str]) -> list[str]:
    problems = []
    foreign = [name for name in columns if name not in (*required, *optional)]
    for name in required:
        if name not in columns:
            near = difflib.get_close_matches(name.lower(), [other.lower() for other in foreign], n=1)
            found = next((other for other in foreign if near and other.lower() == near[0]), None)
            remedy = f"rename {found!r}" if found else f"add it (there are: {', '.join(columns)})"
            problems.append(f"column {name!r} is missing; {remedy}.")
    for name in foreign:
        # A misspelt optional column would otherwise be ignored without a word.
        near = difflib.get_close_matches(name.lower(), [other.lower() for other in optional], n=1, cutoff=0.8)
        if near:
            meant = next(other for other in optional if other.lower() == near[0])
            problems.append(f"column {name!r} is not known; rename it to {meant!r}.")
        # pandas calls the second of two columns `mask.1`.
        if name.endswith(".1") and name[:-2] in (*required, *optional):
            problems.append(f"column {name[:-2]!r} is there twice; remove one.")
    return problems


def _row_problems(row: pd.Series, channels: Sequence[str]) -> list[str]:
    name = row["case"]
    problems = name_problems(name) if name else ["the case has no name; name it."]
    problems += [f"case {name}: no path under {column}; enter one." for column in (*channels, "mask") if not row[column]]
    if row[f"{channels[0]}_transform"]:
        problems.append(f"case {name}: {channels[0]} defines the grid and takes no transform; give it to the others.")
    if row["role"] and row["role"] not in ROLES:
        near = difflib.get_close_matches(row["role"], ROLES, n=1)
        problems.append(f"case {name}: unknown role {row['role']!r}; use {near[0] if near else ', '.join(ROLES)}.")
    if row["role"] and row["fold"]:
        problems.append(f"case {name}: has a role and a fold; remove one of them.")
    if row["fold"] and not re.fullmatch(r"\d+", row["fold"]):
        problems.append(f"case {name}: fold {row['fold']!r} is no number of a fold; count them 0, 1, 2, ...")
    return problems
