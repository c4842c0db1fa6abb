"""Slices of one segmented scan for a person to judge: the scan alone, the mask's contour on it, and where members disagree."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from nibabel.orientations import apply_orientation, io_orientation, ornt_transform

from pd_ddpm.data.scan import Scan
from pd_ddpm.exhibits.figures import style
from pd_ddpm.exhibits.figures.radiological import MAP_COLOURS, VIEW, bounding_box, grey_levels, write_over
from pd_ddpm.inference.ensemble import Segmentation

MASK_COLOUR, SOME_COLOUR, BRAIN_COLOUR = "#F0E442", "#56B4E9", "#009E73"  # Okabe & Ito 2008
MARGIN_MM = 6.0
LETTERS = 9  # points; smaller ones lose strokes on a screen


@dataclass(frozen=True)
class _Views:
    """Volumes (X, Y, Z) with columns to the patient's left, rows to posterior, slices to superior, cut to the head's box."""

    channels: np.ndarray  # (X, Y, Z, M)
    brain: np.ndarray
    mask: np.ndarray
    some: np.ndarray  # where at least one member marks lesion
    variance: np.ndarray
    pixel_mm: tuple[float, float]
    file_slices: list[int]  # of each slice, its index along the file's own axis

    @classmethod
    def from_scan(cls, scan: Scan, segmentation: Segmentation) -> "_Views":
        turn = ornt_transform(io_orientation(scan.reference.affine), VIEW)
        order = np.argsort(turn[:, 0])
        width, height, _ = (scan.spacing_mm[axis] for axis in order)
        tissue = apply_orientation(scan.brain | segmentation.union, turn).any(axis=2)
        box = bounding_box(tissue, (MARGIN_MM / width, MARGIN_MM / height))
        volumes = (scan.image, scan.brain, segmentation.mask, segmentation.union, segmentation.variance)
        count = scan.brain.shape[order[2]]
        slices = list(range(count)) if turn[order[2], 1] > 0 else list(range(count - 1, -1, -1))
        return cls(*(apply_orientation(volume, turn)[box] for volume in volumes), (width, height), slices)


def chosen_slices(mask: np.ndarray, brain: np.ndarray, count: int) -> list[int]:
    """Up to `count` slices of (X, Y, Z), evenly over those with lesion, that with the largest area among them.

    Without lesions evenly over the slices with at least half as much brain as the fullest.
    """
    areas = mask.sum(axis=(0, 1))
    brains = brain.sum(axis=(0, 1))
    candidates = np.flatnonzero(areas) if areas.any() else np.flatnonzero(brains * 2 >= max(brains.max(), 1))
    if not len(candidates):
        return [mask.shape[2] // 2]
    picked = {
        int(candidates[place]) for place in np.linspace(0, len(candidates) - 1, min(count, len(candidates))).round().astype(int)
    }
    if areas.any() and int(areas.argmax()) not in picked:
        # In place of its nearest neighbour, so that there are not more.
        picked.discard(min(picked, key=lambda z: abs(z - int(areas.argmax()))))
        picked.add(int(areas.argmax()))
    return sorted(picked)


def slices_figure(scan: Scan, segmentation: Segmentation, count: int = 12) -> Figure:
    """Slices from below to above, three panels each: the first channel, the contours on it, the members' variance.

    Numbers are the file's own slices, 0-based.
    """
    style.apply()
    views = _Views.from_scan(scan, segmentation)
    # What only some members mark is worth a look, too, where the ensemble marks nothing at all.
    shown = chosen_slices(views.mask if views.mask.any() else views.some, views.brain, count)
    single = segmentation.num_members == 1
    panels = 2 if single else 3
    figure, axes = _grid(views, len(shown), panels)
    highest = float(views.variance.max())
    scale = PowerNorm(0.5, 0, highest if highest > 0 else 0.25)
    for group, z in zip(axes, shown, strict=False):
        grey = grey_levels(views.channels[..., z, 0].T, views.brain[..., z].T)
        for axis in group[:2]:
            _show(axis, grey, views, cmap="gray", vmin=0, vmax=1)
        write_over(group[0], 0.03, 0.98, "R", LETTERS, ha="left", va="top")
        write_over(group[0], 0.97, 0.98, "L", LETTERS, ha="right", va="top")
        write_over(group[0], 0.03, 0.02, f"slice {views.file_slices[z]}", LETTERS, ha="left", va="bottom")
        if not single:
            _contour(group[1], views.some[..., z], views, SOME_COLOUR, 0.6)
            _show(group[2], views.variance[..., z].T, views, cmap=MAP_COLOURS, norm=scale)
            _contour(group[2], views.brain[..., z], views, "0.65", 0.4)
        _contour(group[1], views.mask[..., z], views, MASK_COLOUR, 0.9)
    lines = [Line2D([], [], color=MASK_COLOUR, label="lesion: the mask of the ensemble")]
    if not single:
        lines.append(Line2D([], [], color=SOME_COLOUR, label="marked by at least one member"))
        bar = figure.colorbar(ScalarMappable(scale, MAP_COLOURS), ax=figure.axes, shrink=0.35, aspect=30, pad=0.01)
        bar.set_label("uncertainty: variance of the\nlesion probability over members", fontsize=7)
        bar.ax.tick_params(labelsize=6.5)
    figure.legend(
        handles=lines, loc="outside lower left", ncols=2, fontsize=7, facecolor="0.25", labelcolor="white", frameon=True
    )
    return figure


def registration_figure(scan: Scan, names: Sequence[str], count: int = 4) -> Figure:
    """All channels on the grid of the first, with the outline of its brain, which shows where a channel is shifted."""
    style.apply()
    nothing = np.zeros((*scan.brain.shape, 1), dtype=np.float32)
    views = _Views.from_scan(scan, Segmentation.from_members(nothing))
    shown = chosen_slices(views.mask, views.brain, count)
    figure, axes = _grid(views, len(shown), len(names))
    for group, z in zip(axes, shown, strict=False):
        for channel, (axis, name) in enumerate(zip(group, names, strict=True)):
            grey = grey_levels(views.channels[..., z, channel].T, views.brain[..., z].T)
            _show(axis, grey, views, cmap="gray", vmin=0, vmax=1)
            _contour(axis, views.brain[..., z], views, BRAIN_COLOUR, 0.6)
            write_over(axis, 0.03, 0.02, f"{name}, slice {views.file_slices[z]}", LETTERS, ha="left", va="bottom")
    return figure


def _grid(views: _Views, groups: int, panels: int, columns: int = 2) -> tuple[Figure, Iterator[Sequence[Axes]]]:
    """A figure of groups of panels, so many groups beside each other; the panels of each group in turn."""
    columns = min(columns, groups)
    rows = -(-groups // columns)
    width = 10.5 / (columns * panels) if columns > 1 else 3.0
    x, y = views.brain.shape[0] * views.pixel_mm[0], views.brain.shape[1] * views.pixel_mm[1]
    figure = plt.figure(figsize=(columns * panels * width + 1, rows * width * y / x + 0.4), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.01, h_pad=0.01, wspace=0.01, hspace=0.01)
    axes = figure.subplots(rows, columns * panels, squeeze=False)
    for axis in axes.ravel():
        axis.set_axis_off()
    return figure, (row[first : first + panels] for row in axes for first in range(0, columns * panels, panels))


def _show(axis: Axes, picture: np.ndarray, views: _Views, **how: object) -> None:
    rows, columns = picture.shape
    axis.imshow(picture, extent=(0, columns * views.pixel_mm[0], rows * views.pixel_mm[1], 0), interpolation="nearest", **how)


def _contour(axis: Axes, mask: np.ndarray, views: _Views, colour: str, width: float) -> None:
    """The outline of a mask (X, Y); where it is all or nothing there is none."""
    if mask.any() and not mask.all():
        x, y = ((np.arange(size) + 0.5) * mm for size, mm in zip(mask.shape, views.pixel_mm, strict=True))
        axis.contour(x, y, mask.T, levels=[0.5], colors=colour, linewidths=width)
