"""Assign cases to training, validation and test, always by patient, never by slice or by scan of one patient."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from pd_ddpm.data.cases.table import ROLES
from pd_ddpm.data.even_folds import assign_folds
from pd_ddpm.runtime.problem import Problem, ProblemError

COLUMNS = ["split", "role", "case", "site", "fold", "patient"]


class SplitError(ProblemError):
    """Raised if cases cannot be assigned to training, validation and test."""


def make_splits(
    cases: pd.DataFrame, folds: int = 5, seed: int = 0, stratify: bool = True, splits: Sequence[int] = (0,)
) -> pd.DataFrame:
    """Assign a role to every case in every split.

    In split i, fold i is tested, fold (i + 1) mod `folds` validates, and the rest trains. With five folds, three train, one
    validates and one is tested. Patients are shuffled with all of their cases and then assigned to the folds in turn, site by
    site if `stratify`. Folds therefore differ by at most one patient, overall and per site. The site of a patient is that of
    its first case. The order of the rows in `cases` does not matter.

    Args:
        cases: case table. A case with an empty `patient` is a patient of its own. A filled column `fold` or `role` replaces
            the shuffling. Roles make one split, number 0.
        folds: number of folds, at least three.
        seed: of the shuffling.
        stratify: whether to assign patients site by site.
        splits: numbers of the splits to make.

    Returns:
        One row per split and case, with the columns `COLUMNS`.

    Raises:
        SplitError: there are too few patients, or folds or roles in the table do not make valid splits.

    Reference: Guo et al. 2022, section on experiments (five folds).
    """
    cases = _with_patients(cases)
    if cases["case"].duplicated().any():
        repeated = sorted(set(cases.loc[cases["case"].duplicated(), "case"]))
        raise SplitError(Problem("cases", f"{', '.join(repeated)} occur more than once", "Give every case a unique name"))
    if not len(splits) or len(set(splits)) != len(splits):
        raise SplitError(Problem("`splits`", f"is {list(splits)}", "Name at least one split, and none twice"))
    roles = _column(cases, "role")
    if roles.any():
        table = _from_roles(cases, roles, splits)
    else:
        table = _from_folds(cases, _folds(cases, folds, seed, stratify), folds, splits)
    check_no_leakage(table)
    return table


def make_test_only_splits(cases: pd.DataFrame, splits: Sequence[int]) -> pd.DataFrame:
    """Return a table of splits in which every case is tested in every split, by the networks of another dataset."""
    return _sorted(pd.concat(_with_patients(cases).assign(split=split, role="test", fold=pd.NA) for split in splits))


def check_no_leakage(splits: pd.DataFrame) -> None:
    """Check that every case and every patient has exactly one role in every split, and that each split can train and test.

    A table without the column `patient` has as many patients as cases.

    Raises:
        SplitError: a role is missing, repeated or unknown.
    """
    all_cases = set(splits["case"])
    for split, rows in splits.groupby("split"):
        location = f"split {split}"
        if unknown := sorted(set(rows["role"]) - set(ROLES)):
            problem = f"unknown role {', '.join(map(str, unknown))}"
            raise SplitError(Problem(location, problem, f"Use {', '.join(ROLES)}"))
        repeated = rows.loc[rows["case"].duplicated(keep=False)].groupby("case")["role"].agg(", ".join)
        if len(repeated):
            listed = "; ".join(f"{case} ({roles})" for case, roles in repeated.items())
            raise SplitError(Problem(location, f"cases with more than one role: {listed}", "Give each exactly one"))
        if "patient" in rows:
            _check_patients(location, rows)
        if missing := sorted(all_cases - set(rows["case"])):
            raise SplitError(Problem(location, f"cases without a role: {', '.join(missing)}", "Give each exactly one"))
        if unused := [role for role in ("train", "test") if role not in set(rows["role"])]:
            raise SplitError(Problem(location, f"no case has the role {' or '.join(unused)}", "Assign at least one"))


def _with_patients(cases: pd.DataFrame) -> pd.DataFrame:
    """Return the cases sorted by name, each with a patient."""
    filled = _column(cases, "patient")
    patients = cases["patient"].where(filled, cases["case"]) if filled.any() else cases["case"]
    return cases.assign(patient=patients).sort_values("case", ignore_index=True)


def _check_patients(location: str, rows: pd.DataFrame) -> None:
    """Check that all cases of a patient have the same role."""
    leaking = rows[rows.groupby("patient")["role"].transform("nunique") > 1].sort_values("case")
    if len(leaking):
        listed = []
        for patient, of_patient in leaking.groupby("patient"):
            roles = [f"{case} {role}" for case, role in zip(of_patient["case"], of_patient["role"], strict=True)]
            listed.append(f"{patient} ({', '.join(roles)})")
        raise SplitError(
            Problem(
                location,
                f"patients with more than one role, which would leak between training and test: {'; '.join(listed)}",
                "Give all cases of a patient the same fold or role",
            )
        )


def _column(cases: pd.DataFrame, name: str) -> pd.Series:
    """Return which cells of a column are filled, as booleans; none if there is no such column."""
    return cases[name].replace("", None).notna() if name in cases else pd.Series(False, index=cases.index)


def _from_roles(cases: pd.DataFrame, filled: pd.Series, splits: Sequence[int]) -> pd.DataFrame:
    _check_all_filled(cases, "role", filled)
    if _column(cases, "fold").any():
        raise SplitError(Problem("column fold", "the table has both roles and folds", "Remove one of the two columns"))
    if list(splits) != [0]:
        problem = f"is {list(splits)}, but roles in the table make one split only"
        raise SplitError(Problem("`splits`", problem, "Set it to [0]"))
    table = cases[["role", "case", "site", "patient"]].assign(split=0, fold=pd.array([pd.NA] * len(cases), dtype="Int64"))
    return _sorted(table)


def _check_all_filled(cases: pd.DataFrame, column: str, filled: pd.Series) -> None:
    if not filled.all():
        missing = ", ".join(cases.loc[~filled, "case"])
        raise SplitError(Problem(f"column {column}", f"it is empty for {missing}", "Fill it in for all cases or for none"))


def _folds(cases: pd.DataFrame, folds: int, seed: int, stratify: bool) -> np.ndarray:
    if folds < 3:
        problem = f"is {folds}, but training, validation and test need three folds"
        raise SplitError(Problem("`folds.count`", problem, "Set it to 3 or more"))
    filled = _column(cases, "fold")
    if filled.any():
        _check_all_filled(cases, "fold", filled)
        numbers = cases["fold"].astype(int).to_numpy()
        if sorted(set(numbers)) != list(range(folds)):
            problem = (
                f"the table has the folds {sorted(set(numbers.tolist()))}, but `folds.count` is {folds}, so each of 0 to "
                f"{folds - 1} must occur"
            )
            raise SplitError(Problem("column fold", problem, "Correct the table or the key"))
        return numbers
    if (patients := cases["patient"].nunique()) < folds:
        problem = f"{folds} folds need at least {folds} patients, but there are {patients}"
        raise SplitError(Problem("`folds.count`", problem, "Use fewer folds"))
    return assign_folds(cases, folds, seed, stratify)


def _from_folds(cases: pd.DataFrame, numbers: np.ndarray, folds: int, splits: Sequence[int]) -> pd.DataFrame:
    if unknown := [split for split in splits if split not in range(folds)]:
        problem = f"contains {unknown}, but {folds} folds make the splits 0 to {folds - 1}"
        raise SplitError(Problem("`splits`", problem, "Choose among them"))
    tables = []
    for split in splits:
        roles = np.full(len(cases), "train", dtype=object)
        roles[numbers == (split + 1) % folds] = "validation"
        roles[numbers == split] = "test"
        fold = pd.array(numbers, dtype="Int64")
        tables.append(cases[["case", "site", "patient"]].assign(split=split, role=roles, fold=fold))
    return _sorted(pd.concat(tables))


def _sorted(table: pd.DataFrame) -> pd.DataFrame:
    order = {role: number for number, role in enumerate(ROLES)}
    return table.sort_values(
        ["split", "role", "case"], key=lambda column: column.map(order) if column.name == "role" else column
    )[COLUMNS].reset_index(drop=True)
