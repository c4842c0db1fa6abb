"""Figure 2: masks and uncertainty maps of a few test cases for every method."""

from pathlib import Path

from pd_ddpm.evaluation.scores import read_scores
from pd_ddpm.exhibits.figures import style
from pd_ddpm.exhibits.figures.fig2_cases import fig2_numbers, read_figure_cases
from pd_ddpm.exhibits.figures.fig2_uncertainty import fig2_uncertainty
from pd_ddpm.exhibits.grid_note import figure_caption
from pd_ddpm.runtime.recorded_job import run_with_record
from pd_ddpm.runtime.sealed_tables import write_sealed_csv


def main(job) -> None:
    manifests = dict(zip(job.params.labels, job.input.predictions, strict=True))
    scores = read_scores(job.input.scores)
    prepared, classes = Path(job.input.cases).parent, job.params.classes
    cases = read_figure_cases(scores, prepared, manifests, job.params.labels, job.params.num_cases, classes)
    numbers = fig2_numbers(cases)
    write_sealed_csv(numbers, job.output.numbers, float_format="%.6g")
    style.save(
        fig2_uncertainty(numbers, figure_caption(job.params.caption_note, scores), classes),
        job.output.pdf,
        job.output.png,
        job.params.title,
    )


if __name__ == "__main__":
    run_with_record(main, snakemake, snakemake.input.scores)
