"""What a run consists of: which networks are trained, what is drawn from them, and what it would be if nothing were shared.

It is read off the jobs of the workflow, so that there is no second list of what is planned. Without torch.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from pd_ddpm.config import methods, resolve
from pd_ddpm.config.resolve import Config

# The exhibits that need masks of their own where nothing is shared. Fig. 2 and the tables of uncertainty and claims show
# what the others have drawn, also in the naive plan.
DRAWING_EXHIBITS = ("table1", "table2", "fig3_tprime", "fig4_ensemble", "pareto")
FIGURE4_REPEATS = 5  # fresh ensembles of each size; the paper does not say how many it drew

NAIVE_PLAN = (
    "every exhibit (Table 1, Table 2, Fig. 3, Fig. 4, Pareto) draws its own members of each method that it shows; a denoiser "
    f"is trained for every T' of Fig. 3; each size of ensemble in Fig. 4 is drawn afresh {FIGURE4_REPEATS} times (ours: the "
    "paper gives no number), where this plan takes subsets of one pool; slices without brain go through the networks too"
)

_RESULT = re.compile(r"([^/]+)/(?:scores|ensembles)/([^/]+)/split-(\d+)_seed-(\d+)\.csv$")


class Job(NamedTuple):
    """A job of the workflow: its rule, its wildcards, and the paths that it reads."""

    rule: str
    wildcards: Mapping[str, str]
    inputs: Sequence[str]


class Training(NamedTuple):
    """One network that is trained."""

    dataset: str
    network: str
    split: int
    seed: int


class Sampling(NamedTuple):
    """Members that are drawn of every test case of a split, by one method. exhibit: for which, in the naive plan."""

    dataset: str
    method: str
    split: int
    seed: int
    members: int
    all_slices: bool = False
    exhibit: str | None = None


class Work(NamedTuple):
    """All that networks do. In the naive plan the same training or sampling may stand there several times."""

    trainings: list[Training]
    samplings: list[Sampling]


def planned(config: Config, jobs: Iterable[Job]) -> Work:
    """What these jobs train and draw, each once, also where the cases of a sampling are drawn by several jobs."""
    trainings, samplings = {}, {}
    for rule, wildcards, _ in jobs:
        if rule == "train":
            trainings[Training(wildcards["dataset"], wildcards["network"], *_run(wildcards))] = None
        elif rule == "sample":
            method = wildcards["method"]
            members = methods.pool(config, method)
            samplings[Sampling(wildcards["dataset"], method, *_run(wildcards), members)] = None
    return Work(list(trainings), list(samplings))


def naive(config: Config, jobs: Sequence[Job]) -> Work:
    """The same exhibits without sharing: see NAIVE_PLAN."""
    figure3, figure4 = (config["exhibits"][name] for name in ("fig3_tprime", "fig4_ensemble"))
    shared = resolve.method(config, figure3["method"])["network"]
    trainings = []
    for training in planned(config, jobs).trainings:
        copies = len(set(figure3["t_start"])) if training.network == shared else 1
        trainings += [training] * copies
    fresh = FIGURE4_REPEATS * sum(range(1, figure4["pool"] + 1))
    samplings = []
    for rule, _, inputs in jobs:
        if rule in DRAWING_EXHIBITS:
            for dataset, method, split, seed in filter(None, map(_result, inputs)):
                members = fresh if rule == "fig4_ensemble" else resolve.method(config, method).get("samples", 1)
                samplings.append(Sampling(dataset, method, int(split), int(seed), members, True, rule))
    return Work(trainings, samplings)


def evaluations(config: Config, method: str) -> tuple[int, int]:
    """Network evaluations of a slice, once for all its members, and for each member: what the segmenters count."""
    chosen = resolve.method(config, method)
    if chosen["segmenter"] == "diffusion":
        return 0, methods.steps_of_chain(config, method) + (chosen["start"] == "learned_prior")
    return (1, 0) if chosen["segmenter"] == "latent" else (0, 1)


def _run(wildcards: Mapping[str, str]) -> tuple[int, int]:
    return int(wildcards["split"]), int(wildcards["seed"])


def _result(path: str) -> tuple[str, str, str, str] | None:
    """Data set, method, split and seed of a file of scores or ensembles; None for any other."""
    found = _RESULT.search(path)
    return found and found.groups()
