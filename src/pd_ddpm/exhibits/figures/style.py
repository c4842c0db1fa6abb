"""Common style of all figures: per method a colour, a marker and dashes that differ in print and for colour-blind readers."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

import matplotlib
import matplotlib.pyplot as plt
import seaborn as sns
from matplotlib.figure import Figure

from pd_ddpm.runtime.sealed import sealed_write

matplotlib.use("Agg")
# Each PDF makes fontTools log some hundred lines of the fonts that it embeds, which would fill the logs of jobs.
logging.getLogger("fontTools").setLevel(logging.WARNING)


@dataclass(frozen=True)
class Look:
    """Look of a method in all figures.

    Attributes:
        colour: hexadecimal RGB.
        marker: marker of matplotlib.
        dashes: lengths of dashes and gaps in line widths; empty for a solid line.
    """

    colour: str
    marker: str
    dashes: tuple[float, ...]

    @property
    def line(self) -> tuple[float, tuple[float, ...]] | str:
        """Return the line style in the form of matplotlib."""
        return (0, self.dashes) if self.dashes else "-"


# Palette of Okabe & Ito 2008, which colour-blind readers can distinguish.
METHODS = {
    "PD-DDPM": Look("#0072B2", "o", ()),
    "Vanilla DDPM": Look("#D55E00", "s", (1, 1.5)),
    "ES-DDPM": Look("#009E73", "D", (4, 1.5, 1, 1.5)),
    "TDPM": Look("#CC79A7", "^", (4, 1.5, 1, 1.5, 1, 1.5)),
    "AttUNet": Look("#E69F00", "v", (5, 2)),
    "U-Net": Look("#56B4E9", "P", (2.5, 1.5)),
    "U-Net++": Look("#999999", "X", (9, 3)),
    "Bayesian U-Net": Look("#F0E442", "<", (9, 2, 3, 2)),
    "Probabilistic U-Net": Look("#000000", ">", (1, 3)),
}

# For methods that are not in the paper. These colours are far from all others in CIELAB, also in simulated protanopia and
# deuteranopia (Machado et al. 2009).
SPARE = (
    Look("#0000FF", "p", (6, 1, 2, 1)),
    Look("#882211", "d", (2, 1, 2, 3)),
    Look("#7766FF", "x", (9, 2, 1, 2, 1, 2)),
    Look("#663355", "*", (3, 4)),
    Look("#99BB66", "h", (6, 1.5, 6, 4)),
)

INK = "#262626"


def apply() -> None:
    """Set fonts, sizes and grid of all later figures, with text as text in PDFs."""
    sns.set_theme(context="paper", style="ticks", font_scale=0.9)
    plt.rcParams.update({"pdf.fonttype": 42, "savefig.dpi": 300, "savefig.bbox": "tight", "axes.spines.top": False})
    plt.rcParams.update({"axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.3, "legend.frameon": False})
    plt.rcParams.update({"lines.linewidth": 1.2, "lines.markersize": 4.5})


def looks(labels: Iterable[str]) -> dict[str, Look]:
    """Return the look of each label in one figure.

    Methods of the paper have a fixed look. Any other label has a spare look that follows from its letters, so that it is the
    same in all figures. If an earlier label of the figure has that look, the label gets the next free one, if there is one.
    """
    chosen: dict[str, Look] = {}
    for label in dict.fromkeys(labels):
        first = crc32(label.encode()) % len(SPARE)
        candidates = SPARE[first:] + SPARE[:first]
        free = (look for look in candidates if look not in chosen.values())
        chosen[label] = METHODS.get(label) or next(free, candidates[0])
    return chosen


def save(figure: Figure, pdf: str | Path, png: str | Path, title: str) -> None:
    """Write a figure as PDF and as PNG.

    Args:
        figure: the figure.
        pdf: path of the PDF. It has no time stamp, so that equal figures are equal files.
        png: path of the PNG.
        title: title in the metadata of both.
    """
    with sealed_write(pdf) as temporary:
        figure.savefig(temporary, metadata={"CreationDate": None, "Title": title})
    with sealed_write(png) as temporary:
        figure.savefig(temporary, metadata={"Title": title})
