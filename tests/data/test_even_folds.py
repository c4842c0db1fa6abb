"""Inner folds of the training cases: disjoint, complete, even, and never two parts with one patient (below 1 s)."""

from pathlib import Path

import pandas as pd
import pytest

from pd_ddpm.data.even_folds import cases_of_inner_fold
from pd_ddpm.data.splits import make_splits
from pd_ddpm.runtime.problem import ProblemError

PATIENTS, SESSIONS = 21, 2


def write_splits(folder: Path, shuffle: bool = False) -> Path:
    """Write splits of patients at three sites, of whom every second has two sessions."""
    names = [(f"p{number:02d}", session) for number in range(PATIENTS) for session in range(1 + number % SESSIONS)]
    cases = pd.DataFrame(
        [(f"{patient}-{session}", patient, "ABC"[int(patient[1:]) % 3]) for patient, session in names],
        columns=["case", "patient", "site"],
    )
    table = make_splits(cases, 5, 0, True, [0, 1])
    path = folder / "splits.csv"
    (table.sample(frac=1, random_state=1) if shuffle else table).to_csv(path, index=False)
    return path


@pytest.mark.parametrize("count", [2, 3, 4])
def test_cases_of_inner_fold_partition_the_training_cases_of_the_split_by_patient(tmp_path: Path, count: int) -> None:
    path = write_splits(tmp_path)
    table = pd.read_csv(path)
    training = table[(table["split"] == 1) & (table["role"] == "train")].set_index("case")
    parts = [cases_of_inner_fold(path, 1, f"{index}-of-{count}") for index in range(1, count + 1)]
    assert sorted(case for part in parts for case in part) == sorted(training.index)
    patients = [set(training.loc[part, "patient"]) for part in parts]
    assert sum(map(len, patients)) == training["patient"].nunique()
    for site, rows in training.groupby("site"):
        sizes = [len(part & set(rows["patient"])) for part in patients]
        assert max(sizes) - min(sizes) <= 1, site


def test_cases_of_inner_fold_do_not_depend_on_the_order_of_the_rows(tmp_path: Path) -> None:
    expected = cases_of_inner_fold(write_splits(tmp_path), 0, "2-of-3")
    assert sorted(cases_of_inner_fold(write_splits(tmp_path, shuffle=True), 0, "2-of-3")) == sorted(expected)


def test_cases_of_inner_fold_refuse_more_folds_than_patients(tmp_path: Path) -> None:
    with pytest.raises(ProblemError, match=r"split 0 has 1\d patients for training, too few for 40 .*Reduce `inner_folds`"):
        cases_of_inner_fold(write_splits(tmp_path), 0, "1-of-40")
