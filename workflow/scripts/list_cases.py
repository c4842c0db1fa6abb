"""Find the cases of a data set: a csv with one row per case and the paths of its images."""

from pathlib import Path

from pd_ddpm.data.cases.find import find_cases
from pd_ddpm.data.cases.table import CohortError, write_table
from pd_ddpm.data.check.dataset import check_dataset
from pd_ddpm.runtime.job import run


def main(table: str, dataset: str, settings: dict, config: dict, processes: int) -> None:
    """A file that is missing stops everything; what is wrong with the others is then told with it, not in the next run."""
    try:
        write_table(find_cases(dataset, settings), table)
    except CohortError as error:
        report = check_dataset(config, dataset, Path(table).parent, processes=processes)
        raise ValueError(f"the data set {dataset} cannot be used:\n{report.text()}") from error


if __name__ == "__main__":
    run(
        main,
        snakemake.log[0],
        **snakemake.output,
        dataset=snakemake.params.dataset,
        settings=snakemake.params.settings,
        config=snakemake.config,
        processes=snakemake.threads,
    )
