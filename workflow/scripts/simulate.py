"""Simulate the phantom cohort in the WMH challenge's folder layout."""

from pathlib import Path

from pd_ddpm.data.phantom.cohort import Cohort, simulate_cohort
from pd_ddpm.runtime.job import run


def main(done: str, settings: dict, processes: int) -> None:
    simulate_cohort(Path(done).parent, Cohort(**settings), processes)


if __name__ == "__main__":
    run(main, snakemake.log[0], **snakemake.output, settings=snakemake.params.settings, processes=snakemake.threads)
