"""One page that says how every exhibit was made."""

import json
from pathlib import Path

from pd_ddpm.exhibits.tables.provenance import provenance_document, provenance_rows
from pd_ddpm.runtime.job import run


def main(job) -> None:
    records = {Path(path).stem: json.loads(Path(path).read_text(encoding="utf-8")) for path in job.input.records}
    provenance_rows(records).to_csv(job.output.table, index=False)
    provenance_document(records, job.params.titles).write(job.output.page, job.output.markdown)


if __name__ == "__main__":
    run(main, snakemake.log[0], job=snakemake)
