"""Read prepared cases and their roles. The ground truth has a reader of its own, which no sampler calls."""

from pathlib import Path

import numpy as np

from pd_ddpm.data.nifti.read import read_array, read_image, read_labels
from pd_ddpm.data.scan import Scan
from pd_ddpm.runtime.problem import Problem, ProblemError
from pd_ddpm.runtime.sealed_tables import read_sealed_csv


def read_scan(folder: Path, case: str) -> Scan:
    """Read image and brain mask of a case from the folder of prepared cases."""
    image = read_image(folder / f"{case}_image.nii.gz", allow_4d=True)
    array = np.asarray(image.dataobj, dtype=np.float32)
    array = array[..., None] if array.ndim == 3 else array
    return Scan(case, array, read_array(folder / f"{case}_brain.nii.gz", mask=True) > 0, image)


def read_ground_truth(folder: Path, case: str) -> np.ndarray:
    """Read the labels (X, Y, Z) uint8 of a case: 0 background, 1 lesion, 2 other pathology."""
    return read_labels(folder / f"{case}_mask.nii.gz")[0]


def read_observer_masks(folder: Path, case: str) -> list[np.ndarray]:
    """Read the labels (X, Y, Z) uint8 of the second and further observers of a case, if there are any."""
    return [read_labels(path)[0] for path in sorted(folder.glob(f"{case}_observer-*.nii.gz"))]


def cases_by_role(csv_path: str | Path, split: int) -> dict[str, list[str]]:
    """Read one split of a written table of splits: role -> names of its cases.

    Raises:
        ProblemError: the table does not have this split.
    """
    table = read_sealed_csv(csv_path)
    if split not in set(table["split"]):
        problem = (
            f"has no split {split}, only {sorted(set(table['split']))}, since roles in a table of cases make the one split 0"
        )
        raise ProblemError(Problem(csv_path, problem, "Set `splits` to [0]"))
    return table[table["split"] == split].groupby("role")["case"].apply(list).to_dict()
