"""Read cases from a user's csv file."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from pd_ddpm.data.cases.table import (
    MISSING_VALUES,
    OBSERVERS,
    ROLES,
    CohortError,
    complete_table,
    duplicate_problems,
    name_problems,
    raise_problems,
    read_cells,
    table_columns,
)
from pd_ddpm.runtime.missing_file import missing_file_problem
from pd_ddpm.runtime.problem import Problem

# What people call the column of the lesion masks.
_MASK_NAMES = {
    *("lesion", "lesions", "lesionmask", "masks", "label", "labels", "seg", "segmentation", "groundtruth", "gt", "truth"),
    *("wmh", "wmhmask", "roi", "annotation", "manual", "target"),
}


def channels_of_table(csv_path: str | Path) -> list[str]:
    """Return the columns of a user's table that name NIfTI images other than masks, in their order.

    Raises:
        CohortError: the masks have another column than `mask`, or a channel cannot have the name of its column.
    """
    cells = read_cells(Path(csv_path))
    images = [name for name in cells.columns if cells[name].str.lower().str.endswith((".nii", ".nii.gz")).any()]
    channels = [name for name in images if name != "mask" and not name.startswith("observer")]
    problems = _mask_problems(list(cells.columns))
    problems += [
        Problem("", f"column {name!r} holds images, but names of channels have letters and digits only", "Rename it")
        for name in channels
        if not re.fullmatch("[A-Za-z0-9]+", name)
    ]
    raise_problems(str(csv_path), problems)
    return channels


def read_case_table(
    csv_path: str | Path, channels: Sequence[str], folder: str | Path | None = None, with_masks: bool = True
) -> pd.DataFrame:
    """Read a user's table of cases and check all of it before anything is computed.

    Required columns are case, site, mask and one per channel. Optional ones are patient, role, fold, `<channel>_transform`,
    observer_2 and observer_3. Other columns are ignored. A case without a site gets the site "unknown". A case without a
    patient is the only case of its patient. A cell that holds NA or the like is empty, since R writes missing values so.

    Args:
        csv_path: text with a header, whose cells are separated by commas, semicolons or tabs.
        channels: names of the channels; the first defines the grid.
        folder: where relative paths start; None is the folder of the csv.
        with_masks: whether cases need masks and sites; if not, the columns mask and site are optional, and masks are not read.

    Returns:
        The case table, with all columns.

    Raises:
        CohortError: the table is not usable. It lists every problem with its line.
    """
    csv_path = Path(csv_path)
    base = csv_path.parent if folder is None else Path(folder)
    cells = read_cells(csv_path)
    if not with_masks:
        cells = cells.drop(columns=[name for name in ("mask", *OBSERVERS) if name in cells])
    required = ["case", "site", *channels, "mask"] if with_masks else ["case", *channels]
    known = table_columns(channels)
    optional = [name for name in known if name not in required]
    problems = _column_problems(list(cells.columns), required, optional, with_masks)
    raise_problems(str(csv_path), problems)
    if cells.empty:
        raise CohortError(Problem(csv_path, "the table has no cases", "Add one line per case"))

    lines = [f"line {number + 2}" for number in cells.index]
    for name in known:
        if name not in cells:
            cells[name] = ""
        elif name != "case":
            cells[name] = cells[name].where(~cells[name].isin(MISSING_VALUES), "")
    paths = [*channels, "mask", *(f"{channel}_transform" for channel in channels), *OBSERVERS]
    for line, (index, row) in zip(lines, cells.iterrows(), strict=True):
        needed = (*channels, "mask") if with_masks else channels
        problems += [problem.within(line) for problem in _row_problems(row, channels, needed)]
        for name in paths:
            if not row[name]:
                continue
            path = base / Path(row[name]).expanduser()
            cells.loc[index, name] = str(path)
            if not path.is_file():
                problem = missing_file_problem(path, "Correct the path")
                problems.append(problem.within(f"{line}, case {row['case']}, column {name}"))
                cells.loc[index, name] = ""
    problems += duplicate_problems(cells["case"].tolist(), lines)
    for name in ("role", "fold"):
        count = int((cells[name] != "").sum())
        if 0 < count < len(cells):
            problem = f"it is filled in for {count} of {len(cells)} cases"
            problems.append(Problem(f"column {name}", problem, "Fill it in for all cases or for none"))
    cells["site"] = cells["site"].replace("", "unknown")
    cells["fold"] = cells["fold"].where(cells["fold"].str.fullmatch(r"\d+"), "")
    table = complete_table(cells, channels)
    raise_problems(str(csv_path), problems, table)
    return table


def missing_sites(csv_path: str | Path) -> list[str]:
    """Return the cases of a user's table whose site is NA or the like, which is read as unknown."""
    cells = read_cells(Path(csv_path))
    return cells.loc[cells["site"].isin(MISSING_VALUES), "case"].tolist()


def _column_problems(columns: list[str], required: list[str], optional: list[str], with_masks: bool) -> list[Problem]:
    foreign = [name for name in columns if name not in (*required, *optional)]
    problems = _mask_problems(columns) if with_masks else []
    for name in required:
        if name not in columns and not (name == "mask" and problems):
            similar = _similar(name, foreign)
            remedy = f"Rename {similar!r}" if similar else f"Add it (the columns are: {', '.join(columns)})"
            problems.append(Problem("", f"column {name!r} is missing", remedy))
    for name in foreign:
        # Without this check, a misspelt optional column would be ignored silently.
        if meant := _similar(name, optional, cutoff=0.8):
            problems.append(Problem("", f"column {name!r} is not known", f"Rename it to {meant!r}"))
        # pandas calls the second of two columns `mask.1`.
        if name.endswith(".1") and name[:-2] in (*required, *optional):
            problems.append(Problem("", f"column {name[:-2]!r} occurs twice", "Remove one of them"))
    return problems


def _mask_problems(columns: list[str]) -> list[Problem]:
    """Return a problem if the column of the masks is missing, and another one seems to hold them."""
    candidates = [name for name in columns if re.sub("[^a-z]", "", name.lower()) in _MASK_NAMES]
    if "mask" in columns or not candidates:
        return []
    return [Problem("", f"column 'mask' is missing, and {candidates[0]!r} seems to hold the masks", "Rename it to 'mask'")]


def _similar(name: str, candidates: Sequence[str], cutoff: float = 0.6) -> str | None:
    """Return the candidate that is most similar to a name, ignoring case, or None."""
    similar = difflib.get_close_matches(name.lower(), [candidate.lower() for candidate in candidates], n=1, cutoff=cutoff)
    return next((candidate for candidate in candidates if similar and candidate.lower() == similar[0]), None)


def _row_problems(row: pd.Series, channels: Sequence[str], needed: Sequence[str]) -> list[Problem]:
    name = row["case"]
    location = f"case {name}"
    problems = name_problems(name) if name else [Problem("", "the case has no name", "Enter a name")]
    problems += [Problem(location, f"there is no path in column {column}", "Enter one") for column in needed if not row[column]]
    if row[f"{channels[0]}_transform"]:
        problem = f"{channels[0]} defines the grid, so it must have no transform"
        problems.append(Problem(location, problem, "Move the transform to the other channels"))
    if row["role"] and row["role"] not in ROLES:
        similar = difflib.get_close_matches(row["role"], ROLES, n=1)
        remedy = f"Use {similar[0] if similar else ', '.join(ROLES)}"
        problems.append(Problem(location, f"unknown role {row['role']!r}", remedy))
    if row["role"] and row["fold"]:
        problems.append(Problem(location, "has both a role and a fold", "Remove one of them"))
    if row["fold"] and not re.fullmatch(r"\d+", row["fold"]):
        problems.append(Problem(location, f"fold {row['fold']!r} is not a number", "Number the folds 0, 1, 2, ..."))
    return problems
