"""Read every scan of a dataset and list all problems before anything is computed."""

from pathlib import Path

from pd_ddpm.data.cases.table import read_table
from pd_ddpm.data.check.dataset import check_cases
from pd_ddpm.data.check.report import Requirements
from pd_ddpm.runtime.job import run
from pd_ddpm.runtime.progress import log
from pd_ddpm.runtime.sealed_tables import write_sealed_csv


def main(table: str, findings: str, dataset: str, config: dict, processes: int) -> None:
    requirements = Requirements.from_config(config, dataset)
    report = check_cases(read_table(table), requirements, Path(findings).parent, processes=processes)
    if report.count("error"):
        raise ValueError(f"the dataset {dataset} cannot be used:\n{report.text()}")
    log.info(report.text())
    write_sealed_csv(report.table(), findings)


if __name__ == "__main__":
    run(
        main,
        snakemake.log[0],
        table=snakemake.input.table,
        **snakemake.output,
        dataset=snakemake.wildcards.dataset,
        config=snakemake.config,
        processes=snakemake.threads,
    )
