"""Table 1: scores of all methods beside what the paper prints."""

from pathlib import Path

import pandas as pd

from pd_ddpm.console import run
from pd_ddpm.tables import read_scores, table1, table1_html, table1_markdown


def main(scores: list[str], printed: str, table: str, page: str, markdown: str, labels: dict[str, str], remark: str) -> None:
    rows = table1(read_scores(scores), labels, pd.read_csv(printed))
    rows.to_csv(table, index=False, float_format="%.6g")
    Path(page).write_text(table1_html(rows, remark), encoding="utf-8")
    Path(markdown).write_text(table1_markdown(rows, remark), encoding="utf-8")


if __name__ == "__main__":
    parameters = snakemake.params
    run(main, snakemake.log[0], **snakemake.input, **snakemake.output, labels=parameters.labels, remark=parameters.remark)
