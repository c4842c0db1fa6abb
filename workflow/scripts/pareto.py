"""Dice against cost: T' x members x respacing, with the Pareto front marked."""

import pandas as pd

from pd_ddpm.evaluation.scores import read_scores
from pd_ddpm.exhibits.figures import style
from pd_ddpm.exhibits.figures.pareto import pareto, pareto_numbers
from pd_ddpm.exhibits.grid_note import figure_caption
from pd_ddpm.runtime.recorded_job import run_with_record
from pd_ddpm.runtime.sealed_tables import write_sealed_csv


def main(job) -> None:
    ensembles = read_scores(job.input.ensembles)
    numbers = pareto_numbers(ensembles, pd.DataFrame(job.params.points), job.params.members)
    write_sealed_csv(numbers, job.output.numbers, float_format="%.6g")
    style.save(
        pareto(numbers, figure_caption(job.params.caption_note, ensembles)), job.output.pdf, job.output.png, job.params.title
    )


if __name__ == "__main__":
    run_with_record(main, snakemake, snakemake.input.ensembles)
