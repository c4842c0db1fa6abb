"""The paper's claims, put to the test on our own scores."""

import pandas as pd

from pd_ddpm.evaluation.scores import read_scores
from pd_ddpm.exhibits.claims.claim import Roles
from pd_ddpm.exhibits.claims.table import claims, claims_document
from pd_ddpm.runtime.job import run
from pd_ddpm.runtime.run_record import recorded


def main(
    scores: list[str], ensembles: list[str], printed: str, table: str, page: str, markdown: str, roles: dict, remark: str
) -> None:
    who = Roles(**roles | {"table2": [tuple(row) for row in roles["table2"]]})
    rows = claims(read_scores(scores), read_scores(ensembles), who, pd.read_csv(printed))
    rows.to_csv(table, index=False, float_format="%.6g")
    claims_document(rows, remark).write(page, markdown)


if __name__ == "__main__":
    parameters = {key: snakemake.params[key] for key in ("roles", "remark")}
    with_record = recorded(main, snakemake.config, snakemake.params.code, [*snakemake.input.scores, *snakemake.input.ensembles])
    run(with_record, snakemake.log[0], **snakemake.input, **snakemake.output, **parameters)
