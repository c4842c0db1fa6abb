"""Figure 3: Dice and uncertainty against T'."""

import pandas as pd

from pd_ddpm.evaluation.scores import read_scores
from pd_ddpm.exhibits.figures import style
from pd_ddpm.exhibits.figures.fig3_tprime import fig3_numbers, fig3_tprime, paper_best_t_start
from pd_ddpm.exhibits.grid_note import figure_caption
from pd_ddpm.runtime.recorded_job import run_with_record
from pd_ddpm.runtime.sealed_tables import write_sealed_csv


def main(job) -> None:
    scores = read_scores(job.input.scores)
    numbers = fig3_numbers(scores, pd.DataFrame(job.params.points))
    write_sealed_csv(numbers, job.output.numbers, float_format="%.6g")
    caption = figure_caption(job.params.caption_note, scores)
    figure = fig3_tprime(numbers, caption, paper_best_t_start(pd.read_csv(job.input.printed)))
    style.save(figure, job.output.pdf, job.output.png, job.params.title)


if __name__ == "__main__":
    run_with_record(main, snakemake, snakemake.input.scores)
