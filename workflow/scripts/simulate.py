"""Make the phantom cohort in the WMH challenge's folder layout."""

from pathlib import Path

from pd_ddpm.console import run
from pd_ddpm.phantom.cohort import simulate_cohort


def main(done: str, settings: dict, processes: int) -> None:
    simulate_cohort(Path(done).parent, processes=processes, **settings)


if __name__ == "__main__":
    run(main, snakemake.log[0], **snakemake.output, settings=snakemake.params.settings, processes=snakemake.threads)
