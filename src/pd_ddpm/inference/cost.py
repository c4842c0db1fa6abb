"""What it costs to draw the members of a case."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self


@dataclass(frozen=True)
class Cost:
    """Network evaluations for one slice and seconds for the whole case: once, and for each member that is drawn."""

    evaluations_shared: int = 0
    evaluations_per_member: int = 0
    seconds_shared: float = 0.0
    seconds_per_member: float = 0.0

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> Self:
        """From the row of a table that holds these four among other columns."""
        return cls(**{field.name: field.type(record[field.name]) for field in fields(cls)})

    @classmethod
    def of_drawing(cls, members: int, shared: int, per_member: int, network_seconds: float, seconds: float) -> Self:
        """Of a case of which `members` were drawn in `seconds`, with so many evaluations shared and per member.

        The network's time is booked where its evaluations are: on each member, or once for all.
        """
        each = network_seconds / members if per_member else 0.0
        return cls(shared, per_member, seconds - each * members, each)

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(**{name: value + getattr(other, name) for name, value in vars(self).items()})

    def shared(self, members: int) -> "Cost":
        """What this many members cost together, booked once: that of a mask from which all members of another method start."""
        whole = self.of(members)
        return Cost(evaluations_shared=whole["network_evaluations"], seconds_shared=whole["seconds"])

    def of(self, members: int) -> dict[str, float]:
        """What this many members cost together."""
        return {
            "network_evaluations": self.evaluations_shared + members * self.evaluations_per_member,
            "seconds": self.seconds_shared + members * self.seconds_per_member,
        }
