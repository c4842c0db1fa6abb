"""Figure 4: Dice against the size of the ensemble."""

from pd_ddpm.evaluation.scores import read_scores
from pd_ddpm.exhibits.figures import style
from pd_ddpm.exhibits.figures.fig4_ensemble import fig4_ensemble, fig4_numbers
from pd_ddpm.runtime.recorded_job import run_with_record


def main(job) -> None:
    numbers = fig4_numbers(read_scores(job.input.ensembles), job.params.labels)
    numbers.to_csv(job.output.numbers, index=False, float_format="%.6g")
    style.save(fig4_ensemble(numbers, job.params.caption_note, job.params.samples), job.output.pdf, job.output.png)


if __name__ == "__main__":
    run_with_record(main, snakemake, snakemake.input.ensembles)
