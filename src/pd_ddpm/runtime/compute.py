"""What a job computes with: device, precision, threads, batch, and whether networks are compiled.

Plain values only. Snakemake, and jobs that need no network, build one without importing PyTorch.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Compute:
    """Settings of a job's computation, as the configuration and Snakemake give them.

    Attributes:
        device: config key `device`: "auto", "cpu", "cuda" or "cuda:1".
        precision: key `precision` of the network or method: "auto", "float32", "tf32", "bfloat16" or "float16".
        threads: CPU threads of the job.
        batch: Images per evaluation of the network. When sampling, "auto" takes as many as fit into the memory.
        compile: config key `compile`: whether networks are compiled.
    """

    device: str
    precision: str
    threads: int
    batch: int | Literal["auto"]
    compile: Literal["auto", True, False] = False
