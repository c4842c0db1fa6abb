"""Figure 4: Dice against the size of the ensemble."""

from pd_ddpm.evaluation.scores import read_scores
from pd_ddpm.exhibits.figures import style
from pd_ddpm.exhibits.figures.fig4_ensemble import fig4_ensemble, fig4_numbers
from pd_ddpm.runtime.job import run
from pd_ddpm.runtime.run_record import recorded


def main(ensembles: list[str], pdf: str, png: str, numbers: str, labels: dict[str, str], chosen: int, remark: str) -> None:
    shown = fig4_numbers(read_scores(ensembles), labels)
    shown.to_csv(numbers, index=False, float_format="%.6g")
    style.save(fig4_ensemble(shown, remark, chosen), pdf, png)


if __name__ == "__main__":
    parameters = {key: snakemake.params[key] for key in ("labels", "chosen", "remark")}
    with_record = recorded(main, snakemake.config, snakemake.params.code, snakemake.input.ensembles)
    run(with_record, snakemake.log[0], **snakemake.input, **snakemake.output, **parameters)
