"""Resample, normalise and store every case on its FLAIR's grid."""

from pathlib import Path

from pd_ddpm.data.cases.table import read_table
from pd_ddpm.data.preparation.case import prepare_cohort
from pd_ddpm.runtime.files import write_json
from pd_ddpm.runtime.job import run
from pd_ddpm.runtime.run_record import run_record


def main(
    table: str,
    cases: str,
    card: str,
    channels: list[str],
    settings: dict,
    dataset: dict,
    processes: int,
    code: str,
    config: dict,
) -> None:
    manifest = prepare_cohort(read_table(table), channels, Path(cases).parent, **settings, processes=processes)
    write_json(Path(card), {"channels": channels} | settings | {"dataset": dataset} | run_record(config, code))
    manifest.to_csv(cases, index=False)


if __name__ == "__main__":
    parameters = snakemake.params
    name = snakemake.wildcards.dataset
    source = snakemake.config["datasets"][name]
    about = {"name": name, "simulated": "simulate" in source, "licence": (source.get("download") or {}).get("licence")}
    run(
        main,
        snakemake.log[0],
        table=snakemake.input.table,
        **snakemake.output,
        channels=parameters.channels,
        settings=parameters.settings,
        dataset=about,
        processes=snakemake.threads,
        code=parameters.code,
        config=snakemake.config,
    )
