"""Train one network on the training cases of one split; a killed training resumes from its last saved state."""

from pd_ddpm.runtime.backend import Backend
from pd_ddpm.runtime.job import run
from pd_ddpm.training.job import TrainJob, open_states, read_data, train, write_result


def main(job: TrainJob) -> None:
    """Read the cases, train the network, write its weights."""
    backend = Backend.from_compute(job.compute)
    data = read_data(job)
    states = open_states(job, data, backend)
    result = train(job, data, backend, states)
    write_result(job, data, backend, result)
    states.mark_complete()


if __name__ == "__main__":
    run(main, snakemake.log[0], job=TrainJob.from_snakemake(snakemake))
