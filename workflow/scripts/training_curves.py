"""Training curves: loss and validation Dice of every network against the training step."""

from pathlib import Path

from pd_ddpm.exhibits.figures import style
from pd_ddpm.exhibits.figures.training import training_curves, training_numbers
from pd_ddpm.runtime.recorded_job import run_with_record
from pd_ddpm.runtime.sealed_tables import write_sealed_csv


def main(job) -> None:
    numbers = training_numbers(job.input.histories)
    write_sealed_csv(numbers, job.output.numbers, float_format="%.6g")
    style.save(training_curves(numbers, job.params.caption_note), job.output.pdf, job.output.png, job.params.title)


if __name__ == "__main__":
    run_with_record(main, snakemake, [Path(file).with_name("model.json") for file in snakemake.input.histories])
