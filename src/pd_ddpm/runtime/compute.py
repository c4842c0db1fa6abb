"""What a job computes with: device, precision, threads and batch.

Plain values only. Snakemake, and jobs that need no network, build one without importing PyTorch.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Compute:
    """Device, precision, threads and batch of a job, as the configuration and Snakemake give them.

    Attributes:
        device: config key `device`: "auto", "cpu", "cuda" or "cuda:1".
        precision: key `precision` of the network or method: "auto", "float32", "tf32", "bfloat16" or "float16".
        threads: CPU threads of the job.
        batch: Images per evaluation of the network. When sampling, "auto" takes as many as fit into the memory.
    """

    device: str
    precision: str
    threads: int
    batch: int | Literal["auto"]
