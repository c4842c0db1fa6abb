"""Section `resources`: what a job requests from a cluster."""

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field

from pd_ddpm.config.sections.base import WHOLE, Contradiction, Count, Index, Section


class Job(Section):
    """What one job requests."""

    gpu: Index = Field(description="Number of GPUs; at most 1 for a training.")
    mem_mb: Annotated[int, Field(ge=500), WHOLE] = Field(
        description="Memory in MB; doubled in the second attempt, tripled in further attempts."
    )
    max_mem_mb: Annotated[int, Field(ge=500), WHOLE] | None = Field(
        description="Most memory in MB that an attempt requests, such as that of a node; null: no limit."
    )
    runtime: Count = Field(description="Time limit in minutes.")
    max_runtime: Count | None = Field(
        description=(
            "Longest time limit in minutes, such as that of the partition: further attempts request twice and three times "
            "`runtime`, but no more than this. null: all attempts request `runtime`, since each resumes where the last ended."
        )
    )
    threads: Count = Field(description="CPU threads.")

    def contradictions(self) -> Iterator[Contradiction]:
        """Yield limits below the first request."""
        for key, first, most in (("mem_mb", self.mem_mb, self.max_mem_mb), ("runtime", self.runtime, self.max_runtime)):
            if most is not None and most < first:
                yield Contradiction(f"max_{key}", f"{most} is below `{key}` ({first})", f"Raise it, or lower `{key}`")

    def memory(self, attempt: int) -> int:
        """Return the memory in MB that an attempt requests, counted from 1."""
        memory = self.mem_mb * min(attempt, 3)
        return memory if self.max_mem_mb is None else min(memory, self.max_mem_mb)

    def time_limit(self, attempt: int) -> int:
        """Return the minutes that an attempt requests, counted from 1."""
        return min(self.runtime * min(attempt, 3), self.max_runtime or self.runtime)


class Resources(Section):
    """What jobs request."""

    train: Job
    sample: Job

    def contradictions(self) -> Iterator[Contradiction]:
        """Yield several GPUs for one training."""
        if self.train.gpu > 1:
            problem = f"it is {self.train.gpu}, but a training uses one GPU"
            yield Contradiction("train.gpu", problem, "Set it to 1: trainings run side by side")
