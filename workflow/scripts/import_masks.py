"""Store masks that another program has made as the predictions of a method, for one split and seed."""

from pd_ddpm.inference.import_masks import ImportJob, import_masks
from pd_ddpm.runtime.job import run

if __name__ == "__main__":
    run(import_masks, snakemake.log[0], job=ImportJob.from_snakemake(snakemake))
