"""A row of the table: one figure, what it is compared with, its target, and whether that is reached."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from benchmarks.timing import Spread, noise, ratio

Reached = Literal["yes", "within the noise", "no", "not measurable here", "information"]


@dataclass(frozen=True)
class Row:
    """One figure.

    ours, theirs  medians over the rounds, in `unit`
    ratio         theirs / ours, formed within a round; same: the like of our code and itself (A/A)
    target        what the ratio must at least be, or, where there is no peer, what `ours` may at most be; None: information
    noise         how far the ratio may be off, as a share
    remark        what else must be known to read the row; of a row without a value why there is none
    """

    what: str
    against: str
    unit: str
    ours: float | None = None
    theirs: float | None = None
    ratio: Spread | None = None
    same: Spread | None = None
    target: float | None = None
    noise: float = 0.0
    remark: str = ""

    @property
    def reached(self) -> Reached:
        if self.ours is None:
            return "not measurable here"
        if self.target is None:
            return "information"
        if self.ratio is None:
            return "yes" if self.ours <= self.target else "no"
        if self.ratio.median >= self.target:
            return "yes"
        return "within the noise" if self.ratio.median >= self.target * (1 - self.noise) else "no"

    def as_record(self) -> dict[str, Any]:
        """Plain values for a json file."""
        spreads = {name: value and value._asdict() for name, value in (("ratio", self.ratio), ("same", self.same))}
        return asdict(self) | spreads | {"reached": self.reached}


def compared(
    times: Mapping[str, np.ndarray],
    what: str,
    against: str,
    theirs: str,
    ours: str = "ours",
    same: tuple[str, str] = ("ours", "again"),
    target: float | None = None,
) -> Row:
    """The row of two contestants' times in milliseconds; `same`: our code and the very same once more."""
    again = ratio(times[same[1]], times[same[0]])
    return Row(
        what,
        against,
        "ms",
        float(np.median(times[ours])),
        float(np.median(times[theirs])),
        ratio(times[theirs], times[ours]),
        again,
        target,
        noise(again, len(times[ours])),
    )
