"""Problems that the user can fix: where, what is wrong, and what to do."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, as fields of a table row or as one readable line.

    location: the file, configuration key or case; empty for a problem of the whole data set. problem: what is wrong there,
    in lower case, without a full stop. remedy: what to do, a sentence without a full stop.
    """

    location: str
    problem: str
    remedy: str

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
