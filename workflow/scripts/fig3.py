"""Figure 3 of Fu et al. 2024: Dice and HD95 after each reverse step."""

from pd_ddpm.evaluation.scores import read_scores
from pd_ddpm.exhibits.figures import style
from pd_ddpm.exhibits.figures.fig3 import fig3, fig3_numbers
from pd_ddpm.exhibits.grid_note import figure_caption
from pd_ddpm.runtime.recorded_job import run_with_record
from pd_ddpm.runtime.sealed_tables import write_sealed_csv


def main(job) -> None:
    ensembles = read_scores(job.input.ensembles)
    numbers = fig3_numbers(ensembles, job.params.points)
    write_sealed_csv(numbers, job.output.numbers, float_format="%.6g")
    figure = fig3(numbers, figure_caption(job.params.caption_note, ensembles))
    style.save(figure, job.output.pdf, job.output.png, job.params.title)


if __name__ == "__main__":
    run_with_record(main, snakemake, snakemake.input.ensembles)
