"""Table 1: scores of all methods next to the paper's, and their differences to PD-DDPM."""

import pandas as pd

from pd_ddpm.evaluation.scores import read_class_scores, read_scores
from pd_ddpm.exhibits.grid_note import table_caption
from pd_ddpm.exhibits.score_remarks import collapse_remarks
from pd_ddpm.exhibits.tables.table1 import table1, table1_document, table1_groups
from pd_ddpm.exhibits.training_remarks import flattening_remarks
from pd_ddpm.runtime.recorded_job import run_with_record
from pd_ddpm.runtime.sealed_tables import write_sealed_csv


def main(job) -> None:
    scores, labels = read_scores(job.input.scores), job.params.labels
    table = table1(scores, labels, pd.read_csv(job.input.printed), job.params.compared_with)
    groups = table1_groups(scores, labels, read_class_scores(job.input.scores))
    write_sealed_csv(table, job.output.table, float_format="%.6g")
    write_sealed_csv(groups, job.output.groups, float_format="%.6g")
    caption = table_caption(job.params.caption_note, scores)
    document = table1_document(table, groups, labels[job.params.compared_with], caption)
    remarks = [*flattening_remarks(job.input.histories, job.params.users), *collapse_remarks(scores, labels)]
    data = [job.output.table, job.output.groups, job.output.record]
    document.with_remarks(remarks).write(job.output.page, job.output.markdown, job.output.latex, data=data)


if __name__ == "__main__":
    run_with_record(main, snakemake, snakemake.input.scores)
