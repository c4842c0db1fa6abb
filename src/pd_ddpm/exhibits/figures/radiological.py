"""Slices in radiological convention: the patient's left is on the right of the picture, anterior is up."""

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.patheffects import withStroke
from nibabel.orientations import axcodes2ornt

# Columns to the patient's left, rows to posterior, slices to superior.
VIEW = axcodes2ornt(("L", "P", "S"))

# Colours of uncertainty, drawn over a darkened scan. Small values stay visible on it, and yellow is left to masks.
MAP_COLOURS = ListedColormap(matplotlib.colormaps["inferno"](np.linspace(0.25, 0.85, 256)), "uncertainty")
WINDOW_PERCENTILES = (1.0, 99.8)


def bounding_box(tissue: np.ndarray, margin: tuple[float, float]) -> tuple[slice, slice]:
    """Return the bounding box of the tissue plus a margin, limited to the array; the whole array if there is no tissue.

    Args:
        tissue: (X, Y) bool.
        margin: width of the margin along both axes, in pixels.
    """
    pixels = np.argwhere(tissue) if tissue.any() else np.array([[0, 0], np.array(tissue.shape) - 1])
    first = np.maximum(pixels.min(axis=0) - np.ceil(margin).astype(int), 0)
    last = np.minimum(pixels.max(axis=0) + np.ceil(margin).astype(int), np.array(tissue.shape) - 1)
    return slice(first[0], last[0] + 1), slice(first[1], last[1] + 1)


def grey_levels(picture: np.ndarray, brain: np.ndarray) -> np.ndarray:
    """Return a scan as grey levels in [0, 1], windowed by the intensities in the brain (without brain: in the picture)."""
    low, high = np.percentile(picture[brain] if brain.any() else picture, WINDOW_PERCENTILES)
    return np.clip((picture - low) / max(high - low, 1e-6), 0, 1)


def write_over(axis: Axes, x: float, y: float, text: str, size: float = 6.5, **alignment: str) -> None:
    """Write white text with a dark rim, which is readable on any part of a scan.

    Args:
        axis: panel.
        x: position as a fraction of the panel's width.
        y: position as a fraction of the panel's height.
        text: the text.
        size: font size in points.
        alignment: alignments of `Axes.text`, `ha` and `va`.
    """
    rim = [withStroke(linewidth=1.2, foreground="black")]
    axis.text(x, y, text, transform=axis.transAxes, color="white", fontsize=size, path_effects=rim, **alignment)
