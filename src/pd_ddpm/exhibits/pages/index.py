"""Index of all results: one page with every table and figure, the claims, the test cases, and how all of it was made."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup, escape
from PIL import Image

from pd_ddpm.exhibits.document import read_document
from pd_ddpm.exhibits.pages.template import fill_template
from pd_ddpm.exhibits.tables.provenance import provenance_facts
from pd_ddpm.runtime.sealed import read_sealed_json
from pd_ddpm.runtime.sealed_tables import read_sealed_csv

CLAIMS = "claims"  # name of the exhibit whose rows are also listed at the top
HEADING_LEVELS = 2  # by which the headings of a table's page are lowered
PICTURE_PIXELS_PER_INCH = 300


@dataclass(frozen=True)
class IndexExhibit:
    """A table or figure.

    Attributes:
        name: name of its files.
        title: title.
        caption: caption, which is also that in Snakemake's report.
        files: names of its files, in the folder of the page.
    """

    name: str
    title: str
    caption: str
    files: Sequence[str]

    def file(self, suffix: str) -> str | None:
        """Return its first file with this suffix, or None."""
        return next((file for file in self.files if file.endswith(suffix)), None)

    def alternative_text(self) -> str:
        """Return what a reader of the page without pictures needs: title, first sentence of the caption, and the numbers."""
        sentence = re.split(r"(?<=[.:])\s", self.caption, maxsplit=1)[0].rstrip(":.")
        return f"{self.title}. {sentence}. The numbers are in {self.file('.csv')}."


@dataclass(frozen=True)
class IndexText:
    """Texts at the top of the page.

    Attributes:
        title: title.
        introduction: what was reproduced; `*` marks emphasis, as in reStructuredText.
        caption_note: dataset and scale that all numbers belong to.
        marked: what the volume of a case is that of, as a heading.
    """

    title: str
    introduction: str
    caption_note: str
    marked: str = "Lesions"


def index_page(
    folder: Path,
    text: IndexText,
    exhibits: Sequence[IndexExhibit],
    browser: Mapping[str, Any],
    cases: Sequence[Mapping[str, Any]],
) -> str:
    """Return the page as HTML. Its pictures are files in its folder; it loads nothing else.

    Args:
        folder: folder of the page and of the files of all exhibits.
        text: texts at the top.
        exhibits: tables and figures, in their order.
        browser: data of `case_browser`.
        cases: rows of `case_table`.
    """
    records = {exhibit.name: read_sealed_json(folder / exhibit.file(".json")) for exhibit in exhibits}
    return fill_template(
        "index.html.j2",
        title=text.title,
        introduction=_with_emphasis(text.introduction),
        caption_note=text.caption_note,
        claims=[claim for exhibit in exhibits if exhibit.name == CLAIMS for claim in _claims(folder / exhibit.file(".csv"))],
        exhibits=[_entry(folder, exhibit) for exhibit in exhibits],
        browser=browser,
        cases=cases,
        marked=text.marked,
        methods=[panel["heading"] for panel in browser["panels"][1:]],
        facts=provenance_facts(records),
    )


def _entry(folder: Path, exhibit: IndexExhibit) -> dict[str, Any]:
    """Return what the template shows of an exhibit."""
    picture, page = exhibit.file(".png"), exhibit.file(".html")
    entry: dict[str, Any] = {
        "name": exhibit.name,
        "title": exhibit.title,
        "caption": " ".join(exhibit.caption.split()),
        "files": exhibit.files,
        "picture": None,
        "table": None,
    }
    if picture:
        with Image.open(folder / picture) as image:
            width, height = (round(pixels * 96 / PICTURE_PIXELS_PER_INCH) for pixels in image.size)
        entry["picture"] = {"file": picture, "alt": exhibit.alternative_text(), "width": width, "height": height}
    if page:
        entry["table"] = Markup(read_document(folder / page, HEADING_LEVELS))
    return entry


def _claims(file: Path) -> Iterator[dict[str, str]]:
    """Yield statement, verdict, source and comparison of each claim."""
    table: pd.DataFrame = read_sealed_csv(file).fillna("")
    for row in table.itertuples():
        yield {
            "statement": row.statement,
            "verdict": row.verdict,
            "class": row.verdict.replace(" ", "-"),
            "paper": row.paper,
            "detail": row.detail,
        }


def _with_emphasis(text: str) -> Markup:
    """Return text as HTML, with *words* in asterisks emphasised."""
    return Markup(re.sub(r"\*(.+?)\*", r"<em>\1</em>", str(escape(" ".join(text.split())))))
