"""Find the cases of a data set: a csv with one row per case and the paths of its images."""

from pd_ddpm.cohort import find_wmh_cases, read_case_table, write_table
from pd_ddpm.console import run


def main(table: str, dataset: str, settings: dict) -> None:
    key = f"datasets.{dataset}.folder"
    if settings["layout"] == "wmh_challenge":
        cases = find_wmh_cases(settings["folder"], settings["channels"], key)
    else:
        cases = read_case_table(settings["table"], settings["channels"], settings["folder"])
    write_table(cases, table)


if __name__ == "__main__":
    parameters = snakemake.params
    run(main, snakemake.log[0], **snakemake.output, dataset=parameters.dataset, settings=parameters.settings)
