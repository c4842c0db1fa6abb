"""A claim of a paper, and how its verdict follows from our own scores.

A claim predicts on which side of a bound the mean of an effect lies. The effect is one number per training and case. The
verdict comes from the 95 % interval of the mean effect (see `statistics.mean_interval`):

* holds: the whole interval lies on the predicted side;
* does not hold: the whole interval lies on the other side;
* undecided at this scale: anything else, including a single case;
* not run: no method has one of the roles in the claim, or that method has no scores.

An effect without chance, such as a ratio of counted memory, has no interval. Its own side of the bound decides.

With one training, the interval covers other cases only, and a verdict is about the trained networks. With several, it covers
other trainings as well. Claims are not corrected for their number. The statement of a claim names what is compared, and its
bound if that is not zero.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from pd_ddpm.evaluation.scores import select_method
from pd_ddpm.evaluation.statistics import CASE, mean_interval, mean_over_cases, num_trainings
from pd_ddpm.exhibits.tables.cells import number
from pd_ddpm.exhibits.tables.table2 import Table2Row

HOLDS, FAILS, UNDECIDED, NOT_RUN = "holds", "does not hold", "undecided at this scale", "not run"

ROLE_NAMES = {
    "pd_ddpm": "PD-DDPM",
    "vanilla": "Vanilla DDPM",
    "presegmentation": "The pre-segmentation",
    "tdpm": "TDPM",
    "es_ddpm": "ES-DDPM",
    "patch": "PatchDDM",
    "full_resolution": "Training at full resolution",
    "half_resolution": "Training at half resolution",
    "recycled": "Recycling",
    "no_diffusion": "The network without diffusion",
    "both": "The mean of both",
}


@dataclass(frozen=True)
class Roles:
    """Methods that the claims compare. A claim is not run if one of its roles is None or empty.

    Attributes:
        pd_ddpm: PD-DDPM.
        vanilla: vanilla DDPM.
        presegmentation: the pre-segmentation of `pd_ddpm`.
        tdpm: TDPM.
        es_ddpm: ES-DDPM.
        ensemble: method whose ensembles of different size were scored.
        grid: T' -> PD-DDPM with this start timestep.
        step_sizes: T' -> mean size of the reverse steps of that chain, in timesteps.
        table2: rows of Table 2.
    """

    pd_ddpm: str
    vanilla: str | None = None
    presegmentation: str | None = None
    tdpm: str | None = None
    es_ddpm: str | None = None
    ensemble: str | None = None
    grid: Mapping[int, str] = field(default_factory=dict)
    step_sizes: Mapping[int, float] = field(default_factory=dict)
    table2: Sequence[Table2Row] = ()

    @classmethod
    def from_params(cls, params: Mapping[str, Any]) -> "Roles":
        """Return the roles from plain values, in which a row of Table 2 is a dictionary."""
        return cls(**{**params, "table2": [Table2Row(**row) for row in params["table2"]]})


@dataclass(frozen=True)
class PatchRoles:
    """Methods that the claims of PatchDDM compare. A claim is not run if one of its roles is None or empty.

    Attributes:
        patch: PatchDDM.
        full_resolution: trained on whole volumes.
        half_resolution: trained on whole volumes of half the resolution.
        chains: number of reverse steps -> PatchDDM with them.
        few_steps: the number of reverse steps that is compared with the largest one.
    """

    patch: str
    full_resolution: str | None = None
    half_resolution: str | None = None
    chains: Mapping[int, str] = field(default_factory=dict)
    few_steps: int | None = None


@dataclass(frozen=True)
class RecyclingRoles:
    """Methods that the claims of the recycling paper compare. A claim is not run if one of its roles is None or empty.

    Attributes:
        recycled: recycling from x_T.
        no_diffusion: the same network without diffusion.
        both: the mean of both.
        others: the other strategies -> their labels.
        steps: recycling at each reverse step, as `step_scores` takes it.
    """

    recycled: str
    no_diffusion: str | None = None
    both: str | None = None
    others: Mapping[str, str] = field(default_factory=dict)
    steps: Sequence[Mapping[str, Any]] = ()


def roles_from_params(params: Mapping[str, Any]) -> Roles | PatchRoles | RecyclingRoles:
    """Return the roles of the claims of the paper whose method the plain values name."""
    if "recycled" in params:
        return RecyclingRoles(**params)
    return PatchRoles(**params) if "patch" in params else Roles.from_params(params)


class NotRun(Exception):
    """Raised when a method or a score is missing that the claim needs; the message names it."""


@dataclass(frozen=True)
class Effect:
    """Effect of a claim.

    Attributes:
        values: one number per training and case (index); NaN if undefined.
        detail: what was compared, in words.
        condition: whether the second condition of the claim is true, if the claim has one.
        is_exact: whether `values` is a single number that has no chance in it, and therefore no interval.
    """

    values: pd.Series
    detail: str
    condition: bool = True
    is_exact: bool = False


@dataclass(frozen=True)
class Evidence:
    """Data that claims are tested on.

    Attributes:
        cases: scores by method, training and case (see `scores.by_training`).
        ensembles: ensemble rows; an empty frame in studies without them.
        roles: methods that the claims compare.
        memory: rows of the memory table; an empty frame in studies without it.
    """

    cases: pd.DataFrame
    ensembles: pd.DataFrame
    roles: Roles | PatchRoles | RecyclingRoles
    memory: pd.DataFrame = field(default_factory=pd.DataFrame)

    def scores_of(self, method: str | None, name: str) -> pd.DataFrame:
        """Return the scores of a method by training and case.

        Args:
            method: method, or None if no method has the role.
            name: name of the method in the message of the error.

        Raises:
            NotRun: the method has no scores.
        """
        if method is None:
            raise NotRun(f"{name} was not run")
        if method not in set(self.cases["method"]):
            raise NotRun(f"{name} was not scored")
        return select_method(self.cases, method)

    def scores_of_role(self, role: str) -> pd.DataFrame:
        """Return the scores of the method with this role by training and case, or raise NotRun if it has none."""
        return self.scores_of(getattr(self.roles, role), ROLE_NAMES[role])

    def by_t_start(self, metric: str, grid: Mapping[int, str]) -> pd.DataFrame:
        """Return a metric by training and case (rows) and T' (columns, ascending).

        Args:
            metric: column of the scores.
            grid: T' -> method.

        Raises:
            NotRun: a method has no scores, or no case has a value at each T'.
        """
        columns = {t_start: self.scores_of(grid[t_start], grid[t_start])[metric] for t_start in sorted(grid)}
        table = pd.DataFrame(columns).dropna()
        if table.empty:
            raise NotRun(f"No case has a value of {metric} at each T'")
        return table


@dataclass(frozen=True, kw_only=True)
class Claim:
    """Testable form of a statement in the paper: the mean effect over cases lies above (or below) a bound.

    Attributes:
        name: key of the claim in the table.
        statement: the claim in words.
        source: sections, tables and figures of the paper that make the claim.
        unit: unit of the effect.
        effect: computes the effect in each training and case.
        printed: effect according to the values printed in the paper; NaN if the paper does not give it.
        bound: value that the mean effect is compared with.
        is_above: whether the claim predicts an effect above the bound.
        scale: transformation of effect and interval for the table.
    """

    name: str
    statement: str
    source: str
    unit: str
    effect: Callable[[Evidence], Effect]
    printed: float = math.nan
    bound: float = 0.0
    is_above: bool = True
    scale: Callable[[float], float] = float

    def row(self, evidence: Evidence) -> dict[str, object]:
        """Test the claim and return its row of the table."""
        identity = {"claim": self.name, "statement": self.statement, "paper": self.source}
        try:
            effect = self.effect(evidence)
        except NotRun as reason:
            numbers = dict.fromkeys(["effect", "effect_low", "effect_high"], math.nan)
            outcome = {"cases": 0, "trainings": 0, "verdict": NOT_RUN, "detail": f"{reason}."}
        else:
            values = effect.values.dropna()
            if effect.is_exact:
                mean = low = high = float(values.iloc[0])
                counts = {"cases": 0, "trainings": 0}
            else:
                mean, (low, high) = mean_over_cases(values), mean_interval(values)
                counts = {"cases": values.index.get_level_values(CASE).nunique(), "trainings": num_trainings(values)}
            numbers = {"effect": self.scale(mean), "effect_low": self.scale(low), "effect_high": self.scale(high)}
            outcome = counts | {"verdict": self.verdict(low, high, effect.condition), "detail": effect.detail}
            if effect.is_exact:
                numbers |= {"effect_low": math.nan, "effect_high": math.nan}
        return identity | numbers | {"effect_paper": self.printed, "unit": self.unit} | outcome

    def verdict(self, low: float, high: float, condition: bool) -> str:
        """Return the verdict.

        Args:
            low: lower end of the interval of the mean effect.
            high: upper end of the interval.
            condition: second condition of the claim. If it is false, the claim does not hold, whatever its effect.
        """
        is_beyond, is_opposite = low > self.bound, high < self.bound
        if not self.is_above:
            is_beyond, is_opposite = is_opposite, is_beyond
        if not condition or is_opposite:
            return FAILS
        return HOLDS if is_beyond else UNDECIDED


def plain_number(value: float) -> str:
    """Return a number with fewer decimals the larger it is."""
    return number(value, 1 if abs(value) >= 10 else 2 if abs(value) >= 2 else 3)
