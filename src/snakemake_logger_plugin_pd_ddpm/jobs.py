"""Names of jobs and of groups of jobs, as a person would say them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from snakemake_logger_plugin_pd_ddpm.job_log import JobLog

_MAX_NAMED = 4
_WORTH_TELLING_SECONDS = 10


@dataclass
class Job:
    """A job that Snakemake has started or submitted.

    Attributes:
        rule: name of its rule.
        name: what distinguishes it from other jobs of its rule; empty if there is none other.
        log: its log file.
        start: time of its start in seconds.
    """

    rule: str
    name: str
    log: JobLog
    start: float

    @classmethod
    def from_record(cls, rule: str, wildcards: Mapping[str, str], logs: Sequence[str], start: float) -> "Job":
        """Return the job that Snakemake describes.

        Args:
            rule: name of the rule.
            wildcards: values of the rule's wildcards.
            logs: log files of the job.
            start: time in seconds.
        """
        return cls(rule, job_name(wildcards), JobLog(Path(logs[0]) if logs else None), start)

    def __str__(self) -> str:
        return f"{self.rule} {self.name}".rstrip()


def job_name(wildcards: Mapping[str, str]) -> str:
    """Return the network or method of a job with its split, or its dataset; seed 0 and whole samplings are not named."""
    values = dict(wildcards)
    name = values.get("method") or values.get("network") or values.get("dataset", "")
    parts = [values[key] for key in ("weights",) if key in values]
    if "split" in values:
        parts.append(f"split {values['split']}")
    if values.get("seed", "0") != "0":
        parts.append(f"seed {values['seed']}")
    if "shard" in values:
        parts.append(f"shard {values['shard']} of {values['shards']}")
    return f"{name} ({', '.join(parts)})" if parts else name


def finished_text(jobs: Iterable[tuple[Job, float]]) -> str:
    """Return one line on finished jobs, those of a rule together.

    Args:
        jobs: jobs and the seconds that they took.
    """
    by_rule: dict[str, list[tuple[Job, float]]] = {}
    for job, seconds in jobs:
        by_rule.setdefault(job.rule, []).append((job, seconds))
    return "; ".join(_rule_text(rule, finished) for rule, finished in by_rule.items())


def duration(seconds: float) -> str:
    """Return a duration such as "12 s", "3 min 5 s" or "2 h 10 min"."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 1:
        return f"{rest} s"
    hours, minutes_left = divmod(minutes, 60)
    return f"{hours} h {minutes_left} min" if hours else f"{minutes} min {rest} s"


def _rule_text(rule: str, finished: Sequence[tuple[Job, float]]) -> str:
    if len(finished) > _MAX_NAMED:
        return f"{rule}: {len(finished)} jobs"
    texts = []
    for job, seconds in finished:
        time = f", {duration(seconds)}" if seconds >= _WORTH_TELLING_SECONDS else ""
        name = job.name
        texts.append(f"{name[:-1]}{time})" if time and name.endswith(")") else f"{name} ({time[2:]})" if time else name)
    return f"{rule} {', '.join(texts)}".rstrip()
