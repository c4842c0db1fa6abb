"""Problems of a configuration, in sentences that name the key, what is wrong and a remedy."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches


@dataclass(frozen=True)
class Problem:
    """What is wrong with a key or a file.

    Attributes:
        path: keys that lead to it from the root, such as ("training", "batch"), or the path of a file.
        finding: what is wrong, without a full stop.
        remedy: what to do, without a full stop.
    """

    path: tuple[str, ...]
    finding: str
    remedy: str

    def __str__(self) -> str:
        return f"`{'.'.join(self.path)}`: {self.finding}. {self.remedy}."


class ConfigError(ValueError):
    """The configuration cannot be run.

    Attributes:
        problems: everything that is wrong with it.
    """

    def __init__(self, *problems: Problem) -> None:
        self.problems: Sequence[Problem] = problems
        super().__init__("the configuration cannot be run:\n" + "\n".join(f"  - {problem}" for problem in problems))


def suggestion(name: object, valid: Iterable[str]) -> str:
    """Return the valid name closest to this one, if any is close, and the list of all."""
    names = list(valid)
    close = get_close_matches(str(name), names, n=1)
    nearest = f"Did you mean '{close[0]}'? " if close else ""
    return f"{nearest}Valid: {', '.join(names)}"
