"""Table of calibration, error detection and distance to the raters for every method."""

from pd_ddpm.evaluation.scores import read_scores
from pd_ddpm.exhibits.grid_note import table_caption
from pd_ddpm.exhibits.tables.uncertainty import uncertainty_document, uncertainty_table
from pd_ddpm.runtime.recorded_job import run_with_record


def main(job) -> None:
    scores, settings = read_scores(job.input.scores), job.params.settings
    table = uncertainty_table(scores, job.params.labels)
    table.to_csv(job.output.table, index=False, float_format="%.6g")
    caption = table_caption(job.params.caption_note, scores)
    document = uncertainty_document(table, settings["band_mm"], caption, settings["calibration_bins"])
    document.write(job.output.page, job.output.markdown)


if __name__ == "__main__":
    run_with_record(main, snakemake, snakemake.input.scores)
