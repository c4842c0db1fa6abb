"""Test whether a trained denoiser reads x_t: Dice of its one-step estimates from x_t of different masks."""

from pd_ddpm.inference.job import ProbeJob
from pd_ddpm.inference.probe import probe_network
from pd_ddpm.runtime.job import run
from pd_ddpm.runtime.sealed import write_sealed_json
from pd_ddpm.runtime.sealed_tables import write_sealed_csv


def main(job: ProbeJob, table: str, record: str) -> None:
    rows, run_record = probe_network(job)
    write_sealed_csv(rows, table, float_format="%.6g")
    write_sealed_json(record, run_record)


if __name__ == "__main__":
    run(main, snakemake.log[0], job=ProbeJob.from_snakemake(snakemake), **snakemake.output)
