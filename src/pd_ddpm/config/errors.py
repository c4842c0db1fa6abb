"""Errors of the configuration: problems located by their key, and suggestions of valid names."""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches

from pd_ddpm.runtime.problem import Problem, ProblemError


class KeyProblem(Problem):
    """A problem of a key of the configuration, whose location is that key in backticks.

    Attributes:
        path: keys that lead to it from the root, such as ("training", "batch").
    """

    path: tuple[str, ...]

    def __init__(self, path: Sequence[str], problem: str, remedy: str) -> None:
        super().__init__(f"`{'.'.join(path)}`", problem, remedy)
        object.__setattr__(self, "path", tuple(path))  # a problem is frozen

    def at(self, path: Sequence[str]) -> "KeyProblem":
        """Return the same problem of another key."""
        return KeyProblem(path, self.problem, self.remedy)


class ConfigError(ProblemError):
    """The configuration cannot be run."""

    def __init__(self, *problems: Problem) -> None:
        super().__init__(*problems, heading="the configuration cannot be run")


def suggestion(name: object, valid: Iterable[str]) -> str:
    """Return the valid name closest to this one, if any is close, and the list of all."""
    names = list(valid)
    close = get_close_matches(str(name), names, n=1)
    nearest = f"Did you mean '{close[0]}'? " if close else ""
    return f"{nearest}Valid: {', '.join(names)}"
