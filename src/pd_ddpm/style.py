"""One look for all figures: a colour and a marker per method that differ in print and for colour-blind readers."""

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


def apply() -> None:
    """Set fonts, sizes and grid for the figures that follow. Text stays text in PDFs; no time stamp makes files differ."""
    sns.set_theme(context="paper", style="ticks", font_scale=1.0)
    plt.rcParams.update({"pdf.fonttype": 42, "savefig.dpi": 200, "savefig.bbox": "tight", "axes.spines.top": False})
    plt.rcParams.update({"axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.3, "legend.frameon": False})


def colour(label: str) -> str:
    """The colour of a method's label; black for one that has none."""
    return COLOURS.get(label, "#000000")
