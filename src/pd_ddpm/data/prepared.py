"""Read prepared cases and their roles. The ground truth has a reader of its own, which no sampler calls."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pd_ddpm.data.nifti.read import LABELS, read_array, read_image, read_labels
from pd_ddpm.data.scan import Scan
from pd_ddpm.runtime.problem import Problem, ProblemError
from pd_ddpm.runtime.sealed_tables import read_sealed_csv


def read_scan(folder: Path, case: str) -> Scan:
    """Read image and brain mask of a case from the folder of prepared cases."""
    image = read_image(folder / f"{case}_image.nii.gz", allow_4d=True)
    array = np.asarray(image.dataobj, dtype=np.float32)
    array = array[..., None] if array.ndim == 3 else array
    return Scan(case, array, read_array(folder / f"{case}_brain.nii.gz", mask=True) > 0, image)


def read_ground_truth(folder: Path, case: str, labels: Sequence[int] = ()) -> np.ndarray:
    """Read the label map (X, Y, Z) uint8 of a case.

    Args:
        folder: folder of the prepared cases.
        case: name of the case.
        labels: labels of the classes. Without them, 0 is background, 1 lesion and 2 other pathology.
    """
    return _read_label_map(folder / f"{case}_mask.nii.gz", labels)


def read_observer_masks(folder: Path, case: str, labels: Sequence[int] = ()) -> list[np.ndarray]:
    """Read the label maps of the second and further observers of a case, if there are any. See `read_ground_truth`."""
    return [_read_label_map(path, labels) for path in sorted(folder.glob(f"{case}_observer-*.nii.gz"))]


def _read_label_map(path: Path, labels: Sequence[int]) -> np.ndarray:
    return read_labels(path, {label: label for label in (0, *labels)} if labels else LABELS)[0]


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
