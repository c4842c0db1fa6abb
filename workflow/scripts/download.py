"""Fetch a published data set, or take it from a copy; what is written last is the record of what was verified."""

from pathlib import Path

from pd_ddpm.data.download.obtain import obtain
from pd_ddpm.runtime.files import write_json
from pd_ddpm.runtime.job import run


def main(record: str, dataset: str, download: dict, part: str) -> None:
    write_json(Path(record), obtain(Path(record).parent, key=f"datasets.{dataset}", part=part, **download))


if __name__ == "__main__":
    name = snakemake.params.dataset
    # From the configuration, not a parameter: accepting the licence later or naming a copy makes no data stale.
    settings = snakemake.config["datasets"][name]["download"]
    run(main, snakemake.log[0], **snakemake.output, dataset=name, download=settings, part=snakemake.params.part)
