"""The table of a dry run: how many jobs of each rule would run, and why."""

from collections import Counter

# Beginnings of Snakemake's reasons, and the words for them.
_KINDS = {
    "Missing output files": "missing output",
    "Incomplete output files": "incomplete output",
    "Updated input files": "updated input",
    "Set of input files has changed": "other input files",
    "Params have changed": "changed settings or code",
    "Software environment definition has changed": "changed environment",
    "Forced execution": "forced",
}
_CONSEQUENCE = "follows from the jobs above"  # the only reason is that an input comes from another job


class DryRun:
    """The jobs of a dry run."""

    def __init__(self) -> None:
        self._jobs: dict[int, tuple[str, str]] = {}
        self._planned: dict[str, int] = {}

    def plan(self, counts: dict[str, int]) -> None:
        """Set the numbers of jobs, rule -> count, for a run whose option `--quiet rules` hides the jobs."""
        self._planned = counts

    def add(self, jobid: int, rule: str, reason: str) -> None:
        """Add a job.

        Args:
            jobid: Snakemake's number of the job.
            rule: name of its rule.
            reason: Snakemake's reasons, such as "Missing output files: a, b; Params have changed since last execution".
        """
        self._jobs[jobid] = (rule, reason)

    def table(self) -> list[str]:
        """Return the table as lines, rules in the order in which they were added."""
        counts = Counter(rule for rule, _ in self._jobs.values()) or self._planned
        width = max(map(len, counts), default=0) + 2
        lines = [f"{'job':<{width}}{'count':>7}  reason", f"{'-' * (width - 2)}  {'-' * 7}  {'-' * 6}"]
        for rule, count in counts.items():
            lines.append(f"{rule:<{width}}{count:>7}  {self._reasons(rule)}".rstrip())
        return [*lines, f"{'total':<{width}}{sum(counts.values()):>7}"]

    def _reasons(self, rule: str) -> str:
        """Return the kinds of reasons of a rule's jobs, and for how many of them each holds if not for all."""
        own = [_kinds(reason) for name, reason in self._jobs.values() if name == rule]
        counts = Counter(kind for kinds in own for kind in kinds)
        return ", ".join(kind if count == len(own) else f"{kind} ({count})" for kind, count in counts.items())


def _kinds(reason: str) -> list[str]:
    return [word for beginning, word in _KINDS.items() if beginning in reason] or [_CONSEQUENCE]
