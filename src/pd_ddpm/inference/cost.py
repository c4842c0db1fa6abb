"""Cost of sampling the members of a case."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol, Self


class CountedSegmenter(Protocol):
    """The part of a segmenter that costs depend on; scores are not re-run when segmenters change."""

    num_members: int
    evaluations_shared: int
    evaluations_per_member: int


@dataclass(frozen=True)
class Cost:
    """Network evaluations per slice and seconds per case: spent once for all members, and for each member.

    The shared cost is NaN for masks that another program has made.
    """

    evaluations_shared: int = 0
    evaluations_per_member: int = 0
    seconds_shared: float = 0.0
    seconds_per_member: float = 0.0

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        """Read the cost from a table row that holds these four columns among others; an empty cell is not known."""
        values = {field: record[field.name] for field in fields(cls)}
        return cls(**{field.name: math.nan if _is_empty(value) else field.type(value) for field, value in values.items()})

    @classmethod
    def unknown(cls) -> Self:
        """Return the cost of masks that another program has made."""
        return cls(evaluations_shared=math.nan, seconds_shared=math.nan)

    @property
    def is_known(self) -> bool:
        """Whether the masks were made here."""
        return not math.isnan(self.seconds_shared)

    def to_record(self) -> dict[str, float | None]:
        """Return the columns that `from_record` reads; None if not known."""
        return {name: None if _is_empty(value) else value for name, value in vars(self).items()}

    @classmethod
    def from_times(cls, segmenter: CountedSegmenter, network_seconds: float, total_seconds: float) -> Self:
        """Return the cost of one case.

        The network's time is counted where its evaluations are: per member, or once for all members.

        Args:
            segmenter: the segmenter that sampled all its members.
            network_seconds: time in the network.
            total_seconds: wall time of the whole case.

        Returns:
            The cost, without that of a pre-segmentation.
        """
        shared, per_member = segmenter.evaluations_shared, segmenter.evaluations_per_member
        member_seconds = network_seconds / segmenter.num_members if per_member else 0.0
        return cls(shared, per_member, total_seconds - member_seconds * segmenter.num_members, member_seconds)

    def extended(self, num_members: int, other: "Cost", num_others: int) -> "Cost":
        """Return the cost of an ensemble whose last members were sampled later.

        Args:
            num_members: members that this cost is for.
            other: cost of the later members.
            num_others: number of the later members.
        """
        seconds = num_members * self.seconds_per_member + num_others * other.seconds_per_member
        return replace(self, seconds_per_member=seconds / (num_members + num_others))

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(**{name: value + getattr(other, name) for name, value in vars(self).items()})

    def as_shared(self, num_members: int) -> "Cost":
        """Return the total cost of these members as shared cost, as for a mask from which all members of a method start."""
        total = self.total(num_members)
        return Cost(evaluations_shared=total["network_evaluations"], seconds_shared=total["seconds"])

    def total(self, num_members: int) -> dict[str, float]:
        """Return the network evaluations per slice and the seconds per case of this many members."""
        return {
            "network_evaluations": self.evaluations_shared + num_members * self.evaluations_per_member,
            "seconds": self.seconds_shared + num_members * self.seconds_per_member,
        }


def _is_empty(value: float | None) -> bool:
    return value is None or math.isnan(value)
