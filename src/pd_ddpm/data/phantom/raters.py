"""Raters: how two people outline the same lesions differently."""

import numpy as np
from scipy.ndimage import label

from pd_ddpm.data.phantom.fields import Lattice, random_field

# Standard deviations of a rater's threshold on the lesion fraction: along the border, per case, per slice. Ours.
BORDER_SD, CASE_SD, SLICE_SD = 0.12, 0.055, 0.045
# Lesions below this volume are missed with this probability. Ours.
SMALL_LESION_MM3, MISS_PROBABILITY = 70.0, 0.17
# Nobody outlines less than this share of the smallest lesion: it is what a scan leaves of a lesion between its slices. Ours.
SMALLEST_OUTLINE_SHARE = 0.25


def outline(
    lesion: np.ndarray,
    infarct: np.ndarray,
    spacing: tuple[float, float, float],
    smallest_ml: float,
    random: np.random.Generator,
) -> np.ndarray:
    """Simulate one rater's outlines, slice by slice.

    The border follows a lesion fraction of one half, with random deviations along the border and a bias per case and per
    slice. Some small lesions are missed, and fragments are not outlined.

    Args:
        lesion: (X, Y, Z), visible lesion fraction of each voxel in [0, 1].
        infarct: (X, Y, Z), fraction of other pathology.
        spacing: voxel size in mm.
        smallest_ml: volume of the smallest lesion.
        random: random stream of this rater.

    Returns:
        Labels (X, Y, Z) uint8: 1 lesion, 2 other pathology.
    """
    grid = Lattice(lesion.shape, (0.0, 0.0, 0.0), spacing)
    border = random_field(random, grid, (3.2, 3.2, 0))
    bias = CASE_SD * random.standard_normal() + SLICE_SD * random.standard_normal(lesion.shape[2])
    threshold = np.clip(0.5 + BORDER_SD * border + bias, 0.15, 0.85).astype(np.float32)
    outlined = lesion > threshold
    components, count = label(outlined, np.ones((3, 3, 3)))
    volumes = np.bincount(components.ravel(), minlength=count + 1) * np.prod(spacing)
    is_noticed = (volumes >= SMALL_LESION_MM3) | (random.random(count + 1) >= MISS_PROBABILITY)
    is_noticed &= volumes >= SMALLEST_OUTLINE_SHARE * smallest_ml * 1e3
    is_noticed[0] = False
    labels = is_noticed[components].astype(np.uint8)
    labels[infarct > np.maximum(threshold, 0.3)] = 2
    return labels
