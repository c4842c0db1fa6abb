"""Rows of the benchmark table: a measured value, the peer's value, the target, and whether it is reached."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from benchmarks.timing import Spread, noise, ratio

Reached = Literal["yes", "within the noise", "no", "not measurable here", "information"]


@dataclass(frozen=True)
class Row:
    """One measurement of the table.

    Attributes:
        what: description of the measured operation.
        against: name of the peer; empty if there is none.
        unit: unit of `ours` and `theirs`.
        ours: median of our times over the rounds; None if it cannot be measured on this machine.
        theirs: median of the peer's times.
        ratio: theirs / ours, computed within each round.
        same: A/A ratio, our implementation against itself.
        target: lower limit of the ratio, or upper limit of `ours` if there is no peer; None if the row has no target.
        noise: relative uncertainty of the ratio.
        remark: information for reading the row, or the reason why it has no value.
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
        """Return whether the value or ratio reaches the target."""
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
        """Return the row as plain values for a JSON file."""
        spreads = {name: value and value._asdict() for name, value in (("ratio", self.ratio), ("same", self.same))}
        return asdict(self) | spreads | {"reached": self.reached}


def comparison(
    times: Mapping[str, np.ndarray],
    what: str,
    against: str,
    theirs: str,
    ours: str = "ours",
    same: tuple[str, str] = ("ours", "again"),
    target: float | None = None,
) -> Row:
    """Return the row that compares two implementations.

    Args:
        times: implementation -> (rounds,) times in milliseconds.
        what: description of the measured operation.
        against: name of the peer in the table.
        theirs: the peer's key in `times`.
        ours: our key in `times`.
        same: keys of the two identical implementations of the A/A ratio.
        target: lower limit of the ratio; None if the row has no target.
    """
    same_ratio = ratio(times[same[1]], times[same[0]])
    return Row(
        what=what,
        against=against,
        unit="ms",
        ours=float(np.median(times[ours])),
        theirs=float(np.median(times[theirs])),
        ratio=ratio(times[theirs], times[ours]),
        same=same_ratio,
        target=target,
        noise=noise(same_ratio, len(times[ours])),
    )
