"""Average the predictions of several methods for one split and seed. A killed job resumes."""

from pd_ddpm.inference.average import AverageJob, average_predictions
from pd_ddpm.runtime.job import run

if __name__ == "__main__":
    run(average_predictions, snakemake.log[0], job=AverageJob.from_snakemake(snakemake))
