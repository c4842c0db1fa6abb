"""Time, memory and device of every rule, network and method, next to the planned cost."""

from pathlib import Path

from pd_ddpm.exhibits.tables.cost import CostFolders, cost_document, cost_table, read_job_costs
from pd_ddpm.runtime.recorded_job import run_with_record
from pd_ddpm.runtime.sealed_tables import write_sealed_csv

FOLDERS = {"benchmarks": Path("results", "benchmarks"), "plan": Path("work", "plan")}


def main(job) -> None:
    folders = CostFolders(results=Path(job.input.splits).parent, **FOLDERS)
    files = job.input.network_metadata, job.input.histories, job.input.prediction_metadata
    table = cost_table(read_job_costs(job.config, folders, *files))
    write_sealed_csv(table, job.output.table, float_format="%.6g")
    document = cost_document(table, job.params.labels, job.params.users, job.params.caption_note)
    document.write(job.output.page, job.output.markdown, data=[job.output.table, job.output.record])


if __name__ == "__main__":
    run_with_record(main, snakemake, snakemake.input.prediction_metadata)
