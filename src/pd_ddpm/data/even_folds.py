"""Even folds of patients: those of a data set, and those of the training cases of one split."""

from pathlib import Path

import numpy as np
import pandas as pd

from pd_ddpm.runtime.problem import Problem, ProblemError
from pd_ddpm.runtime.sealed_tables import read_sealed_csv


def assign_folds(cases: pd.DataFrame, folds: int, seed: int, stratify: bool) -> np.ndarray:
    """Return the fold of each case. Folds differ by at most one patient, overall and, if stratified, per site.

    Args:
        cases: sorted rows with `case`, `patient` and `site`. The site of a patient is that of its first case.
        folds: number of folds.
        seed: of the shuffling.
        stratify: whether to assign patients site by site.

    Returns:
        (len(cases),) integers from 0.
    """
    patients = cases.drop_duplicates("patient", ignore_index=True)
    generator = np.random.default_rng(seed)
    groups = patients.groupby("site").indices.values() if stratify else [np.arange(len(patients))]
    # The assignment continues from site to site, so the folds stay even both overall and within each site.
    shuffled = np.concatenate([generator.permutation(group) for group in groups])
    numbers = pd.Series(np.arange(len(patients)) % folds, index=patients["patient"].to_numpy()[shuffled])
    return numbers[cases["patient"]].to_numpy()


def cases_of_inner_fold(csv_path: Path, split: int, inner_fold: str) -> list[str]:
    """Return a part of the training cases of a split. The parts are disjoint, and no patient is in two of them.

    Args:
        csv_path: table of the splits.
        split: number of the split.
        inner_fold: number of the part and number of parts, such as "1-of-3".

    Raises:
        ProblemError: there are more parts than patients.
    """
    index, count = map(int, inner_fold.split("-of-"))
    table = read_sealed_csv(csv_path)
    cases = table[(table["split"] == split) & (table["role"] == "train")].sort_values("case", ignore_index=True)
    if (patients := cases["patient"].nunique()) < count:
        problem = f"split {split} has {patients} patients for training, too few for {count} inner folds"
        raise ProblemError(Problem(csv_path, problem, "Reduce `inner_folds`"))
    return cases.loc[assign_folds(cases, count, seed=0, stratify=True) == index - 1, "case"].tolist()
