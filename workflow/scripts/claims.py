"""The paper's claims, tested on our own scores."""

import pandas as pd

from pd_ddpm.evaluation.scores import read_scores
from pd_ddpm.exhibits.claims.claim import roles_from_params
from pd_ddpm.exhibits.claims.table import claims_document, claims_table
from pd_ddpm.exhibits.grid_note import table_caption
from pd_ddpm.exhibits.score_remarks import collapse_remarks
from pd_ddpm.runtime.recorded_job import run_with_record
from pd_ddpm.runtime.sealed_tables import write_sealed_csv


def main(job) -> None:
    scores, ensembles = read_scores(job.input.scores), read_scores(job.input.ensembles)
    memory = read_scores(job.input.get("memory", []))
    roles, printed = roles_from_params(job.params.roles), pd.read_csv(job.input.printed)
    table = claims_table(scores, ensembles, roles, printed, memory)
    write_sealed_csv(table, job.output.table, float_format="%.6g")
    document = claims_document(table, table_caption(job.params.caption_note, scores))
    document = document.with_remarks(collapse_remarks(scores, job.params.labels))
    document.write(job.output.page, job.output.markdown, data=[job.output.table, job.output.record])


if __name__ == "__main__":
    made_from = [*snakemake.input.scores, *snakemake.input.ensembles, *snakemake.input.get("memory", [])]
    run_with_record(main, snakemake, made_from)
