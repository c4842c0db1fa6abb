"""How two people would outline the same lesions."""

import numpy as np
from scipy.ndimage import label

from pd_ddpm.data.phantom.fields import Lattice, random_field

# Standard deviations of what makes one rater's border differ from another's, as fractions of the lesion signal.
BORDER_NOISE, CASE_BIAS, SLICE_BIAS = 0.12, 0.055, 0.045
SMALL_LESION_MM3, MISSED_SHARE = 70.0, 0.17


def outline(
    lesion: np.ndarray, infarct: np.ndarray, spacing: tuple[float, float, float], random: np.random.Generator
) -> np.ndarray:
    """Label map (X, Y, Z), uint8, that one rater draws slice by slice: 1 lesion, 2 other pathology.

    `lesion` and `infarct` are visible fractions of each voxel in [0, 1]. The border follows the half-way level with
    a wandering hand, a habit of drawing wide or narrow, and some overlooked small lesions.
    """
    grid = Lattice(lesion.shape, (0.0, 0.0, 0.0), spacing)
    hand = random_field(random, grid, (3.2, 3.2, 0))
    habit = CASE_BIAS * random.standard_normal() + SLICE_BIAS * random.standard_normal(lesion.shape[2])
    threshold = np.clip(0.5 + BORDER_NOISE * hand + habit, 0.15, 0.85).astype(np.float32)
    drawn = lesion > threshold
    components, count = label(drawn, np.ones((3, 3, 3)))
    volumes = np.bincount(components.ravel(), minlength=count + 1) * np.prod(spacing)
    seen = (volumes >= SMALL_LESION_MM3) | (random.random(count + 1) >= MISSED_SHARE)
    seen[0] = False
    labels = seen[components].astype(np.uint8)
    labels[infarct > np.maximum(threshold, 0.3)] = 2
    return labels
