"""Resample and normalise every case on its FLAIR's grid."""

from pathlib import Path

from pd_ddpm.data.cases.table import read_table
from pd_ddpm.data.cases.wmh import image_versions
from pd_ddpm.data.preparation.case import prepare_cohort
from pd_ddpm.runtime.job import run
from pd_ddpm.runtime.run_record import run_record
from pd_ddpm.runtime.sealed import write_sealed_json
from pd_ddpm.runtime.sealed_tables import write_sealed_csv


def main(job) -> None:
    name, channels, settings = job.wildcards.dataset, job.params.channels, job.params.settings
    table = read_table(job.input.table)
    manifest = prepare_cohort(table, channels, Path(job.output.cases).parent, **settings, processes=job.threads)
    source = job.config["datasets"][name]
    licence = (source.get("download") or {}).get("licence")
    dataset = {"name": name, "simulated": "simulate" in source, "licence": licence}
    description = {"channels": channels, "images": image_versions(table, channels)} | settings | {"dataset": dataset}
    write_sealed_json(job.output.metadata, description | run_record(job.config, job.params.code))
    write_sealed_csv(manifest, job.output.cases)


if __name__ == "__main__":
    run(main, snakemake.log[0], job=snakemake)
