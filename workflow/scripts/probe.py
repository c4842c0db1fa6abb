"""Test whether a trained denoiser reads x_t: Dice of its one-step estimates from x_t of different masks."""

from pathlib import Path

from pd_ddpm.inference.job import ProbeJob
from pd_ddpm.inference.probe import probe_network
from pd_ddpm.runtime.files import write_json
from pd_ddpm.runtime.job import run


def main(job: ProbeJob, table: str, record: str) -> None:
    rows, run_record = probe_network(job)
    rows.to_csv(table, index=False, float_format="%.6g")
    write_json(Path(record), run_record)


if __name__ == "__main__":
    run(main, snakemake.log[0], job=ProbeJob.from_snakemake(snakemake), **snakemake.output)
