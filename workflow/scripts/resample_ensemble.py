"""Score smaller ensembles from one method's pool of members: one row per case and subset of the pool."""

from pathlib import Path

from pd_ddpm.evaluation.resample_cases import resample_cases
from pd_ddpm.evaluation.scores import with_grid_dice
from pd_ddpm.runtime.recorded_job import run_with_record
from pd_ddpm.runtime.sealed_tables import write_sealed_csv


def main(job) -> None:
    cases, predictions, how = Path(job.input.cases), Path(job.input.predictions), job.params.resampling
    table = resample_cases(
        cases, predictions, job.params.identity, how["subsets"], how["hd95"], job.params.classes, how["largest"]
    )
    write_sealed_csv(with_grid_dice(table, job.input.get("grid_dice")), job.output.ensembles)


if __name__ == "__main__":
    run_with_record(main, snakemake, [snakemake.input.predictions])
