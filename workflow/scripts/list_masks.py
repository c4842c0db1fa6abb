"""Find the masks that another program has made for the test or validation cases of a split, and list their versions."""

from pd_ddpm.config.methods import seen_doubt
from pd_ddpm.config.run import Run
from pd_ddpm.data.cases.mask_files import find_mask_files, write_mask_files
from pd_ddpm.data.prepared import cases_by_role
from pd_ddpm.runtime.job import run
from pd_ddpm.runtime.progress import log


def main(job) -> None:
    identity = Run.from_wildcards(job.wildcards, "method")
    role, settings = job.params.role, job.params.settings
    if doubt := seen_doubt(job.config, identity.name):
        log.warning(doubt)
    cases = cases_by_role(job.input.splits, identity.split).get(role, [])
    files = find_mask_files(settings, identity, cases, are_required=role == "test")
    if len(files) < len(cases):
        log.warning("%s: %d of %d %s cases have a file", identity.name, len(files), len(cases), role)
    write_mask_files(files, settings.get("lesion_label"), job.output.table, job.output.versions)


if __name__ == "__main__":
    run(main, snakemake.log[0], job=snakemake)
