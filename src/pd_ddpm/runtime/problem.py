"""Problems that the user can fix: where, what is wrong, and what to do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, as fields of a table row or as one readable line.

    Attributes:
        location: the file, configuration key or case; empty for a problem of the whole dataset.
        problem: what is wrong there, in lower case and without a full stop.
        remedy: what to do, with a capital letter and without a full stop.
    """

    location: str | Path
    problem: str
    remedy: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "location", str(self.location))

    def __str__(self) -> str:
        text = f"{self.problem}. {self.remedy}."
        return f"{self.location}: {text}" if self.location else text

    def within(self, context: str) -> Problem:
        """Return this problem with its location preceded by a wider one, such as the case that a file belongs to."""
        return Problem(f"{context}, {self.location}" if self.location else context, self.problem, self.remedy)


class ProblemError(ValueError):
    """An error that carries its problems as fields, so that a report can list them without parsing the message.

    The message is the problem itself or, with a heading, "<heading>: <count> problem(s):" and one line per problem.
    """

    def __init__(self, *problems: Problem, heading: str = ""):
        super().__init__(*problems)
        self.problems = problems
        self.heading = heading

    def __str__(self) -> str:
        if not self.heading:
            return "\n".join(map(str, self.problems))
        lines = "\n".join(f"  {problem}" for problem in self.problems)
        return f"{self.heading}: {len(self.problems)} problem(s):\n{lines}"


def problems_of(error: Exception, location: str | Path = "") -> tuple[Problem, ...]:
    """Return the problems that an error carries, or one problem that wraps an error of another library.

    Args:
        error: any error.
        location: the file or case at which another library's error was raised.
    """
    if isinstance(error, ProblemError):
        return error.problems
    is_system_error = isinstance(error, OSError)
    remedy = "Check the disk and the permissions of the file" if is_system_error else "Fetch or convert the file again"
    return (Problem(location, f"cannot be processed ({type(error).__name__}: {error})", remedy),)
