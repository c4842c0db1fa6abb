"""Figure 5 of PatchDDM: Dice and HD95 over the number of reverse steps and the size of the ensemble."""

from pd_ddpm.evaluation.scores import read_scores
from pd_ddpm.exhibits.figures import style
from pd_ddpm.exhibits.figures.fig5 import fig5, fig5_numbers
from pd_ddpm.exhibits.grid_note import figure_caption
from pd_ddpm.runtime.recorded_job import run_with_record
from pd_ddpm.runtime.sealed_tables import write_sealed_csv


def main(job) -> None:
    ensembles, members = read_scores(job.input.ensembles), job.params.members
    numbers = fig5_numbers(ensembles, job.params.points, members)
    write_sealed_csv(numbers, job.output.numbers, float_format="%.6g")
    caption = figure_caption(job.params.caption_note, ensembles)
    style.save(fig5(numbers, members, caption), job.output.pdf, job.output.png, job.params.title)


if __name__ == "__main__":
    run_with_record(main, snakemake, snakemake.input.ensembles)
