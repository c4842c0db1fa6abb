"""Figure 2: masks and uncertainty maps of three test cases by every method."""

from collections.abc import Iterator
from pathlib import Path

from pd_ddpm.data.nifti.read import read_array
from pd_ddpm.data.prepared import read_scan, read_truth
from pd_ddpm.evaluation.scores import read_scores
from pd_ddpm.exhibits.figures import style
from pd_ddpm.exhibits.figures.fig2_uncertainty import ShownCase, ShownMethod, choose_cases, fig2_numbers, fig2_uncertainty
from pd_ddpm.inference.prediction_store import read_predictions
from pd_ddpm.runtime.job import run
from pd_ddpm.runtime.run_record import recorded


def main(
    cases: str,
    scores: list[str],
    predictions: list[str],
    pdf: str,
    png: str,
    numbers: str,
    labels: dict[str, str],
    shown: int,
    remark: str,
) -> None:
    table = read_scores(scores)
    rows = table.set_index(["method", "case"])
    drawn = {label: read_predictions(manifest) for label, manifest in zip(labels.values(), predictions, strict=True)}
    folders = dict(zip(labels.values(), (Path(manifest).parent for manifest in predictions), strict=True))

    def cases_in_turn() -> Iterator[ShownCase]:
        for case in choose_cases(table, shown):
            methods = {}
            for method, label in labels.items():
                mask = read_array(folders[label] / f"{case}_mask.nii.gz", mask=True) > 0
                alone = drawn[label].loc[case, "samples"] == 1
                variance = None if alone else read_array(folders[label] / f"{case}_uncertainty.nii.gz", mask=True)
                methods[label] = ShownMethod(mask, variance, rows.loc[(method, case), "dice"])
            scan, labelled = read_scan(Path(cases).parent, case), read_truth(Path(cases).parent, case)
            of_case = rows.xs(case, level="case").iloc[0]
            yield ShownCase(scan, labelled, of_case["site"], of_case["reference_volume_ml"], methods)

    pixels = fig2_numbers(cases_in_turn())
    pixels.to_csv(numbers, index=False, float_format="%.6g")
    style.save(fig2_uncertainty(pixels, remark), pdf, png)


if __name__ == "__main__":
    parameters = {key: snakemake.params[key] for key in ("labels", "shown", "remark")}
    with_record = recorded(main, snakemake.config, snakemake.params.code, snakemake.input.scores)
    run(with_record, snakemake.log[0], **snakemake.input, **snakemake.output, **parameters)
