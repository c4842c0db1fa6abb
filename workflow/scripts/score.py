"""Score the predictions of one method and split against the ground truth: one row per case."""

from pathlib import Path

from pd_ddpm.evaluation.score_cases import score_cases
from pd_ddpm.evaluation.scores import with_grid_dice
from pd_ddpm.runtime.recorded_job import run_with_record
from pd_ddpm.runtime.sealed_tables import write_sealed_csv


def main(job) -> None:
    files = [Path(path) for path in (job.input.cases, job.input.predictions, job.input.method_metadata)]
    rows = score_cases(*files, job.params.identity, job.params.settings, job.params.classes)
    write_sealed_csv(with_grid_dice(rows, job.input.get("grid_dice")), job.output.scores)


if __name__ == "__main__":
    run_with_record(main, snakemake, [snakemake.input.predictions])
