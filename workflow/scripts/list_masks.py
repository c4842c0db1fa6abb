"""Find the masks that another program has made for the test cases of a split, and list their versions."""

from pd_ddpm.config.methods import seen_doubt
from pd_ddpm.config.run import Run
from pd_ddpm.data.cases.mask_files import list_mask_files
from pd_ddpm.data.prepared import cases_by_role
from pd_ddpm.runtime.job import run
from pd_ddpm.runtime.progress import log


def main(job) -> None:
    identity = Run(job.wildcards.dataset, job.wildcards.method, int(job.wildcards.split), int(job.wildcards.seed))
    if doubt := seen_doubt(job.config, identity.name):
        log.warning(doubt)
    cases = cases_by_role(job.input.splits, identity.split)["test"]
    list_mask_files(job.params.settings, identity, cases, job.output.table, job.output.versions)


if __name__ == "__main__":
    run(main, snakemake.log[0], job=snakemake)
