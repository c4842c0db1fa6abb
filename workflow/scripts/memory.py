"""Memory, time and FLOPs of training and sampling on patches, half and whole volumes."""

import torch

from pd_ddpm.exhibits.tables.memory import memory_document
from pd_ddpm.planning.memory_rows import memory_rows
from pd_ddpm.runtime.precision import choose_device
from pd_ddpm.runtime.recorded_job import run_with_record
from pd_ddpm.runtime.sealed_tables import write_sealed_csv


def main(job) -> None:
    torch.set_num_threads(job.threads)
    table = memory_rows(job.params.table, job.params.networks, choose_device(job.params.device))
    write_sealed_csv(table, job.output.table, float_format="%.6g")
    document = memory_document(table, job.params.table["limit_gb"], job.params.caption_note)
    document.write(job.output.page, job.output.markdown, data=[job.output.table, job.output.record])


if __name__ == "__main__":
    run_with_record(main, snakemake, [])
