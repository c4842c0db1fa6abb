"""One page of how all exhibits came about."""

import json
from pathlib import Path

from pd_ddpm.exhibits.tables.provenance import provenance_document, provenance_rows
from pd_ddpm.runtime.job import run


def main(records: list[str], table: str, page: str, markdown: str, titles: dict[str, str]) -> None:
    read = {Path(record).stem: json.loads(Path(record).read_text(encoding="utf-8")) for record in records}
    provenance_rows(read).to_csv(table, index=False)
    provenance_document(read, titles).write(page, markdown)


if __name__ == "__main__":
    run(main, snakemake.log[0], **snakemake.input, **snakemake.output, titles=snakemake.params.titles)
