"""Find the cases of a dataset and write the case table."""

from pathlib import Path

from pd_ddpm.config.study_names import dataset_key
from pd_ddpm.data.cases.find import find_cases
from pd_ddpm.data.cases.scan_versions import write_scan_versions
from pd_ddpm.data.cases.table import CohortError, write_table
from pd_ddpm.data.check.dataset import check_dataset
from pd_ddpm.runtime.job import run


def main(table: str, versions: str, dataset: str, settings: dict, config: dict, processes: int) -> None:
    try:
        cases = find_cases(dataset_key(config, dataset), settings)
    except CohortError as error:
        if error.table is None:
            raise
        # Report the problems of the other files too, not only in the next run.
        report = check_dataset(config, dataset, Path(table).parent, processes=processes)
        raise ValueError(f"the dataset {dataset} cannot be used:\n{report.text()}") from error
    write_table(cases, table)
    write_scan_versions(cases, versions)


if __name__ == "__main__":
    parameters = {key: snakemake.params[key] for key in ("dataset", "settings")}
    run(
        main,
        snakemake.log[0],
        **snakemake.output,
        **parameters,
        config=snakemake.config,
        processes=snakemake.threads,
    )
