"""Table 2 of Fu et al. 2024: methods against one without diffusion."""

import pandas as pd

from pd_ddpm.evaluation.scores import read_scores
from pd_ddpm.exhibits.grid_note import table_caption
from pd_ddpm.exhibits.score_remarks import collapse_remarks
from pd_ddpm.exhibits.tables.no_diffusion import no_diffusion_document, no_diffusion_table
from pd_ddpm.runtime.recorded_job import run_with_record
from pd_ddpm.runtime.sealed_tables import write_sealed_csv


def main(job) -> None:
    scores = read_scores(job.input.scores)
    table = no_diffusion_table(scores, job.params.labels, pd.read_csv(job.input.printed))
    write_sealed_csv(table, job.output.table, float_format="%.6g")
    document = no_diffusion_document(table, table_caption(job.params.caption_note, scores))
    document = document.with_remarks(collapse_remarks(scores, job.params.labels))
    document.write(job.output.page, job.output.markdown, data=[job.output.table, job.output.record])


if __name__ == "__main__":
    run_with_record(main, snakemake, snakemake.input.scores)
