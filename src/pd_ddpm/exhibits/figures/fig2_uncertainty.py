"""Figure 2 of PD-DDPM: masks of all methods and the variance over their ensemble members, in one slice per case.

Slices are in radiological convention: the patient's left is on the right of the picture, anterior is up.
"""

import textwrap
from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, PowerNorm, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from pd_ddpm.evaluation.metrics import BACKGROUND, LESION, OTHER_PATHOLOGY
from pd_ddpm.exhibits.class_colours import class_colours
from pd_ddpm.exhibits.figures import style
from pd_ddpm.exhibits.figures.radiological import MAP_COLOURS, grey_levels, write_over

# Okabe & Ito's yellow, vermilion, sky blue and bluish green. Yellow is a lesion in the ground truth and a true positive in a
# method's panel. The colours differ in brightness as well as in hue, and the scan is darkened, so that they differ in a grey
# print, too.
TRUE_POSITIVE, FALSE_POSITIVE, FALSE_NEGATIVE, NOT_SCORED = "#F0E442", "#D55E00", "#56B4E9", "#009E73"
SCAN_BRIGHTNESS = 0.55
LEAST_SHARE = 0.05  # of the colour scale that is drawn; below it the scan is visible


def fig2_uncertainty(numbers: pd.DataFrame, caption_note: str, classes: Mapping[int, str] | None = None) -> Figure:
    """Draw Figure 2: masks over the scan and maps of uncertainty, two rows per case.

    All panels have the same scale in mm, and all maps the same colour scale.

    Args:
        numbers: table of `fig2_numbers`.
        caption_note: dataset and scale that the numbers belong to.
        classes: label -> name of each class, if masks are label maps; each class then has a colour.
    """
    style.apply()
    colours_of_classes = class_colours(classes or {})
    methods = [name.removesuffix("_mask") for name in numbers.columns if name.endswith("_mask")]
    cases = [_Picture(table) for _, table in numbers.groupby("case", sort=False)]
    width_mm, height_mm = max(case.width_mm for case in cases), max(case.height_mm for case in cases)
    highest = numbers[[f"{label}_variance" for label in methods]].max(axis=None)
    # Few voxels have a large variance. The square root keeps small values visible, and the colour bar's ticks show it.
    scale = PowerNorm(0.5, 0, highest if highest > 0 else 0.25)
    note = f"{caption_note}. R, L: the patient's right and left; numbers: Dice of the whole case"
    with_map = [label for label in methods if numbers[f"{label}_variance"].notna().any()]
    if len(with_map) < len(methods):
        note += "; no map: one member"
    page = _Page(len(cases), 2 + len(methods), height_mm / width_mm, note, has_maps=bool(with_map))

    def panel(case: int, row: int, column: int) -> Axes:
        axis = page.panel(case, row, column)
        axis.set(xlim=(-width_mm / 2, width_mm / 2), ylim=(height_mm / 2, -height_mm / 2))
        return axis

    for index, case in enumerate(cases):
        scan, truth = panel(index, 0, 0), panel(index, 0, 1)
        case.show(scan, case.grey)
        truth_masks = {TRUE_POSITIVE: case.truth == LESION, NOT_SCORED: case.truth == OTHER_PATHOLOGY}
        truth_masks = case.classes("reference", colours_of_classes) if classes else truth_masks
        case.show(truth, case.over_scan(truth_masks))
        write_over(scan, 0.03, 0.98, "R", ha="left", va="top")
        write_over(scan, 0.97, 0.98, "L", ha="right", va="top")
        lines = case.description(index + 1, "classes" if classes else "lesions")
        page.text(index, 1, 0, ("\n" if with_map else ", ").join(lines))
        for column, label in enumerate(methods, start=2):
            mask_panel = panel(index, 0, column)
            masks = case.classes(f"{label}_mask", colours_of_classes) if classes else case.comparison(label)
            case.show(mask_panel, case.over_scan(masks))
            write_over(mask_panel, 0.03, 0.02, f"{case.single(f'{label}_dice'):.3f}", 5.5, ha="left", va="bottom")
            if label in with_map:
                case.show(panel(index, 1, column), case.map(label, scale))
        if index == 0:
            titles = ["Scan" if classes else "FLAIR", "Reference", *methods]
            for column, title in enumerate(titles):
                page.title(column, textwrap.fill(title, 13))
    colours = {
        "lesion of the reference, true positive": TRUE_POSITIVE,
        "false positive": FALSE_POSITIVE,
        "false negative": FALSE_NEGATIVE,
    }
    if classes:
        colours = {name: colours_of_classes[label] for label, name in classes.items()}
    elif (numbers["reference"] == OTHER_PATHOLOGY).any():
        colours["other pathology, not scored"] = NOT_SCORED
    page.legend([Patch(color=colour, label=name) for name, colour in colours.items()])
    if np.isfinite(highest):
        measure = "half the sum of the classes'\nvariances" if classes else "variance of the lesion\nprobability"
        page.colour_bar(ScalarMappable(scale, MAP_COLOURS), f"Uncertainty: {measure} over members (no unit)")
    return page.figure


class _Picture:
    """Pixels of one case as arrays (rows, columns), centred on 0 mm."""

    def __init__(self, table: pd.DataFrame):
        self.table = table
        x, y = table["x_mm"].unique(), table["y_mm"].unique()
        self.shape = (len(y), len(x))
        self.x_mm, self.y_mm = x - x.mean(), y - y.mean()
        self.width_mm, self.height_mm = (float(np.ptp(values)) * len(values) / max(len(values) - 1, 1) for values in (x, y))
        self.truth = self.array("reference")
        flair = self.array("flair")
        self.grey = np.repeat(grey_levels(flair, self.array("brain") > 0)[..., None], 3, axis=-1)

    def array(self, column: str) -> np.ndarray:
        return self.table[column].to_numpy().reshape(self.shape)

    def single(self, column: str) -> float:
        return self.table[column].iloc[0]

    def description(self, number: int, marked: str) -> list[str]:
        load_ml = self.single("load_ml")
        return [
            f"$I_{number}$",
            *textwrap.wrap(f"case {self.single('case')}", 30, break_on_hyphens=False),
            f"site {self.single('site')}",
            f"{marked} {load_ml:.0f} ml" if load_ml >= 100 else f"{marked} {load_ml:.3g} ml",
            f"slice {self.single('slice')}",
        ]

    def comparison(self, label: str) -> dict[str, np.ndarray]:
        """Return colour -> mask of true positives, false positives and false negatives, without other pathology."""
        mask, lesion = self.array(f"{label}_mask") > 0, self.truth == LESION
        is_background = self.truth == BACKGROUND
        return {TRUE_POSITIVE: mask & lesion, FALSE_POSITIVE: mask & is_background, FALSE_NEGATIVE: ~mask & lesion}

    def classes(self, column: str, colours: Mapping[int, str]) -> dict[str, np.ndarray]:
        """Return colour -> mask of each class in a label map, for label -> colour. Classes may share a colour."""
        labels = self.array(column)
        masks = {colour: np.zeros(self.shape, dtype=bool) for colour in colours.values()}
        for label, colour in colours.items():
            masks[colour] |= labels == label
        return masks

    def over_scan(self, masks: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return the scan (rows, columns, 3) with colour -> mask on top, as one image so that a PDF stays small."""
        painted = SCAN_BRIGHTNESS * self.grey
        for colour, mask in masks.items():
            painted[mask] = to_rgb(colour)
        return painted

    def map(self, label: str, scale: Normalize) -> np.ndarray:
        """Return the darkened scan (rows, columns, 3) with the variance of a method in the colours of this scale."""
        share = scale(self.array(f"{label}_variance")).filled(0)
        painted, is_shown = SCAN_BRIGHTNESS * self.grey, share >= LEAST_SHARE
        painted[is_shown] = MAP_COLOURS(share[is_shown])[..., :3]
        return painted

    def show(self, axis: Axes, picture: np.ndarray) -> None:
        """Draw a picture (rows, columns, 3) in mm. Without interpolation a PDF holds the pixels themselves."""
        right, bottom = self.width_mm / 2, self.height_mm / 2
        limits = axis.axis()
        axis.imshow(picture, extent=(-right, right, bottom, -bottom), interpolation="none", aspect="auto")
        axis.axis(limits)


class _Page:
    """Panels placed in inches: two rows per case, a note and titles above, legend and colour bar below.

    Without maps, the second row of a case is one line of text.
    """

    LEFT, TITLES, NOTE_LINE, BOTTOM, GAP, CASE_GAP, TEXT_LINE = 0.05, 0.42, 0.13, 0.74, 0.03, 0.1, 0.22
    PRINT_WIDTH = 6.5  # of all panels, so that eleven fit the width of a page at full size

    def __init__(self, cases: int, columns: int, height_per_width: float, note: str, has_maps: bool):
        self.top = self.TITLES + self.NOTE_LINE * (note.count("\n") + 1)
        self.width = float(np.clip(self.PRINT_WIDTH / columns, 0.55, 1.25))
        self.height = self.width * height_per_width
        self.case_height = self.height + (self.height if has_maps else self.TEXT_LINE) + 2 * self.GAP + self.CASE_GAP
        self.size = (
            max(self.LEFT + columns * (self.width + self.GAP), 6.5),
            self.top + cases * self.case_height + self.BOTTOM,
        )
        self.figure = plt.figure(figsize=self.size)
        self.figure.text(*self._fraction(self.LEFT, 0.1), note, fontsize=7, va="top")

    def _corner(self, case: int, row: int, column: int) -> tuple[float, float]:
        """Return the upper left corner of a panel, in inches from the upper left of the page."""
        top = self.top + case * self.case_height + row * (self.height + self.GAP)
        return self.LEFT + column * (self.width + self.GAP), top

    def _fraction(self, left: float, top: float) -> tuple[float, float]:
        """Return a position in inches from the upper left as fractions of the page, from the lower left."""
        return left / self.size[0], 1 - top / self.size[1]

    def panel(self, case: int, row: int, column: int) -> Axes:
        left, top = self._corner(case, row, column)
        box = (*self._fraction(left, top + self.height), self.width / self.size[0], self.height / self.size[1])
        axis = self.figure.add_axes(box, facecolor="black", xticks=[], yticks=[])
        axis.grid(visible=False)
        for spine in axis.spines.values():
            spine.set(visible=True, color="0.7", linewidth=0.5)
        return axis

    def text(self, case: int, row: int, column: int, text: str) -> None:
        left, top = self._corner(case, row, column)
        self.figure.text(*self._fraction(left + 0.02, top + 0.08), text, fontsize=7, va="top", linespacing=1.4)

    def title(self, column: int, text: str) -> None:
        left, top = self._corner(0, 0, column)
        self.figure.text(*self._fraction(left + self.width / 2, top - 0.04), text, fontsize=6, ha="center", va="bottom")

    def legend(self, handles: list[Patch]) -> None:
        corner = self._fraction(self.LEFT, self.size[1] - self.BOTTOM + 0.05)
        self.figure.legend(
            handles=handles, loc="upper left", bbox_to_anchor=corner, ncols=2, fontsize=7, borderaxespad=0, handlelength=1.2
        )

    def colour_bar(self, mappable: ScalarMappable, label: str) -> None:
        left, bottom = self._fraction(self.size[0] - 2.8, self.size[1] - self.BOTTOM + 0.15)
        axis = self.figure.add_axes((left, bottom, 2.7 / self.size[0], 0.1 / self.size[1]))
        ticks = MaxNLocator(5)  # more would crowd at the upper end, where the scale is narrow
        bar = self.figure.colorbar(mappable, cax=axis, orientation="horizontal", ticks=ticks)
        bar.set_label(label, fontsize=7, labelpad=2)
        bar.ax.tick_params(labelsize=6.5, length=2, pad=1.5)
        bar.outline.set_linewidth(0.5)
