"""Calibration, detection of errors and distance to the raters of every method."""

from pd_ddpm.evaluation.scores import read_scores
from pd_ddpm.exhibits.tables.uncertainty import uncertainty_document, uncertainty_table
from pd_ddpm.runtime.job import run
from pd_ddpm.runtime.run_record import recorded


def main(scores: list[str], table: str, page: str, markdown: str, labels: dict[str, str], settings: dict, remark: str) -> None:
    rows = uncertainty_table(read_scores(scores), labels)
    rows.to_csv(table, index=False, float_format="%.6g")
    uncertainty_document(rows, settings["band_mm"], remark, settings["calibration_bins"]).write(page, markdown)


if __name__ == "__main__":
    parameters = {key: snakemake.params[key] for key in ("labels", "settings", "remark")}
    with_record = recorded(main, snakemake.config, snakemake.params.code, snakemake.input.scores)
    run(with_record, snakemake.log[0], **snakemake.input, **snakemake.output, **parameters)
