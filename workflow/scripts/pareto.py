"""Dice against cost: T' x members x respacing, with the front marked."""

import pandas as pd

from pd_ddpm.evaluation.scores import read_scores
from pd_ddpm.exhibits.figures import style
from pd_ddpm.exhibits.figures.pareto import pareto, pareto_numbers
from pd_ddpm.runtime.job import run
from pd_ddpm.runtime.run_record import recorded


def main(ensembles: list[str], pdf: str, png: str, numbers: str, points: list[dict], members: list[int], remark: str) -> None:
    shown = pareto_numbers(read_scores(ensembles), pd.DataFrame(points), members)
    shown.to_csv(numbers, index=False, float_format="%.6g")
    style.save(pareto(shown, remark), pdf, png)


if __name__ == "__main__":
    parameters = {key: snakemake.params[key] for key in ("points", "members", "remark")}
    with_record = recorded(main, snakemake.config, snakemake.params.code, snakemake.input.ensembles)
    run(with_record, snakemake.log[0], **snakemake.input, **snakemake.output, **parameters)
