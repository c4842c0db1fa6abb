"""Score the predictions of one method and split against the ground truth: one row per case."""

from pathlib import Path

from pd_ddpm.evaluation.score_cases import score_cases
from pd_ddpm.evaluation.scores import with_grid_dice
from pd_ddpm.runtime.recorded_job import run_with_record


def main(job) -> None:
    files = [Path(path) for path in (job.input.cases, job.input.predictions, job.input.method_metadata)]
    rows = score_cases(*files, job.params.identity, job.params.settings)
    with_grid_dice(rows, job.input.get("grid_dice")).to_csv(job.output.scores, index=False)


if __name__ == "__main__":
    run_with_record(main, snakemake, [snakemake.input.predictions])
