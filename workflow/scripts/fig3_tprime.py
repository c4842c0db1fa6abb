"""Figure 3: Dice and uncertainty against T'."""

import pandas as pd

from pd_ddpm.evaluation.scores import read_scores
from pd_ddpm.exhibits.figures import style
from pd_ddpm.exhibits.figures.fig3_tprime import fig3_numbers, fig3_tprime
from pd_ddpm.runtime.job import run
from pd_ddpm.runtime.run_record import recorded


def main(
    scores: list[str],
    printed: str,
    pdf: str,
    png: str,
    numbers: str,
    curve: dict[str, int],
    labels: dict[str, str],
    remark: str,
) -> None:
    shown = fig3_numbers(read_scores(scores), curve, labels)
    shown.to_csv(numbers, index=False, float_format="%.6g")
    papers_best = pd.read_csv(printed).query("exhibit == 'fig3_tprime' and metric == 'best_t_start'")["value"].item()
    style.save(fig3_tprime(shown, remark, papers_best), pdf, png)


if __name__ == "__main__":
    parameters = snakemake.params
    with_record = recorded(main, snakemake.config, snakemake.params.code, snakemake.input.scores)
    run(
        with_record,
        snakemake.log[0],
        **snakemake.input,
        **snakemake.output,
        curve=parameters.curve,
        labels=parameters.labels,
        remark=parameters.remark,
    )
