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
    runtime: Count = Field(description="Time limit in minutes; doubled in the second attempt, tripled in further attempts.")
    threads: Count = Field(description="CPU threads.")


class Resources(Section):
    """What jobs request."""

    train: Job
    sample: Job

    def contradictions(self) -> Iterator[Contradiction]:
        """Yield several GPUs for one training."""
        if self.train.gpu > 1:
            problem = f"it is {self.train.gpu}, but a training uses one GPU"
            yield Contradiction("train.gpu", problem, "Set it to 1: trainings run side by side")
