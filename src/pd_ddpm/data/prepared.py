"""Prepared cases as arrays. What is known of the truth is read by a function of its own, which no sampler calls."""

from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd

from pd_ddpm.data.nifti.geometry import spacing_mm
from pd_ddpm.data.nifti.read import read_array, read_image, read_labels


@dataclass(frozen=True)
class Scan:
    """image: (X, Y, Z, M) float32, normalised; brain: (X, Y, Z) bool; template: the image whose grid it has."""

    case: str
    image: np.ndarray
    brain: np.ndarray
    template: nib.Nifti1Image

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        return spacing_mm(self.template)


def read_scan(folder: Path, case: str) -> Scan:
    """The image and the brain mask of a case in the folder of prepared cases."""
    image = read_image(folder / f"{case}_image.nii.gz", allow_4d=True)
    array = np.asarray(image.dataobj, dtype=np.float32)
    array = array[..., None] if array.ndim == 3 else array
    return Scan(case, array, read_array(folder / f"{case}_brain.nii.gz", mask=True) > 0, image)


def read_truth(folder: Path, case: str) -> np.ndarray:
    """The labels (X, Y, Z) uint8 of a case: 0 background, 1 lesion, 2 other pathology."""
    return read_labels(folder / f"{case}_mask.nii.gz")[0]


def read_further_raters(folder: Path, case: str) -> list[np.ndarray]:
    """The labels (X, Y, Z) uint8 of a case's second and further raters; empty where the reference is the only one."""
    return [read_labels(path)[0] for path in sorted(folder.glob(f"{case}_observer-*.nii.gz"))]


def cases_of_split(csv_path: str | Path, split: int) -> dict[str, list[str]]:
    """Role -> cases of one split of a written table of splits; raises ValueError if it has no such split."""
    table = pd.read_csv(csv_path, dtype={"case": str})
    if split not in set(table["split"]):
        raise ValueError(
            f"{csv_path} has no split {split}, only {sorted(set(table['split']))}: roles in a case table make the one split 0; "
            "set the config key splits to [0]."
        )
    return table[table["split"] == split].groupby("role")["case"].apply(list).to_dict()
