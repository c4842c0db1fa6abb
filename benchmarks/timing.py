"""Contestants in turns, on one thread, and what their times say: ratios formed within a round, their spread, the noise.

A slow moment of the machine falls on all contestants of a round, so ratios are formed there and not of the medians. The
order within a round is drawn anew each time. Times are CPU time, which other processes do not lengthen directly.
"""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

# Half of the 95 % interval of a median of normal values, as a multiple of the quartiles' distance (1.349 standard deviations)
# over the root of the number of values.
MEDIAN_INTERVAL = 1.96 * math.sqrt(math.pi / 2) / 1.349


@dataclass(frozen=True)
class Contestant:
    """What is timed. calls: in a row in each round; units: how many of what the times are of are done by one call."""

    call: Callable[[], object]
    calls: int = 1
    units: int = 1


class Spread(NamedTuple):
    """The quartiles and the median of a ratio over the rounds."""

    low: float
    median: float
    high: float


def take_turns(
    contestants: Mapping[str, Contestant],
    rounds: int,
    clock: Callable[[], float] = time.process_time,
    seed: int = 1,
) -> dict[str, np.ndarray]:
    """Milliseconds (rounds,) per unit of each contestant: one untimed call of each, then all once per round, in random order.

    Raises ValueError without a contestant or a round.
    """
    if not contestants or rounds < 1:
        raise ValueError(f"{len(contestants)} contestants in {rounds} rounds give no times; name one and one round at least")
    order = np.random.default_rng(seed)
    milliseconds = {name: np.empty(rounds) for name in contestants}
    for contestant in contestants.values():
        contestant.call()
    for number in range(rounds):
        for name in order.permutation(list(contestants)).tolist():
            contestant = contestants[name]
            start = clock()
            for _ in range(contestant.calls):
                contestant.call()
            milliseconds[name][number] = (clock() - start) * 1e3 / (contestant.calls * contestant.units)
    return milliseconds


def ratio(slow: np.ndarray, fast: np.ndarray) -> Spread:
    """The spread of slow / fast over the rounds."""
    return Spread(*(float(value) for value in np.percentile(slow / fast, (25, 50, 75))))


def noise(same: Spread, rounds: int) -> float:
    """How far a median ratio over so many rounds may be off, as a share, by the ratio of our code to itself.

    The larger of how far that ratio's median is from 1, and half of its 95 % interval.
    """
    return max(abs(same.median - 1), MEDIAN_INTERVAL * (same.high - same.low) / math.sqrt(rounds))
