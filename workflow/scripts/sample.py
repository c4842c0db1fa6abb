"""Sample the test cases of one split with one method, or gather what its shards sampled. A killed job resumes."""

from pd_ddpm.inference.job import SampleJob
from pd_ddpm.inference.shards import gather_shards, sample_all, sample_shard
from pd_ddpm.runtime.job import run


def main(job: SampleJob) -> None:
    if job.shard_record:
        sample_shard(job)
    elif job.shard_records:
        gather_shards(job)
    else:
        sample_all(job)


if __name__ == "__main__":
    run(main, snakemake.log[0], job=SampleJob.from_snakemake(snakemake))
