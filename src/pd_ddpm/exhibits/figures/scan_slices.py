"""Slices of a segmented scan for visual review: the scan, the contour of the mask, and the variance over the members."""

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

MASK_COLOUR, UNION_COLOUR, BRAIN_COLOUR = "#F0E442", "#56B4E9", "#009E73"  # Okabe & Ito 2008
MARGIN_MM = 6.0
FONT_SIZE = 9  # points; smaller letters lose strokes on a screen


@dataclass(frozen=True)
class _Views:
    """Volumes with columns to the patient's left, rows to posterior and slices to superior, cropped to the head.

    Attributes:
        channels: (X, Y, Z, M) normalised scan.
        brain: (X, Y, Z) bool.
        mask: (X, Y, Z) bool, mask of the ensemble.
        union: (X, Y, Z) bool, voxels that at least one member marks as lesion.
        variance: (X, Y, Z) over the members.
        pixel_mm: width and height of a pixel.
        file_slices: index of each slice along the file's own axis, 0-based.
    """

    channels: np.ndarray
    brain: np.ndarray
    mask: np.ndarray
    union: np.ndarray
    variance: np.ndarray
    pixel_mm: tuple[float, float]
    file_slices: list[int]

    @classmethod
    def from_scan(cls, scan: Scan, segmentation: Segmentation) -> "_Views":
        turn = ornt_transform(io_orientation(scan.reference.affine), VIEW)
        order = np.argsort(turn[:, 0])
        width, height, _ = (scan.spacing_mm[axis] for axis in order)
        tissue = apply_orientation(scan.brain | segmentation.union, turn).any(axis=2)
        box = bounding_box(tissue, (MARGIN_MM / width, MARGIN_MM / height))
        slices = range(scan.brain.shape[order[2]])

        def view(volume: np.ndarray) -> np.ndarray:
            return apply_orientation(volume, turn)[box]

        return cls(
            channels=view(scan.image),
            brain=view(scan.brain),
            mask=view(segmentation.mask),
            union=view(segmentation.union),
            variance=view(segmentation.variance),
            pixel_mm=(width, height),
            file_slices=list(slices if turn[order[2], 1] > 0 else reversed(slices)),
        )


def choose_slices(mask: np.ndarray, brain: np.ndarray, count: int) -> list[int]:
    """Return slices spread evenly over those with lesion, with the largest lesion area among them.

    Without lesions, the slices are spread over those with at least half of the largest brain area.

    Args:
        mask: (X, Y, Z) bool.
        brain: (X, Y, Z) bool.
        count: highest number of slices.
    """
    areas = mask.sum(axis=(0, 1))
    brains = brain.sum(axis=(0, 1))
    candidates = np.flatnonzero(areas) if areas.any() else np.flatnonzero(brains * 2 >= max(brains.max(), 1))
    if not len(candidates):
        return [mask.shape[2] // 2]
    positions = np.linspace(0, len(candidates) - 1, min(count, len(candidates))).round().astype(int)
    chosen, largest = {int(candidates[position]) for position in positions}, int(areas.argmax())
    if areas.any() and largest not in chosen:
        # The largest replaces its nearest neighbour, so that the count stays.
        chosen.discard(min(chosen, key=lambda z: abs(z - largest)))
        chosen.add(largest)
    return sorted(chosen)


def slices_figure(scan: Scan, segmentation: Segmentation, count: int = 12) -> Figure:
    """Draw slices from inferior to superior, with three panels each: first channel, contours on it, variance over members.

    Slices are numbered as in the file, 0-based. With a single member there is no panel of the variance.

    Args:
        scan: normalised scan.
        segmentation: segmentation of the scan.
        count: highest number of slices.
    """
    style.apply()
    views = _Views.from_scan(scan, segmentation)
    # If the ensemble marks nothing, slices that single members mark are shown.
    slices = choose_slices(views.mask if views.mask.any() else views.union, views.brain, count)
    is_single = segmentation.num_members == 1
    panels = 2 if is_single else 3
    figure, axes = _grid(views, len(slices), panels)
    highest = float(views.variance.max())
    scale = PowerNorm(0.5, 0, highest if highest > 0 else 0.25)
    for group, z in zip(axes, slices, strict=False):
        grey = grey_levels(views.channels[..., z, 0].T, views.brain[..., z].T)
        for axis in group[:2]:
            _show(axis, grey, views, cmap="gray", vmin=0, vmax=1)
        write_over(group[0], 0.03, 0.98, "R", FONT_SIZE, ha="left", va="top")
        write_over(group[0], 0.97, 0.98, "L", FONT_SIZE, ha="right", va="top")
        write_over(group[0], 0.03, 0.02, f"slice {views.file_slices[z]}", FONT_SIZE, ha="left", va="bottom")
        if not is_single:
            _contour(group[1], views.union[..., z], views, UNION_COLOUR, 0.6)
            _show(group[2], views.variance[..., z].T, views, cmap=MAP_COLOURS, norm=scale)
            _contour(group[2], views.brain[..., z], views, "0.65", 0.4)
        _contour(group[1], views.mask[..., z], views, MASK_COLOUR, 0.9)
    lines = [Line2D([], [], color=MASK_COLOUR, label="lesion: the mask of the ensemble")]
    if not is_single:
        lines.append(Line2D([], [], color=UNION_COLOUR, label="marked by at least one member"))
        bar = figure.colorbar(ScalarMappable(scale, MAP_COLOURS), ax=figure.axes, shrink=0.35, aspect=30, pad=0.01)
        bar.set_label("uncertainty: variance of the\nlesion probability over members", fontsize=7)
        bar.ax.tick_params(labelsize=6.5)
    figure.legend(
        handles=lines, loc="outside lower left", ncols=2, fontsize=7, facecolor="0.25", labelcolor="white", frameon=True
    )
    return figure


def registration_figure(scan: Scan, names: Sequence[str], count: int = 4) -> Figure:
    """Draw all channels on the grid of the first, with the outline of its brain, so that a shifted channel is visible.

    Args:
        scan: normalised scan.
        names: names of the channels.
        count: highest number of slices.
    """
    style.apply()
    empty = np.zeros((*scan.brain.shape, 1), dtype=np.float32)
    views = _Views.from_scan(scan, Segmentation.from_members(empty))
    slices = choose_slices(views.mask, views.brain, count)
    figure, axes = _grid(views, len(slices), len(names))
    for group, z in zip(axes, slices, strict=False):
        for channel, (axis, name) in enumerate(zip(group, names, strict=True)):
            grey = grey_levels(views.channels[..., z, channel].T, views.brain[..., z].T)
            _show(axis, grey, views, cmap="gray", vmin=0, vmax=1)
            _contour(axis, views.brain[..., z], views, BRAIN_COLOUR, 0.6)
            write_over(axis, 0.03, 0.02, f"{name}, slice {views.file_slices[z]}", FONT_SIZE, ha="left", va="bottom")
    return figure


def _grid(views: _Views, groups: int, panels: int, columns: int = 2) -> tuple[Figure, Iterator[Sequence[Axes]]]:
    """Return a figure with `columns` groups of panels side by side, and an iterator over the panels of each group."""
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


def _show(axis: Axes, picture: np.ndarray, views: _Views, **options: object) -> None:
    rows, columns = picture.shape
    width_mm, height_mm = views.pixel_mm
    axis.imshow(picture, extent=(0, columns * width_mm, rows * height_mm, 0), interpolation="nearest", **options)


def _contour(axis: Axes, mask: np.ndarray, views: _Views, colour: str, width: float) -> None:
    """Draw the outline of a mask (X, Y); an empty or full mask has none."""
    if mask.any() and not mask.all():
        x, y = ((np.arange(size) + 0.5) * mm for size, mm in zip(mask.shape, views.pixel_mm, strict=True))
        axis.contour(x, y, mask.T, levels=[0.5], colors=colour, linewidths=width)
