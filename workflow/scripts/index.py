"""Index of all results: one page with every table and figure, the claims, all test cases and how all of it was made."""

from pathlib import Path

from pd_ddpm.exhibits.pages.case_browser import CaseSource, case_browser, case_rows, case_table
from pd_ddpm.exhibits.pages.index import IndexExhibit, IndexText, index_page
from pd_ddpm.runtime.job import run
from pd_ddpm.runtime.sealed import sealed_write


def main(job) -> None:
    exhibits = [IndexExhibit(**fields) for fields in job.params.exhibits]
    prepared, rows = Path(job.input.cases).parent, case_rows(job.input.scores)
    source = CaseSource(prepared, manifests=job.input.predictions, **job.params.source)
    browser = case_browser(source, rows, Path(job.output.images))
    cases = case_table(rows, source.labels)
    page = index_page(Path(job.output.page).parent, IndexText(**job.params.text), exhibits, browser, cases)
    with sealed_write(job.output.page) as temporary:
        temporary.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    run(main, snakemake.log[0], job=snakemake)
