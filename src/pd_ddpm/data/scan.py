"""A preprocessed scan: what the networks see of a case."""

from dataclasses import dataclass

import nibabel as nib
import numpy as np

from pd_ddpm.data.nifti.geometry import spacing_mm


@dataclass(frozen=True)
class Scan:
    """The normalised channels of a case, its brain mask and its grid.

    Attributes:
        case: name of the case.
        image: (X, Y, Z, M) float32, normalised.
        brain: (X, Y, Z) bool.
        reference: image whose grid `image` and `brain` have.
    """

    case: str
    image: np.ndarray
    brain: np.ndarray
    reference: nib.Nifti1Image

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel size in mm along X, Y and Z."""
        return spacing_mm(self.reference)
