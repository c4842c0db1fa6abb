"""Assign every case a role in every split."""

from pd_ddpm.cohort import read_table
from pd_ddpm.console import run
from pd_ddpm.splits import make_splits


def main(table: str, splits: str, folds: dict, chosen: list[int]) -> None:
    roles = make_splits(read_table(table), folds["count"], folds["seed"], folds["stratify_by_site"], chosen)
    roles.to_csv(splits, index=False)


if __name__ == "__main__":
    parameters = snakemake.params
    run(main, snakemake.log[0], **snakemake.input, **snakemake.output, folds=parameters.folds, chosen=parameters.splits)
