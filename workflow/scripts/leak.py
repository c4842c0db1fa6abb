"""Leak table: denoisers of different recycling from different starts, against their pre-segmentation; and its figure."""

from pathlib import Path

from pd_ddpm.evaluation.scores import read_scores
from pd_ddpm.exhibits.figures import style
from pd_ddpm.exhibits.figures.leak import leak_figure
from pd_ddpm.exhibits.grid_note import figure_caption, table_caption
from pd_ddpm.exhibits.score_remarks import collapse_remarks
from pd_ddpm.exhibits.tables.leak import LeakRow, leak_document, leak_table
from pd_ddpm.exhibits.tables.leak_answer import answer_sentence
from pd_ddpm.exhibits.training_compute import compute_remark, training_flops, training_seconds
from pd_ddpm.exhibits.training_remarks import flattening_remarks, late_gains
from pd_ddpm.runtime.recorded_job import run_with_record
from pd_ddpm.runtime.sealed_tables import write_sealed_csv

PLAN = Path("work", "plan")


def main(job) -> None:
    scores, rows = read_scores(job.input.scores), [LeakRow(**row) for row in job.params.rows]
    results = Path(job.input.splits).parents[1]
    flops = training_flops(job.config, job.wildcards.dataset, dict.fromkeys(row.network for row in rows), results, PLAN)
    seconds = training_seconds(job.input.histories, job.params.inner)
    table = leak_table(scores, rows, flops, seconds)
    write_sealed_csv(table, job.output.table, float_format="%.6g")
    document = leak_document(table, late_gains(job.input.histories), table_caption(job.params.caption_note, scores))
    remarks = [answer_sentence(table), compute_remark(flops, seconds, rows[0].network)]
    remarks += [*flattening_remarks(job.input.histories, job.params.users), *collapse_remarks(scores, job.params.from_noise)]
    data = [job.output.table, job.output.record, job.output.pdf]
    document.with_remarks(remarks).write(job.output.page, job.output.markdown, data=data)
    style.save(
        leak_figure(table, figure_caption(job.params.figure_note, scores)), job.output.pdf, job.output.png, job.params.title
    )


if __name__ == "__main__":
    run_with_record(main, snakemake, snakemake.input.scores)
