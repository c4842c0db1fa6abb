"""Who is trained on, who is validated on, who is tested: always over patients, never over slices or scans of one patient."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from pd_ddpm.data.cases.table import ROLES

COLUMNS = ["split", "role", "case", "site", "fold", "patient"]


def make_splits(
    cases: pd.DataFrame, folds: int = 5, seed: int = 0, stratify: bool = True, splits: Sequence[int] = (0,)
) -> pd.DataFrame:
    """Assign a role to every case in every split; one row per split and case.

    In split i, fold i is tested, fold (i + 1) mod `folds` validates and the rest trains: with five folds three train,
    one validates and one is tested (Guo et al. 2022, experiments). Patients, with all of their cases, are shuffled with
    `seed` and dealt out, site by site if `stratify`, so that the folds differ by at most one patient, overall and per site;
    the site is that of the patient's first case. The order of the rows in `cases` does not matter. A case whose column
    `patient` is empty is a patient of its own. A column `fold` or `role` that is filled in replaces the shuffling; roles
    make the one split 0.

    Raises ValueError if there are too few patients, or if folds or roles in the table do not make valid splits.
    """
    cases = _with_patients(cases)
    if cases["case"].duplicated().any():
        twice = sorted(set(cases.loc[cases["case"].duplicated(), "case"]))
        raise ValueError(f"cases: {', '.join(twice)} occur more than once; every case needs a name of its own.")
    if not len(splits) or len(set(splits)) != len(splits):
        raise ValueError(f"splits: {list(splits)} must name at least one split, and none twice.")
    roles = _column(cases, "role")
    if roles.any():
        table = _from_roles(cases, roles, splits)
    else:
        table = _from_folds(cases, _folds(cases, folds, seed, stratify), folds, splits)
    check_no_leakage(table)
    return table


def make_test_only_splits(cases: pd.DataFrame, splits: Sequence[int]) -> pd.DataFrame:
    """The table of splits of cases that are only tested, in every split: those whose networks are another data set's."""
    return _sorted(pd.concat(_with_patients(cases).assign(split=split, role="test", fold=pd.NA) for split in splits))


def cases_by_role(csv_path: str | Path, split: int) -> dict[str, list[str]]:
    """Read one split of a written table of splits: role -> names of its cases.

    Raises:
        ValueError: the table does not have this split.
    """
    table = pd.read_csv(csv_path, dtype={"case": str})
    if split not in set(table["split"]):
        raise ValueError(
            f"{csv_path}: has no split {split}, only {sorted(set(table['split']))}, since roles in a table of cases make the "
            "one split 0. Set `splits` to [0]."
        )
    return table[table["split"] == split].groupby("role")["case"].apply(list).to_dict()


def check_no_leakage(splits: pd.DataFrame) -> None:
    """Raise ValueError unless every case has exactly one role in every split, and each split can train and test.

    So has every patient; a table without the column `patient` has as many patients as cases.
    """
    everyone = set(splits["case"])
    for split, rows in splits.groupby("split"):
        if unknown := sorted(set(rows["role"]) - set(ROLES)):
            raise ValueError(f"split {split}: unknown role {', '.join(map(str, unknown))}; use {', '.join(ROLES)}.")
        repeated = rows.loc[rows["case"].duplicated(keep=False)].groupby("case")["role"].agg(", ".join)
        if len(repeated):
            listed = "; ".join(f"{case} ({roles})" for case, roles in repeated.items())
            raise ValueError(f"split {split}: cases with more than one role: {listed}; give each exactly one.")
        if "patient" in rows:
            _check_patients(split, rows)
        if missing := sorted(everyone - set(rows["case"])):
            raise ValueError(f"split {split}: cases without a role: {', '.join(missing)}; give each exactly one.")
        if empty := [role for role in ("train", "test") if role not in set(rows["role"])]:
            raise ValueError(f"split {split}: no case has the role {' or '.join(empty)}; assign at least one.")


def _with_patients(cases: pd.DataFrame) -> pd.DataFrame:
    """The cases by name, each with a patient."""
    given = _column(cases, "patient")
    named = cases.assign(patient=cases["patient"].where(given, cases["case"]) if given.any() else cases["case"])
    return named.sort_values("case", ignore_index=True)


def _check_patients(split: int, rows: pd.DataFrame) -> None:
    """Raise ValueError if cases of one patient have different roles."""
    leaking = rows[rows.groupby("patient")["role"].transform("nunique") > 1].sort_values("case")
    if len(leaking):
        listed = "; ".join(
            f"{patient} ({', '.join(f'{case} {role}' for case, role in zip(of_one['case'], of_one['role'], strict=True))})"
            for patient, of_one in leaking.groupby("patient")
        )
        raise ValueError(
            f"split {split}: patients with more than one role, which would leak between training and test: {listed}; give all "
            "cases of a patient the same fold or role."
        )


def _column(cases: pd.DataFrame, name: str) -> pd.Series:
    return cases[name].replace("", None).notna() if name in cases else pd.Series(False, index=cases.index)


def _from_roles(cases: pd.DataFrame, given: pd.Series, splits: Sequence[int]) -> pd.DataFrame:
    if not given.all():
        raise ValueError(f"role: missing for {', '.join(cases.loc[~given, 'case'])}; give one to all cases or to none.")
    if _column(cases, "fold").any():
        raise ValueError("fold: the table has roles and folds; remove one of the two columns.")
    if list(splits) != [0]:
        raise ValueError(f"splits: {list(splits)} asked for, but roles in the table make one split only; set splits: [0].")
    table = cases[["role", "case", "site", "patient"]].assign(split=0, fold=pd.array([pd.NA] * len(cases), dtype="Int64"))
    return _sorted(table)


def _folds(cases: pd.DataFrame, folds: int, seed: int, stratify: bool) -> np.ndarray:
    if folds < 3:
        raise ValueError(f"folds: {folds}, but training, validation and test need three or more.")
    given = _column(cases, "fold")
    if given.any():
        if not given.all():
            raise ValueError(f"fold: missing for {', '.join(cases.loc[~given, 'case'])}; give one to all cases or to none.")
        numbers = cases["fold"].astype(int).to_numpy()
        if sorted(set(numbers)) != list(range(folds)):
            raise ValueError(
                f"fold: the table has the folds {sorted(set(numbers.tolist()))}, but folds: {folds} means 0 to "
                f"{folds - 1}, none empty; correct the table or the key."
            )
        return numbers
    patients = cases.drop_duplicates("patient", ignore_index=True)
    if len(patients) < folds:
        raise ValueError(
            f"folds: {folds} folds need at least {folds} patients, but there are {len(patients)}; use fewer folds."
        )
    generator = np.random.default_rng(seed)
    groups = patients.groupby("site").indices.values() if stratify else [np.arange(len(patients))]
    # Dealing goes on from site to site without a break: that keeps the folds even both overall and within each site.
    dealt = np.concatenate([generator.permutation(group) for group in groups])
    numbers = pd.Series(np.arange(len(patients)) % folds, index=patients["patient"].to_numpy()[dealt])
    return numbers[cases["patient"]].to_numpy()


def _from_folds(cases: pd.DataFrame, numbers: np.ndarray, folds: int, splits: Sequence[int]) -> pd.DataFrame:
    if wrong := [split for split in splits if split not in range(folds)]:
        raise ValueError(f"splits: {wrong} asked for, but with {folds} folds there are the splits 0 to {folds - 1}.")
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
