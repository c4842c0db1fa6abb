"""One look for all figures: a colour, a marker and dashes per method that differ in print and for colour-blind readers."""

import matplotlib
import matplotlib.pyplot as plt
import seaborn as sns

matplotlib.use("Agg")

# Okabe & Ito 2008, a palette that colour-blind readers can tell apart.
COLOURS = {
    "PD-DDPM": "#0072B2",
    "Vanilla DDPM": "#D55E00",
    "ES-DDPM": "#009E73",
    "TDPM": "#CC79A7",
    "AttUNet": "#E69F00",
    "U-Net": "#56B4E9",
    "U-Net++": "#999999",
    "Bayesian U-Net": "#F0E442",
    "Probabilistic U-Net": "#000000",
}
MARKERS = dict(zip(COLOURS, "osD^vPX<>", strict=True))

# Lengths of dash and gap in line widths.
_DASHES = ((), (1, 1.5), (4, 1.5, 1, 1.5), (4, 1.5, 1, 1.5, 1, 1.5), (5, 2), (2.5, 1.5), (9, 3), (9, 2, 3, 2), (1, 3))
DASHES = dict(zip(COLOURS, _DASHES, strict=True))

INK = "#262626"


def apply() -> None:
    """Set fonts, sizes and grid for the figures that follow. Text stays text in PDFs; no time stamp makes files differ."""
    sns.set_theme(context="paper", style="ticks", font_scale=0.9)
    plt.rcParams.update({"pdf.fonttype": 42, "savefig.dpi": 300, "savefig.bbox": "tight", "axes.spines.top": False})
    plt.rcParams.update({"axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.3, "legend.frameon": False})
    plt.rcParams.update({"lines.linewidth": 1.2, "lines.markersize": 4.5})


def colour(label: str) -> str:
    """The colour of a method's label; black for one that has none."""
    return COLOURS.get(label, "#000000")


def marker(label: str) -> str:
    """The marker of a method's label; a circle for one that has none."""
    return MARKERS.get(label, "o")


def dashes(label: str) -> tuple[float, tuple[float, ...]] | str:
    """The line style of a method's label; a solid line for one that has none."""
    return (0, DASHES[label]) if DASHES.get(label) else "-"
