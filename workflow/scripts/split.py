"""Assign every case a role in every split."""

from pd_ddpm.data.cases.table import read_table
from pd_ddpm.data.splits import make_splits, make_test_only_splits
from pd_ddpm.runtime.job import run


def main(table: str, splits: str, folds: dict, no_training: bool) -> None:
    """All splits, whichever of them are run: adding one later must not touch the others. Roles make one split."""
    cases = read_table(table)
    if no_training:
        make_test_only_splits(cases, range(folds["count"])).to_csv(splits, index=False)
        return
    count = 1 if cases["role"].astype(bool).any() else folds["count"]
    make_splits(cases, folds["count"], folds["seed"], folds["stratify_by_site"], range(count)).to_csv(splits, index=False)


if __name__ == "__main__":
    parameters = {key: snakemake.params[key] for key in ("folds", "no_training")}
    run(main, snakemake.log[0], table=snakemake.input.table, **snakemake.output, **parameters)
