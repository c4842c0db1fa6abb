"""Trainings and samplings of a run, and those of a naive plan, in which exhibits share nothing. Does not import PyTorch.

They are read from the jobs of the workflow, so that there is no second list of what is planned.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from pd_ddpm.config import methods, resolve
from pd_ddpm.config.resolve import Config
from pd_ddpm.config.run import Run

# Exhibits that sample in the naive plan. Fig. 2 and the tables of uncertainty and claims show samples of the others.
SAMPLING_EXHIBITS = (
    *("table1", "table2", "fig3_tprime", "fig4_ensemble", "fig4", "fig5", "pareto", "leak"),
    *("no_diffusion", "fig3", "table4"),
)
FIGURE4_REPEATS = 5  # fresh ensembles of each size; ours, since the paper gives no number

NAIVE_PLAN = (
    "every exhibit (Table 1, Table 2, Fig. 3, Fig. 4, Fig. 5, Pareto, leak table) samples its own members; a denoiser is "
    "trained for every T' of Fig. 3; each ensemble size in Fig. 4 is sampled "
    f"{FIGURE4_REPEATS} times (ours: the paper gives no number), while this plan resamples subsets of one pool; slices without "
    "brain are segmented too"
)


class Job(NamedTuple):
    """A job of the workflow: its rule, its wildcards, and the paths of its inputs."""

    rule: str
    wildcards: Mapping[str, str]
    inputs: Sequence[str]


@dataclass(frozen=True)
class Sampling:
    """Sampling of all test cases of a run by its method.

    Attributes:
        run: the method, with dataset, split and seed.
        members: ensemble members of each case.
        all_slices: whether slices without brain are segmented too, as in the naive plan.
        exhibit: the exhibit that needs it, in the naive plan.
    """

    run: Run
    members: int
    all_slices: bool = False
    exhibit: str | None = None


@dataclass(frozen=True)
class Work:
    """All trainings and samplings of a plan. The naive plan has the same one several times."""

    trainings: Sequence[Run]
    samplings: Sequence[Sampling]


def planned_work(config: Config, jobs: Iterable[Job]) -> Work:
    """Return what these jobs train and sample. A sampling in several shards counts once."""
    trainings, samplings = {}, {}
    for job in jobs:
        if job.rule == "train":
            trainings[Run.from_wildcards(job.wildcards, "network")] = None
        elif job.rule == "sample":
            run = Run.from_wildcards(job.wildcards, "method")
            samplings[Sampling(run, methods.pool(config, run.name))] = None
    return Work(list(trainings), list(samplings))


def naive_work(config: Config, jobs: Sequence[Job]) -> Work:
    """Return what the same exhibits would train and sample without sharing, see `NAIVE_PLAN`."""
    figure3 = config["exhibits"]["fig3_tprime"]
    shared_network = None if figure3 is None else resolve.method(config, figure3["method"])["network"]
    trainings = []
    for training in planned_work(config, jobs).trainings:
        copies = len(set(figure3["t_start"])) if training.name == shared_network else 1
        trainings += [training] * copies
    samplings = []
    for job in jobs:
        if job.rule in SAMPLING_EXHIBITS:
            for run in (part for scored in _scored_runs(job.inputs) for part in _sampled_runs(config, scored)):
                members = resolve.method(config, run.name).get("samples", 1)
                members = _naive_members(config, job.rule, run.name) or members
                samplings.append(Sampling(run, members, all_slices=True, exhibit=job.rule))
    return Work(trainings, samplings)


def _naive_members(config: Config, rule: str, name: str) -> int | None:
    """Return the members of all ensembles that a figure of ensemble sizes shows of a method; None for other exhibits."""
    figure = config["exhibits"].get(rule)
    if rule in ("fig4", "fig4_ensemble"):
        return FIGURE4_REPEATS * sum(range(1, figure["pool"] + 1))
    if rule == "fig5":
        chain = methods.figure5_chains(config)[name]
        return sum(members for members in figure["members"] if members <= chain["pool"])
    return None


def evaluations_per_slice(config: Config, method: str) -> tuple[int, int]:
    """Return the network evaluations of a slice: those that all members share, and those of each member.

    A mean of other methods and masks from files have none of their own.
    """
    settings = resolve.method(config, method)
    if settings["segmenter"] in ("mean", "files"):
        return 0, 0
    if settings["segmenter"] == "diffusion":
        return 0, methods.evaluated_steps(config, method) + (settings["start"] == "learned_prior")
    return (1, 0) if settings["segmenter"] == "latent" else (0, 1)


def _sampled_runs(config: Config, run: Run) -> list[Run]:
    """Return the samplings behind the predictions of a run: its own, those that it averages, or none."""
    return [replace(run, name=name) for name in methods.sampled_methods(config, run.name)]


def _scored_runs(paths: Iterable[str]) -> list[Run]:
    """Return the runs of the files of scores or ensembles among these paths."""
    return [Run.parse(path) for path in map(Path, paths) if len(path.parts) > 3 and path.parts[-3] in ("scores", "ensembles")]
