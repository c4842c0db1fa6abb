"""Label maps of tissues: cerebrospinal fluid, grey matter, white matter and lesions."""

import numpy as np

from pd_ddpm.data.phantom.anatomy import Anatomy
from pd_ddpm.data.phantom.lesions import Lesions

# Labels of the maps; 0 is everything outside of the brain and its fluid.
TISSUES = {"csf": 1, "grey_matter": 2, "white_matter": 3, "lesion": 4}
_HEALTHY, _INFARCT = 0, 2  # labels of a rater's outlines, see `outline`


def tissue_fractions(anatomy: Anatomy, lesions: Lesions) -> list[np.ndarray]:
    """Return the fractions of fluid, grey and white matter, each float32 (X, Y, Z) on the anatomy's lattice.

    The cavity of an infarct is fluid. White matter hyperintensities are white matter here.
    """
    intact = 1 - lesions.infarct
    return [anatomy["fluid"] * intact + lesions.cavity, anatomy["grey"] * intact, anatomy["white"] * intact]


def label_tissues(fractions: list[np.ndarray], outlines: np.ndarray) -> np.ndarray:
    """Return the label map of `TISSUES` that one rater gives.

    A voxel has the label of its largest fraction, unless the rater outlined a lesion there. The scar of an infarct is a
    lesion, and its cavity is fluid.

    Args:
        fractions: fractions of fluid, grey and white matter, each (X, Y, Z) on the grid of the outlines.
        outlines: (X, Y, Z), the rater's labels, see `outline`.

    Returns:
        uint8 (X, Y, Z).
    """
    outside = np.clip(1 - sum(fractions), 0, 1)
    tissue = np.argmax([outside, *fractions], axis=0).astype(np.uint8)
    is_cavity = (outlines == _INFARCT) & (tissue == TISSUES["csf"])
    return np.where((outlines != _HEALTHY) & ~is_cavity, np.uint8(TISSUES["lesion"]), tissue)
