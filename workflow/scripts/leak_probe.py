"""Probe of the leak table's denoisers: Dice of their one-step estimates from right and wrong masks, against t."""

from pd_ddpm.evaluation.scores import read_scores
from pd_ddpm.exhibits.figures import style
from pd_ddpm.exhibits.figures.leak_probe import leak_probe_figure, leak_probe_numbers
from pd_ddpm.runtime.recorded_job import run_with_record
from pd_ddpm.runtime.sealed_tables import write_sealed_csv


def main(job) -> None:
    numbers = leak_probe_numbers(read_scores(job.input.probes), job.params.denoisers)
    write_sealed_csv(numbers, job.output.numbers, float_format="%.6g")
    style.save(leak_probe_figure(numbers, job.params.caption_note), job.output.pdf, job.output.png, job.params.title)


if __name__ == "__main__":
    run_with_record(main, snakemake, snakemake.input.probes)
