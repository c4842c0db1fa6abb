"""Find the cases of a data set: a csv with one row per case and the paths of its images."""

from pd_ddpm.cohort import find_cases, write_table
from pd_ddpm.console import run


def main(table: str, dataset: str, settings: dict) -> None:
    write_table(find_cases(dataset, settings), table)


if __name__ == "__main__":
    parameters = snakemake.params
    run(main, snakemake.log[0], **snakemake.output, dataset=parameters.dataset, settings=parameters.settings)
