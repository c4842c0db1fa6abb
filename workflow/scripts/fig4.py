"""Figure 4 of PatchDDM: Dice and HD95 against the size of the ensemble."""

from pd_ddpm.evaluation.scores import read_scores
from pd_ddpm.exhibits.figures import style
from pd_ddpm.exhibits.figures.fig4 import fig4, fig4_numbers
from pd_ddpm.exhibits.grid_note import figure_caption
from pd_ddpm.runtime.recorded_job import run_with_record
from pd_ddpm.runtime.sealed_tables import write_sealed_csv


def main(job) -> None:
    ensembles = read_scores(job.input.ensembles)
    numbers = fig4_numbers(ensembles, job.params.labels)
    write_sealed_csv(numbers, job.output.numbers, float_format="%.6g")
    caption = figure_caption(job.params.caption_note, ensembles)
    style.save(fig4(numbers, caption, job.params.samples), job.output.pdf, job.output.png, job.params.title)


if __name__ == "__main__":
    run_with_record(main, snakemake, snakemake.input.ensembles)
