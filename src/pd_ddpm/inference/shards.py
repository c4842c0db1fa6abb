"""Sample all test cases of a run in one job, or a shard of them in each of several jobs, and gather the shards.

Does not import PyTorch unless it samples.
"""

from pd_ddpm.inference.job import SampleJob
from pd_ddpm.inference.prediction_store import write_manifest
from pd_ddpm.runtime.sealed import read_sealed_json, write_sealed_json


def sample_all(job: SampleJob) -> None:
    """Sample all test cases and write their table."""
    # Gathering shards does not need PyTorch, which takes seconds to load.
    from pd_ddpm.inference.sample_cases import sample_cases

    write_manifest(job.predictions, job.method_metadata, job.test_cases(), [sample_cases(job)])


def sample_shard(job: SampleJob) -> None:
    """Sample the cases of one shard and write the shard's record."""
    from pd_ddpm.inference.sample_cases import sample_cases

    write_sealed_json(job.shard_record, sample_cases(job))


def gather_shards(job: SampleJob) -> None:
    """Write the table of all test cases, which other jobs have sampled.

    Raises:
        ValueError: the shards were sampled in different ways, or a case is incomplete.
    """
    records = [read_sealed_json(path) for path in job.shard_records]
    write_manifest(job.predictions, job.method_metadata, job.test_cases(), records)
