"""Resample, normalise and store every case on its FLAIR's grid."""

from pathlib import Path

from pd_ddpm.cohort import read_table
from pd_ddpm.console import run
from pd_ddpm.preparation import prepare_cohort


def main(table: str, cases: str, channels: list[str], settings: dict, processes: int) -> None:
    manifest = prepare_cohort(read_table(table), channels, Path(cases).parent, **settings, processes=processes)
    manifest.to_csv(cases, index=False)


if __name__ == "__main__":
    parameters = snakemake.params
    run(
        main,
        snakemake.log[0],
        table=snakemake.input.table,
        **snakemake.output,
        channels=parameters.channels,
        settings=parameters.settings,
        processes=snakemake.threads,
    )
