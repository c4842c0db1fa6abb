"""Table 2: PD-DDPM from pre-segmentations of different quality."""

import pandas as pd

from pd_ddpm.evaluation.scores import read_scores
from pd_ddpm.exhibits.tables.table2 import table2, table2_document
from pd_ddpm.runtime.job import run
from pd_ddpm.runtime.run_record import recorded


def main(scores: list[str], printed: str, table: str, page: str, markdown: str, rows: list[list], remark: str) -> None:
    found = table2(read_scores(scores), [tuple(row) for row in rows], pd.read_csv(printed))
    found.to_csv(table, index=False, float_format="%.6g")
    table2_document(found, remark).write(page, markdown)


if __name__ == "__main__":
    parameters = {key: snakemake.params[key] for key in ("rows", "remark")}
    with_record = recorded(main, snakemake.config, snakemake.params.code, snakemake.input.scores)
    run(with_record, snakemake.log[0], **snakemake.input, **snakemake.output, **parameters)
