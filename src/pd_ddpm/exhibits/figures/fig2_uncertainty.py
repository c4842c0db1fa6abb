"""Figure 2 of PD-DDPM: the masks of all methods and where their members disagree, in one slice of each of some cases.

Slices are shown in radiological convention: the patient's left is on the right of the picture, anterior is up.
"""

import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, PowerNorm, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from nibabel.affines import voxel_sizes
from nibabel.orientations import apply_orientation, io_orientation, ornt_transform

from pd_ddpm.data.prepared import Scan
from pd_ddpm.evaluation.metrics import BACKGROUND, LESION, OTHER_PATHOLOGY
from pd_ddpm.exhibits.figures import style
from pd_ddpm.exhibits.figures.radiological import MAP_COLOURS, VIEW, bounding_box, grey_levels, write_over

# Okabe & Ito's yellow, vermilion, sky blue and bluish green. A lesion that is found looks as it does in the reference. They
# differ in brightness as well as in hue, and the scan below them is darkened so that they stand out in a grey print, too.
FOUND, WRONG, MISSED, NOT_SCORED = "#F0E442", "#D55E00", "#56B4E9", "#009E73"
DIMMED = 0.55


@dataclass(frozen=True, eq=False)
class ShownMethod:
    """One method's result for a case: mask (X, Y, Z) bool, variance (X, Y, Z) or None where there is one member, Dice."""

    mask: np.ndarray
    variance: np.ndarray | None
    dice: float


@dataclass(frozen=True, eq=False)
class ShownCase:
    """A case of the figure: its scan, labels (X, Y, Z) of 0, 1, 2, site, lesion load in ml, and label -> result."""

    scan: Scan
    labels: np.ndarray
    site: str
    load_ml: float
    methods: Mapping[str, ShownMethod]


def choose_cases(scores: pd.DataFrame, count: int = 3) -> list[str]:
    """Cases spread evenly over the order of lesion load; of three, the lowest, the median and the highest.

    scores: score rows of any methods. Cases without a lesion are passed over if there are others; equal loads are ordered by
    name. Fewer cases than `count` are all shown.
    """
    loads = scores.groupby("case")["reference_volume_ml"].mean()
    loads = loads[loads > 0] if (loads > 0).any() else loads
    ordered = loads.reset_index().sort_values(["reference_volume_ml", "case"])["case"].tolist()
    count = min(count, len(ordered))
    if count == 1:
        return [ordered[(len(ordered) - 1) // 2]]
    return [ordered[(len(ordered) - 1) * position // (count - 1)] for position in range(count)]


def fig2_numbers(cases: Iterable[ShownCase], margin_mm: float = 4.0) -> pd.DataFrame:
    """What Fig. 2 of PD-DDPM shows: one row per pixel, row by row of each case's picture.

    Shown is the axial slice with the largest lesion area (without lesions: with the most brain), cut to its brain and lesions
    and a margin. Columns: case, site, load_ml, slice (0-based, along the file's own axis), x_mm to the patient's left and y_mm
    to posterior from the first pixel, flair (the first channel), brain (0, 1), reference (0, 1, 2), and for each method
    {label}_mask (0, 1), {label}_variance (empty for one member) and {label}_dice (of the whole case).

    Raises ValueError if the cases differ in their methods.
    """
    tables = []
    for case in cases:
        table = _pixels(case, margin_mm)
        if tables and list(table.columns) != list(tables[0].columns):
            raise ValueError(f"{case.scan.case}: its methods are not those of the other cases; give all cases the same ones")
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def _pixels(case: ShownCase, margin_mm: float) -> pd.DataFrame:
    affine = case.scan.template.affine
    turn = ornt_transform(io_orientation(affine), VIEW)
    width, height, _ = voxel_sizes(affine)[np.argsort(turn[:, 0])]
    labels, brain = apply_orientation(case.labels, turn), apply_orientation(case.scan.brain, turn)
    areas = [(np.count_nonzero(labels[..., z] == LESION), np.count_nonzero(brain[..., z])) for z in range(labels.shape[2])]
    shown = areas.index(max(areas))
    file_axis = np.flatnonzero(turn[:, 0] == 2).item()
    region = bounding_box((brain[..., shown] > 0) | (labels[..., shown] > 0), (margin_mm / width, margin_mm / height))

    def picture(volume: np.ndarray) -> np.ndarray:
        return apply_orientation(volume, turn)[..., shown][region].T.ravel()

    columns, rows = (extent.stop - extent.start for extent in region)
    table = {
        "case": case.scan.case,
        "site": case.site,
        "load_ml": case.load_ml,
        "slice": shown if turn[file_axis, 1] > 0 else labels.shape[2] - 1 - shown,
        "x_mm": np.tile(np.arange(columns) * width, rows),
        "y_mm": np.repeat(np.arange(rows) * height, columns),
        "flair": picture(case.scan.image[..., 0]),
        "brain": picture(case.scan.brain).astype(np.uint8),
        "reference": picture(case.labels),
    }
    for label, method in case.methods.items():
        table[f"{label}_mask"] = picture(method.mask).astype(np.uint8)
        table[f"{label}_variance"] = np.nan if method.variance is None else picture(method.variance)
        table[f"{label}_dice"] = method.dice
    return pd.DataFrame(table)


def fig2_uncertainty(numbers: pd.DataFrame, remark: str) -> Figure:
    """Masks over the scan and maps of uncertainty, two rows per case, from the table of `fig2_numbers`.

    All panels have one scale in mm and all maps one scale of colour. remark: what data and scale the numbers are of.
    """
    style.apply()
    methods = [name.removesuffix("_mask") for name in numbers.columns if name.endswith("_mask")]
    cases = [_Picture(table) for _, table in numbers.groupby("case", sort=False)]
    width_mm, height_mm = max(case.width_mm for case in cases), max(case.height_mm for case in cases)
    highest = numbers[[f"{label}_variance" for label in methods]].max(axis=None)
    # Few voxels have a large variance: the root keeps those with a small one visible, and the bar's ticks say so.
    scale = PowerNorm(0.5, 0, highest if highest > 0 else 0.25)
    page = _Page(len(cases), 2 + len(methods), height_mm / width_mm)

    def panel(case: int, row: int, column: int) -> Axes:
        axis = page.panel(case, row, column)
        axis.set(xlim=(-width_mm / 2, width_mm / 2), ylim=(height_mm / 2, -height_mm / 2))
        return axis

    for number, case in enumerate(cases):
        scan, reference = panel(number, 0, 0), panel(number, 0, 1)
        case.show(scan, case.grey)
        case.show(reference, case.over_scan({FOUND: case.reference == LESION, NOT_SCORED: case.reference == OTHER_PATHOLOGY}))
        write_over(scan, 0.03, 0.98, "R", ha="left", va="top")
        write_over(scan, 0.97, 0.98, "L", ha="right", va="top")
        page.text(number, 1, 0, case.description(number + 1))
        for column, label in enumerate(methods, start=2):
            above, below = panel(number, 0, column), panel(number, 1, column)
            case.show(above, case.over_scan(case.comparison(label)))
            write_over(above, 0.03, 0.02, f"{case.single(f'{label}_dice'):.3f}", ha="left", va="bottom")
            _draw_map(below, case, label, scale)
        if number == 0:
            titles = ["FLAIR", "Reference", *methods]
            for column, title in enumerate(titles):
                page.title(column, textwrap.fill(title, 13))
    colours = {"lesion of the reference, true positive": FOUND, "false positive": WRONG, "false negative": MISSED}
    if (numbers["reference"] == OTHER_PATHOLOGY).any():
        colours["other pathology, not scored"] = NOT_SCORED
    page.legend([Patch(color=colour, label=name) for name, colour in colours.items()])
    if np.isfinite(highest):
        page.colour_bar(
            ScalarMappable(scale, MAP_COLOURS), "Uncertainty: variance of the lesion\nprobability over members (no unit)"
        )
    page.remark(f"{remark}. R, L: the patient's right and left; numbers: Dice of the whole case")
    return page.figure


def _draw_map(axis: Axes, case: "_Picture", label: str, scale: Normalize) -> None:
    variance = case.array(f"{label}_variance")
    if np.isnan(variance).all():
        axis.set_facecolor("white")
        axis.text(0.5, 0.5, "one member", transform=axis.transAxes, ha="center", va="center", fontsize=7, color="0.4")
        return
    case.show(axis, plt.get_cmap(MAP_COLOURS)(scale(variance))[..., :3])
    brain = case.array("brain")
    if brain.min() < brain.max():
        axis.contour(case.x_mm, case.y_mm, brain, levels=[0.5], colors="0.65", linewidths=0.4)


class _Picture:
    """The pixels of one case as arrays (rows, columns), centred on 0 mm."""

    def __init__(self, table: pd.DataFrame):
        self.table = table
        x, y = table["x_mm"].unique(), table["y_mm"].unique()
        self.shape = (len(y), len(x))
        self.x_mm, self.y_mm = x - x.mean(), y - y.mean()
        self.width_mm, self.height_mm = (float(np.ptp(values)) * len(values) / max(len(values) - 1, 1) for values in (x, y))
        self.reference = self.array("reference")
        flair = self.array("flair")
        self.grey = np.repeat(grey_levels(flair, self.array("brain") > 0)[..., None], 3, axis=-1)

    def array(self, column: str) -> np.ndarray:
        return self.table[column].to_numpy().reshape(self.shape)

    def single(self, column: str) -> float:
        return self.table[column].iloc[0]

    def description(self, number: int) -> str:
        lines = [
            f"$I_{number}$",
            *textwrap.wrap(f"case {self.single('case')}", 30, break_on_hyphens=False),
            f"site {self.single('site')}",
        ]
        return "\n".join([*lines, f"lesions {self.single('load_ml'):.3g} ml", f"slice {self.single('slice')}"])

    def comparison(self, label: str) -> dict[str, np.ndarray]:
        """Colour -> true positives, false positives, false negatives; what the reference labels 2 is none of them."""
        mask, lesion = self.array(f"{label}_mask") > 0, self.reference == LESION
        return {FOUND: mask & lesion, WRONG: mask & (self.reference == BACKGROUND), MISSED: ~mask & lesion}

    def over_scan(self, masks: Mapping[str, np.ndarray]) -> np.ndarray:
        """The scan (rows, columns, 3) under colour -> mask; painted here, so that a PDF keeps one image per panel."""
        painted = DIMMED * self.grey
        for colour, mask in masks.items():
            painted[mask] = to_rgb(colour)
        return painted

    def show(self, axis: Axes, picture: np.ndarray) -> None:
        """Draw a picture (rows, columns, 3) in mm; without interpolation a PDF holds the pixels themselves."""
        right, bottom = self.width_mm / 2, self.height_mm / 2
        limits = axis.axis()
        axis.imshow(picture, extent=(-right, right, bottom, -bottom), interpolation="none", aspect="auto")
        axis.axis(limits)


class _Page:
    """Panels placed in inches: two rows for each case, under titles and over a legend and a colour bar."""

    LEFT, TOP, BOTTOM, GAP, CASE_GAP = 0.22, 0.55, 0.74, 0.03, 0.1

    def __init__(self, cases: int, columns: int, height_per_width: float):
        self.width = float(np.clip(9.6 / columns, 0.8, 1.25))
        self.height = self.width * height_per_width
        self.size = (
            max(self.LEFT + columns * (self.width + self.GAP), 6.5),
            self.TOP + cases * (2 * (self.height + self.GAP) + self.CASE_GAP) + self.BOTTOM,
        )
        self.figure = plt.figure(figsize=self.size)

    def _corner(self, case: int, row: int, column: int) -> tuple[float, float]:
        """The upper left corner of a panel, in inches from the upper left of the page."""
        top = self.TOP + case * (2 * (self.height + self.GAP) + self.CASE_GAP) + row * (self.height + self.GAP)
        return self.LEFT + column * (self.width + self.GAP), top

    def _share(self, left: float, top: float) -> tuple[float, float]:
        return left / self.size[0], 1 - top / self.size[1]

    def panel(self, case: int, row: int, column: int) -> Axes:
        left, top = self._corner(case, row, column)
        box = (*self._share(left, top + self.height), self.width / self.size[0], self.height / self.size[1])
        axis = self.figure.add_axes(box, facecolor="black", xticks=[], yticks=[])
        axis.grid(visible=False)
        for spine in axis.spines.values():
            spine.set(visible=True, color="0.7", linewidth=0.5)
        return axis

    def text(self, case: int, row: int, column: int, text: str) -> None:
        left, top = self._corner(case, row, column)
        self.figure.text(*self._share(left + 0.02, top + 0.08), text, fontsize=7, va="top", linespacing=1.4)

    def title(self, column: int, text: str) -> None:
        left, top = self._corner(0, 0, column)
        self.figure.text(*self._share(left + self.width / 2, top - 0.04), text, fontsize=7.5, ha="center", va="bottom")

    def remark(self, text: str) -> None:
        self.figure.text(*self._share(self.LEFT, 0.1), text, fontsize=7.5, va="top")

    def legend(self, handles: list[Patch]) -> None:
        where = self._share(self.LEFT, self.size[1] - self.BOTTOM + 0.05)
        self.figure.legend(
            handles=handles, loc="upper left", bbox_to_anchor=where, ncols=2, fontsize=7, borderaxespad=0, handlelength=1.2
        )

    def colour_bar(self, mappable: ScalarMappable, label: str) -> None:
        left, bottom = self._share(self.size[0] - 2.8, self.size[1] - self.BOTTOM + 0.15)
        axis = self.figure.add_axes((left, bottom, 2.7 / self.size[0], 0.1 / self.size[1]))
        ticks = MaxNLocator(5)  # more would crowd at the upper end, where the scale is narrow
        bar = self.figure.colorbar(mappable, cax=axis, orientation="horizontal", ticks=ticks)
        bar.set_label(label, fontsize=7, labelpad=2)
        bar.ax.tick_params(labelsize=6.5, length=2, pad=1.5)
        bar.outline.set_linewidth(0.5)
