"""Find out whether a scan was skull-stripped: then nothing lies around its brain."""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

SHELL_MM = (3.0, 15.0)  # distances from the brain mask in which a head has skull, fat and skin
EMPTY_SHARE = 0.9  # of the shell, in a skull-stripped scan. In a head it is the air in sinuses and outside of the scalp.


def is_skull_stripped(channel: np.ndarray, brain: np.ndarray, spacing_mm: Sequence[float]) -> bool | None:
    """Return whether nearly all voxels around the brain have one value; None without a brain or anything around it.

    Args:
        channel: (X, Y, Z) intensities, normalised or not, on the scan's own grid.
        brain: (X, Y, Z) bool.
        spacing_mm: voxel size along X, Y, Z.
    """
    if not brain.any():
        return None
    # Slices without brain show the neck or air, in any scan.
    present = brain.any(axis=(0, 1))
    distance_mm = np.stack(
        [ndimage.distance_transform_edt(~plane, spacing_mm[:2]) for plane in brain[..., present].transpose(2, 0, 1)]
    )
    shell = (distance_mm >= SHELL_MM[0]) & (distance_mm <= SHELL_MM[1])
    values = channel[..., present].transpose(2, 0, 1)[shell]
    return bool((values == np.median(values)).mean() >= EMPTY_SHARE) if values.size else None
