"""One page that says how every exhibit was made."""

from pathlib import Path

from pd_ddpm.exhibits.tables.provenance import provenance_document, provenance_rows
from pd_ddpm.runtime.job import run
from pd_ddpm.runtime.sealed import read_sealed_json
from pd_ddpm.runtime.sealed_tables import write_sealed_csv


def main(job) -> None:
    records = {Path(path).stem: read_sealed_json(path) for path in job.input.records}
    write_sealed_csv(provenance_rows(records), job.output.table)
    document = provenance_document(records, job.params.titles)
    document.write(job.output.page, job.output.markdown, data=[job.output.table])


if __name__ == "__main__":
    run(main, snakemake.log[0], job=snakemake)
