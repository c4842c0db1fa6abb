"""The predictions of one method, case by case: written whole, and taken up again by a job that was killed."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from pd_ddpm.ensemble import ensemble_mask, uncertainty
from pd_ddpm.files import finished_row, write_record
from pd_ddpm.images import PROBABILITY_SLOPE, read_array, write_image


@dataclass(frozen=True)
class PredictionFolder:
    """A folder of predictions; `stamp` is a hash of all that they depend on, apart from the case."""

    folder: Path
    stamp: str

    def finished(self, case: str) -> dict[str, Any] | None:
        """The record of a case that is already here, whole and under the same stamp."""
        return finished_row(self.folder / f"{case}.json", self.stamp)

    def write(self, case: str, samples: np.ndarray, template: nib.Nifti1Image, cost: dict[str, float]) -> dict[str, Any]:
        """Write the members (X, Y, Z, K), their ensemble's mask and their variance, then the record; returns the record.

        Members are stored in steps of 1/255; mask and variance are those of the stored members.
        """
        (self.folder / f"{case}.json").unlink(missing_ok=True)
        names = {part: f"{case}_{part}.nii.gz" for part in ("samples", "mask", "uncertainty")}
        stored = np.round(samples * 255).astype(np.float32) * np.float32(PROBABILITY_SLOPE)
        write_image(self.folder / names["samples"], stored, template, np.uint8, PROBABILITY_SLOPE)
        write_image(self.folder / names["mask"], ensemble_mask(stored), template, np.uint8)
        write_image(self.folder / names["uncertainty"], uncertainty(stored), template)
        record = {"case": case, "samples": samples.shape[-1], **cost, "stamp": self.stamp}
        write_record(self.folder / f"{case}.json", self.stamp, names.values(), record)
        return record


def read_probability(folder: Path, case: str) -> np.ndarray:
    """The mean of a case's members, (X, Y, Z) in [0, 1]."""
    samples = read_array(folder / f"{case}_samples.nii.gz", mask=True, allow_4d=True)
    return samples.reshape(*samples.shape[:3], -1).mean(axis=-1)
