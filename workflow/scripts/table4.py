"""Table 4 of Fu et al. 2024: differences between seeds of sampling at each reverse step."""

import pandas as pd

from pd_ddpm.evaluation.scores import read_scores
from pd_ddpm.evaluation.step_scores import step_scores
from pd_ddpm.exhibits.grid_note import table_caption
from pd_ddpm.exhibits.tables.table4 import table4, table4_document
from pd_ddpm.runtime.recorded_job import run_with_record
from pd_ddpm.runtime.sealed_tables import write_sealed_csv


def main(job) -> None:
    ensembles = read_scores(job.input.ensembles)
    table = table4(step_scores(ensembles, job.params.points), pd.read_csv(job.input.printed))
    write_sealed_csv(table, job.output.table, float_format="%.6g")
    document = table4_document(table, table_caption(job.params.caption_note, ensembles), job.params.samples)
    document.write(job.output.page, job.output.markdown, data=[job.output.table, job.output.record])


if __name__ == "__main__":
    run_with_record(main, snakemake, snakemake.input.ensembles)
