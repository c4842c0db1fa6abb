"""Labels of logarithmic axes. Matplotlib's own labels of minor ticks overlap."""

import numpy as np
from matplotlib.axis import Axis
from matplotlib.ticker import FixedLocator, FormatStrFormatter, NullLocator

# Leading digits of the labels of a logarithmic axis, fewest first.
DIGITS = ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7), tuple(np.arange(10, 100) / 10))


def log_ticks(low: float, high: float) -> np.ndarray:
    """Return round positions between two positive numbers, so few that their labels do not overlap on a logarithmic axis.

    Args:
        low: lower end of the axis.
        high: upper end of the axis.

    Returns:
        The powers of ten if at least three are on the axis, otherwise more positions in each decade. A range without round
        positions has its two ends, rounded.
    """
    powers = 10.0 ** np.arange(np.floor(np.log10(low)), np.ceil(np.log10(high)) + 1)
    for digits in DIGITS:
        positions = np.outer(powers, digits).ravel()
        positions = positions[(positions >= low) & (positions <= high)]
        if len(positions) >= 3:
            return positions[:: -(-len(positions) // 7)]
    return np.array([float(f"{end:.3g}") for end in (low, high)])


def label_log_axis(axis: Axis) -> None:
    """Label a logarithmic axis with plain numbers at round positions within its present limits."""
    axis.set_major_locator(FixedLocator(log_ticks(*axis.get_view_interval())))
    axis.set_major_formatter(FormatStrFormatter("%g"))
    axis.set_minor_locator(NullLocator())
