"""Measure on validation cases how often the masks of a pre-segmenter agree with the ground truth."""

from pd_ddpm.inference.job import ReliabilityJob
from pd_ddpm.inference.measure_reliability import measure_reliability
from pd_ddpm.runtime.job import run
from pd_ddpm.runtime.sealed import write_sealed_json


def main(job: ReliabilityJob, record: str) -> None:
    write_sealed_json(record, measure_reliability(job))


if __name__ == "__main__":
    run(main, snakemake.log[0], job=ReliabilityJob.from_snakemake(snakemake), record=snakemake.output["record"])
