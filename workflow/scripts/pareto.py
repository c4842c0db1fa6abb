"""Dice against cost: T' x members x respacing, with the Pareto front marked."""

import pandas as pd

from pd_ddpm.evaluation.scores import read_scores
from pd_ddpm.exhibits.figures import style
from pd_ddpm.exhibits.figures.pareto import pareto, pareto_numbers
from pd_ddpm.runtime.recorded_job import run_with_record


def main(job) -> None:
    numbers = pareto_numbers(read_scores(job.input.ensembles), pd.DataFrame(job.params.points), job.params.members)
    numbers.to_csv(job.output.numbers, index=False, float_format="%.6g")
    style.save(pareto(numbers, job.params.caption_note), job.output.pdf, job.output.png)


if __name__ == "__main__":
    run_with_record(main, snakemake, snakemake.input.ensembles)
