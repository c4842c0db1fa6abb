"""Names of cases that look like several scans of one patient, or like a missing value. Below 1 s."""

import re
from pathlib import Path

import pandas as pd
import pytest

from pd_ddpm.data.check.table import patient_stem, table_problems


def table(*names: str, **columns: object) -> pd.DataFrame:
    fold = pd.array([pd.NA] * len(names), dtype="Int64")
    return pd.DataFrame({"case": names, "patient": "", "site": "s", "role": "", "fold": fold}).assign(**columns)


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("P00_TP1", "P00"),
        ("sub00_tp0", "sub00"),
        ("sub-01_ses-2_run-1", "sub-01"),
        ("sub-02_acq-3D", "sub-02"),
        ("p1_t2", "p1"),
        ("p1-visit2", "p1"),
        ("017ses2", "017"),
        ("a_baseline", "a"),
        ("P1_2020-01-31", "P1"),
        ("WMH_001", "WMH_001"),
        ("Utrecht-19", "Utrecht-19"),
        ("patient07", "patient07"),
        ("tp1", "tp1"),
    ],
)
def test_patient_stem_removes_time_points_and_runs(name: str, stem: str) -> None:
    assert patient_stem(name) == stem


@pytest.mark.parametrize(
    ("names", "groups"),
    [
        (["P00_TP0", "P00_TP1", "P01_TP0", "P01_TP1"], r"4 cases .*\(P00: P00_TP0, P00_TP1; P01: P01_TP0, P01_TP1\)"),
        (["sub-1_ses-1", "sub-1_ses-2", "sub-2", "sub-3"], r"2 cases .*\(sub-1: sub-1_ses-1, sub-1_ses-2\)"),
        (["017_1", "017_2", "018_1", "018_2", "019_1", "020_1"], r"4 cases .*\(017: 017_1, 017_2; 018: "),
        (["p1a", "p1b", "p2a", "p3a", "p4a", "p5a"], r"2 cases .*\(p1: p1a, p1b\)"),
        ([f"p{n}_run-{k}" for n in range(5) for k in range(4)], r"20 cases .*p0_run-2, \.\.\.; .*; 2 more\)"),
    ],
)
def test_table_problems_groups_scans_of_one_patient(names: list[str], groups: str) -> None:
    (problem,) = table_problems(table(*names), {})
    assert re.search(groups, problem.problem), problem
    assert "column `patient` is empty" in problem.problem
    assert table_problems(table(*names, patient="x"), {}) == []


@pytest.mark.parametrize(
    "names",
    [
        ["WMH_001", "WMH_002", "WMH_003"],
        ["p0", "p1", "p2"],
        ["Utrecht-0", "Utrecht-1", "GE3T-100", "GE3T-101"],
        ["scan_01", "scan_02", "scan_03"],
        ["a_t1", "b_t1", "c_t1"],
        ["ms_t_1", "ms_t_2", "ms_t_3"],
    ],
)
def test_table_problems_accepts_numbered_cases(names: list[str]) -> None:
    assert table_problems(table(*names), {}) == []


def test_table_problems_accepts_numbered_cases_of_a_site() -> None:
    names = ["PETMR_01-1", "PETMR_01-2", "b-1", "c-1", "d-1", "e-1"]
    assert len(table_problems(table(*names), {})) == 1
    assert table_problems(table(*names, site=["PETMR_01", "PETMR_01", *"bcde"]), {}) == []


def test_table_problems_accepts_patients_within_one_role_or_fold() -> None:
    names = ["a1_tp1", "a1_tp2", "b1_tp1", "b1_tp2"]
    assert table_problems(table(*names, role=["train", "train", "test", "test"]), {}) == []
    assert table_problems(table(*names, fold=pd.array([0, 0, 1, 1], dtype="Int64")), {}) == []
    (problem,) = table_problems(table(*names, role=["train", "test", "test", "test"]), {})
    assert "(a1: a1_tp1, a1_tp2)" in problem.problem


def test_table_problems_names_what_stands_for_a_missing_value(tmp_path: Path) -> None:
    case, site = table_problems(table("NA", "b", site=["X", "nan"]), {})
    assert case.problem == "a case is called NA, which other programs read as a missing value"
    assert site.problem.startswith("a site is called nan")
    path = tmp_path / "cases.csv"
    path.write_text("case,site,FLAIR,mask\na,NA,f,m\nb,X,f,m\nc,NA,f,m\n")
    (problem,) = table_problems(table("a", "b", "c"), {"layout": "table", "table": str(path)})
    assert (problem.location, problem.problem) == (
        str(path),
        "the site of 2 cases (a, c) is NA or the like, which is read as a missing value",
    )
