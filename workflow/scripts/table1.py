"""Table 1: scores of all methods beside what the paper prints, and how they differ from PD-DDPM."""

import pandas as pd

from pd_ddpm.evaluation.scores import read_scores
from pd_ddpm.exhibits.tables.table1 import table1, table1_document, table1_groups
from pd_ddpm.runtime.job import run
from pd_ddpm.runtime.run_record import recorded


def main(
    scores: list[str],
    printed: str,
    table: str,
    page: str,
    markdown: str,
    latex: str,
    groups: str,
    labels: dict[str, str],
    against: str,
    remark: str,
) -> None:
    found = read_scores(scores)
    rows, of_groups = table1(found, labels, pd.read_csv(printed), against), table1_groups(found, labels)
    rows.to_csv(table, index=False, float_format="%.6g")
    of_groups.to_csv(groups, index=False, float_format="%.6g")
    table1_document(rows, of_groups, labels[against], remark).write(page, markdown, latex)


if __name__ == "__main__":
    parameters = {key: snakemake.params[key] for key in ("labels", "against", "remark")}
    with_record = recorded(main, snakemake.config, snakemake.params.code, snakemake.input.scores)
    run(with_record, snakemake.log[0], **snakemake.input, **snakemake.output, **parameters)
