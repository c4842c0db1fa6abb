"""One look for all figures: a colour, a marker and dashes per method that differ in print and for colour-blind readers."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

import matplotlib
import matplotlib.pyplot as plt
import seaborn as sns
from matplotlib.figure import Figure

matplotlib.use("Agg")


@dataclass(frozen=True)
class Look:
    """How a method is drawn. dashes: lengths of dash and gap in line widths, none for a solid line."""

    colour: str
    marker: str
    dashes: tuple[float, ...]

    @property
    def line(self) -> tuple[float, tuple[float, ...]] | str:
        """The line style as matplotlib takes it."""
        return (0, self.dashes) if self.dashes else "-"


# Okabe & Ito 2008, a palette that colour-blind readers can tell apart.
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

# Ours, for methods that the paper does not have: chosen to be far in CIELAB from the others and from each other, in simulated
# protanopia and deuteranopia (Machado et al. 2009), too.
SPARE = (
    Look("#0000FF", "p", (6, 1, 2, 1)),
    Look("#882211", "d", (2, 1, 2, 3)),
    Look("#7766FF", "x", (9, 2, 1, 2, 1, 2)),
    Look("#663355", "*", (3, 4)),
    Look("#99BB66", "h", (6, 1.5, 6, 4)),
)

INK = "#262626"


def apply() -> None:
    """Set fonts, sizes and grid for the figures that follow. Text stays text in PDFs; no time stamp makes files differ."""
    sns.set_theme(context="paper", style="ticks", font_scale=0.9)
    plt.rcParams.update({"pdf.fonttype": 42, "savefig.dpi": 300, "savefig.bbox": "tight", "axes.spines.top": False})
    plt.rcParams.update({"axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.3, "legend.frameon": False})
    plt.rcParams.update({"lines.linewidth": 1.2, "lines.markersize": 4.5})


def looks(labels: Iterable[str]) -> dict[str, Look]:
    """The look of every label of a figure.

    The paper's methods have their own. Any other label has a spare one that its letters choose, so that it looks alike in all
    figures; where an earlier label of this figure has that one, the next that is free, as long as there is one.
    """
    found: dict[str, Look] = {}
    for label in dict.fromkeys(labels):
        first = crc32(label.encode()) % len(SPARE)
        ours = SPARE[first:] + SPARE[:first]
        found[label] = METHODS.get(label) or next((look for look in ours if look not in found.values()), ours[0])
    return found


def save(figure: Figure, pdf: str | Path, png: str | Path) -> None:
    """Write a figure as PDF, without a time stamp, and as PNG."""
    figure.savefig(pdf, metadata={"CreationDate": None})
    figure.savefig(png)
