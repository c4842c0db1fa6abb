"""Table of calibration, error detection and distance to the raters for every method."""

from pd_ddpm.evaluation.scores import read_scores
from pd_ddpm.exhibits.grid_note import table_caption
from pd_ddpm.exhibits.score_remarks import collapse_remarks
from pd_ddpm.exhibits.tables.uncertainty import uncertainty_document, uncertainty_table
from pd_ddpm.runtime.recorded_job import run_with_record
from pd_ddpm.runtime.sealed_tables import write_sealed_csv


def main(job) -> None:
    settings, scores, labels = job.params.settings, read_scores(job.input.scores), job.params.labels
    table = uncertainty_table(scores, labels)
    write_sealed_csv(table, job.output.table, float_format="%.6g")
    caption = table_caption(job.params.caption_note, scores)
    document = uncertainty_document(table, settings["band_mm"], caption, settings["calibration_bins"])
    document = document.with_remarks(collapse_remarks(scores, labels))
    document.write(job.output.page, job.output.markdown, data=[job.output.table, job.output.record])


if __name__ == "__main__":
    run_with_record(main, snakemake, snakemake.input.scores)
