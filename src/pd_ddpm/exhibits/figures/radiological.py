"""How slices are shown: in radiological convention, the patient's left on the right of the picture and anterior up."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke
from nibabel.orientations import axcodes2ornt

# Columns to the patient's left, rows to posterior, slices to superior.
VIEW = axcodes2ornt(("L", "P", "S"))

MAP_COLOURS = "inferno"
WINDOW_PERCENTILES = (1.0, 99.8)


def bounding_box(tissue: np.ndarray, margin: tuple[float, float]) -> tuple[slice, slice]:
    """The bounding box of the tissue (X, Y) and a margin in pixels, within the array; all of it where there is no tissue."""
    found = np.argwhere(tissue) if tissue.any() else np.array([[0, 0], np.array(tissue.shape) - 1])
    first = np.maximum(found.min(axis=0) - np.ceil(margin).astype(int), 0)
    last = np.minimum(found.max(axis=0) + np.ceil(margin).astype(int), np.array(tissue.shape) - 1)
    return slice(first[0], last[0] + 1), slice(first[1], last[1] + 1)


def grey_levels(picture: np.ndarray, brain: np.ndarray) -> np.ndarray:
    """A scan as grey levels in [0, 1], windowed by the intensities in the brain; of all voxels where there is none."""
    low, high = np.percentile(picture[brain] if brain.any() else picture, WINDOW_PERCENTILES)
    return np.clip((picture - low) / max(high - low, 1e-6), 0, 1)


def write_over(axis: Axes, x: float, y: float, text: str, size: float = 6.5, **where: str) -> None:
    """White text with a dark rim, which reads on any part of a scan."""
    rim = [withStroke(linewidth=1.2, foreground="black")]
    axis.text(x, y, text, transform=axis.transAxes, color="white", fontsize=size, path_effects=rim, **where)
