"""Compute the Dice of smaller ensembles from one method's pool of members: one row per case and subset of the pool."""

from pathlib import Path

from pd_ddpm.evaluation.resample_cases import resample_cases
from pd_ddpm.runtime.job import run
from pd_ddpm.runtime.run_record import with_run_record


def main(cases: str, predictions: str, ensembles: str, identity: dict, subsets_per_size: int) -> None:
    resample_cases(Path(cases), Path(predictions), identity, subsets_per_size).to_csv(ensembles, index=False)


if __name__ == "__main__":
    main_with_record = with_run_record(main, snakemake.config, snakemake.params.code, [snakemake.input.predictions])
    run(
        main_with_record,
        snakemake.log[0],
        **snakemake.input,
        **snakemake.output,
        identity=snakemake.params.identity,
        subsets_per_size=snakemake.params.subsets,
    )
