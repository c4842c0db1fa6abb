"""Assign every case a role in every split."""

from pd_ddpm.data.cases.table import read_table
from pd_ddpm.data.splits import make_splits, make_test_only_splits
from pd_ddpm.runtime.job import run
from pd_ddpm.runtime.sealed_tables import write_sealed_csv


def main(table: str, splits: str, folds: dict, no_training: bool) -> None:
    # Make all splits, even if fewer are configured: adding one later must not change the others.
    cases = read_table(table)
    if no_training:
        made = make_test_only_splits(cases, range(folds["count"]))
    else:
        has_roles = cases["role"].astype(bool).any()
        numbers = range(1 if has_roles else folds["count"])
        made = make_splits(cases, folds["count"], folds["seed"], folds["stratify_by_site"], numbers)
    write_sealed_csv(made, splits)


if __name__ == "__main__":
    parameters = {key: snakemake.params[key] for key in ("folds", "no_training")}
    run(main, snakemake.log[0], table=snakemake.input.table, **snakemake.output, **parameters)
