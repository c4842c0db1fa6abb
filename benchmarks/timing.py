"""Time implementations on one thread, and compute the ratios of their times, the spread and the noise.

A slow moment of the machine affects all implementations of a round. Ratios are therefore computed within rounds, not from the
medians. The order within a round is random. Times are CPU times, which do not count the time of other processes.
"""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

# Half the width of the 95 % interval of the median of n normal values, in units of the interquartile range (1.349 standard
# deviations) divided by sqrt(n).
MEDIAN_INTERVAL = 1.96 * math.sqrt(math.pi / 2) / 1.349


@dataclass(frozen=True)
class Implementation:
    """A function to time.

    Attributes:
        call: the function.
        calls: calls per round.
        units: units of work per call, such as patches or reverse steps; times are per unit.
    """

    call: Callable[[], object]
    calls: int = 1
    units: int = 1


class Spread(NamedTuple):
    """Quartiles and median of a ratio over the rounds."""

    low: float
    median: float
    high: float


def time_in_rounds(
    implementations: Mapping[str, Implementation],
    rounds: int,
    clock: Callable[[], float] = time.process_time,
    seed: int = 1,
) -> dict[str, np.ndarray]:
    """Time all implementations once per round in random order, after an untimed call of each.

    Args:
        implementations: name -> implementation.
        rounds: number of rounds.
        clock: returns the time in seconds.
        seed: seed of the order.

    Returns:
        Name -> (rounds,) times in milliseconds per unit.

    Raises:
        ValueError: there is no implementation or no round.
    """
    if not implementations or rounds < 1:
        raise ValueError(f"{len(implementations)} implementations in {rounds} rounds give no times; use at least one of each")
    order = np.random.default_rng(seed)
    milliseconds = {name: np.empty(rounds) for name in implementations}
    for implementation in implementations.values():
        implementation.call()
    for number in range(rounds):
        for name in order.permutation(list(implementations)).tolist():
            implementation = implementations[name]
            start = clock()
            for _ in range(implementation.calls):
                implementation.call()
            milliseconds[name][number] = (clock() - start) * 1e3 / (implementation.calls * implementation.units)
    return milliseconds


def ratio(slow: np.ndarray, fast: np.ndarray) -> Spread:
    """Return quartiles and median of slow / fast over the rounds."""
    return Spread(*(float(value) for value in np.percentile(slow / fast, (25, 50, 75))))


def noise(same: Spread, rounds: int) -> float:
    """Return the relative uncertainty of a median ratio, estimated from the A/A ratio.

    It is the larger of two values: the distance of the median A/A ratio from 1, and half the width of its 95 % interval.
    """
    return max(abs(same.median - 1), MEDIAN_INTERVAL * (same.high - same.low) / math.sqrt(rounds))
