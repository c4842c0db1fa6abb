"""The claims of the PD-DDPM paper, each put to the test on our own scores.

Each claim becomes one number per case (its effect) and a side of a bound on which the claim puts it. The verdict comes from
the 95 % interval of the mean effect over cases: all of it on the claimed side, the claim holds; all of it on the other side,
it does not; anything else is undecided at this scale, which includes a single case. A claim is not run where no method plays
one of its parts, or where that method has no scores.

The interval is Student's t. With the four to twelve cases of a demo or of one fold the percentile bootstrap holds the true
mean too seldom (84 % at five cases, where it should be 95 %) and would decide what is not decided; a case's effect is a
difference or an average, hence not far from normal, and t is exact for normal effects from two cases on.

The unit is the case: seeds are averaged first, and trainings do not vary inside an interval. Each claim stands for itself,
without a correction for their number. What a claim is compared with, and any bound other than zero, stands in its statement.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from pd_ddpm.evaluation.scores import select_method
from pd_ddpm.evaluation.statistics import student_interval
from pd_ddpm.exhibits.tables.cells import number
from pd_ddpm.exhibits.tables.table2 import Table2Row

HOLDS, FAILS, UNDECIDED, NOT_RUN = "holds", "does not hold", "undecided at this scale", "not run"

ROLE_NAMES = {
    "pd_ddpm": "PD-DDPM",
    "vanilla": "Vanilla DDPM",
    "presegmentation": "The pre-segmentation",
    "tdpm": "TDPM",
    "es_ddpm": "ES-DDPM",
}


@dataclass(frozen=True)
class Roles:
    """Which method plays which part in a claim; a claim whose part is None, empty or without scores is not run.

    grid: T' -> method. table2: rows of Table 2 as in `table2.Table2Row`. ensemble: whose ensemble rows are read.
    """

    pd_ddpm: str
    vanilla: str | None = None
    presegmentation: str | None = None
    tdpm: str | None = None
    es_ddpm: str | None = None
    ensemble: str | None = None
    grid: Mapping[int, str] = field(default_factory=dict)
    table2: Sequence[Table2Row] = ()

    @classmethod
    def from_params(cls, params: Mapping[str, Any]) -> "Roles":
        """Return the roles from plain values, in which a row of Table 2 is a dictionary."""
        return cls(**{**params, "table2": [Table2Row(**row) for row in params["table2"]]})


class NotRun(Exception):
    """What is missing for a claim."""


@dataclass(frozen=True)
class Effect:
    """The effect of each case, what was compared in words, and whether what the claim says beside it is true."""

    of_case: pd.Series
    detail: str
    condition: bool = True


@dataclass(frozen=True)
class Evidence:
    """Scores by case and method, ensemble rows, and who is who."""

    cases: pd.DataFrame
    ensembles: pd.DataFrame
    roles: Roles

    def of(self, method: str | None, called: str) -> pd.DataFrame:
        """The scores of a method by case; NotRun, naming what it is called, if it has none."""
        if method is None:
            raise NotRun(f"{called} is none of the methods that were run")
        if method not in set(self.cases["method"]):
            raise NotRun(f"{called} was not scored")
        return select_method(self.cases, method)

    def of_role(self, role: str) -> pd.DataFrame:
        """The scores of the method that plays this role, by case; NotRun if it has none."""
        return self.of(getattr(self.roles, role), ROLE_NAMES[role])

    def wide(self, metric: str, grid: Mapping[int, str]) -> pd.DataFrame:
        """A metric by case (rows) and T' (columns, ascending), cases with all of them only; NotRun if there is none."""
        columns = {t_start: self.of(grid[t_start], grid[t_start])[metric] for t_start in sorted(grid)}
        wide = pd.DataFrame(columns).dropna()
        if wide.empty:
            raise NotRun(f"No case has a value of {metric} at each T'")
        return wide


@dataclass(frozen=True)
class Claim:
    """A sentence of the paper made testable: the mean of `effect` over cases lies above (or below) the bound.

    printed: the effect as the paper's own numbers have it. scale: how effects, intervals and the bound are shown.
    """

    name: str
    statement: str
    paper: str
    unit: str
    effect: Callable[[Evidence], Effect]
    printed: float = math.nan
    bound: float = 0.0
    above: bool = True
    scale: Callable[[float], float] = float

    def row(self, evidence: Evidence) -> dict[str, object]:
        """The claim, tested."""
        identity = {"claim": self.name, "statement": self.statement, "paper": self.paper}
        try:
            found = self.effect(evidence)
        except NotRun as missing:
            nothing = dict.fromkeys(["effect", "effect_low", "effect_high"], math.nan)
            outcome = {"cases": 0, "verdict": NOT_RUN, "detail": f"{missing}."}
            return identity | nothing | {"effect_paper": self.printed, "unit": self.unit} | outcome
        effects = found.of_case.dropna()
        low, high = student_interval(effects)
        numbers = {"effect": self.scale(effects.mean()), "effect_low": self.scale(low), "effect_high": self.scale(high)}
        outcome = {"cases": len(effects), "verdict": self.verdict(low, high, found.condition), "detail": found.detail}
        return identity | numbers | {"effect_paper": self.printed, "unit": self.unit} | outcome

    def verdict(self, low: float, high: float, condition: bool) -> str:
        """What the interval says; a claim whose condition is false does not hold, whatever its effect."""
        claimed, opposite = (low > self.bound, high < self.bound) if self.above else (high < self.bound, low > self.bound)
        if not condition or opposite:
            return FAILS
        return HOLDS if claimed else UNDECIDED


def plain_number(value: float) -> str:
    return number(value, 1 if abs(value) >= 10 else 2 if abs(value) >= 2 else 3)
