"""Write tables of text with notes as a web page, Markdown and LaTeX."""

import html
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import pandas as pd

from pd_ddpm.runtime.sealed import sealed_write

STYLE = (
    "body{font-family:sans-serif;margin:2em;max-width:95em}"
    "table{border-collapse:collapse;border-top:2px solid;border-bottom:2px solid;margin:1em 0}"
    "th{border-bottom:1px solid;vertical-align:bottom}td,th{padding:.3em .8em;text-align:right;vertical-align:top}"
    ".left{text-align:left}p{max-width:60em;line-height:1.4}"
)

LATEX_CHARACTERS = str.maketrans(
    {character: f"\\{character}" for character in "&%$#_{}"}
    | {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": "$<$",
        ">": "$>$",
        "±": r"$\pm$",
        "−": "$-$",
        "×": r"$\times$",
        "√": r"$\surd$",
        "–": "--",
        "²": r"$^2$",
        "³": r"$^3$",
        "⁻": r"$^{-}$",
        "→": r"$\rightarrow$",
        "\u00a0": "~",
    }
)


@dataclass(frozen=True)
class Part:
    """A section of a document.

    Attributes:
        heading: title of the section.
        table: cells; all are shown as text.
        notes: paragraphs below the table.
        left: columns that are left-aligned in addition to the first one; all others are right-aligned.
    """

    heading: str
    table: pd.DataFrame
    notes: Sequence[str] = ()
    left: Collection[str] = ()

    def alignments(self) -> list[str]:
        """Return "left" or "right" for each column."""
        return ["left" if index == 0 or name in self.left else "right" for index, name in enumerate(self.table.columns)]

    def lines(self) -> list[list[str]]:
        """Return the text of the cells, row by row."""
        return self.table.astype(str).to_numpy().tolist()

    def html(self) -> str:
        """Return the part as HTML without a page around it."""
        classes = [' class="left"' if alignment == "left" else "" for alignment in self.alignments()]

        def row(tag: str, cells: Sequence[str]) -> str:
            elements = (f"<{tag}{name}>{html.escape(cell)}</{tag}>" for name, cell in zip(classes, cells, strict=True))
            return f"<tr>{''.join(elements)}</tr>\n"

        head = row("th", list(self.table.columns))
        body = "".join(row("td", line) for line in self.lines())
        notes = "".join(f"<p>{html.escape(note)}</p>\n" for note in self.notes)
        return f"<h2>{html.escape(self.heading)}</h2>\n<table>\n{head}{body}</table>\n{notes}"


@dataclass(frozen=True)
class Document:
    """A table of the report with its title.

    Attributes:
        title: title of the document.
        caption_note: dataset and scale that all numbers belong to.
        parts: sections.
        remarks: sentences that a reader needs before the numbers, such as a method that has collapsed.
    """

    title: str
    caption_note: str
    parts: Sequence[Part]
    remarks: Sequence[str] = ()

    def with_remarks(self, remarks: Sequence[str]) -> Self:
        """Return the document with these remarks below its caption note."""
        return replace(self, remarks=remarks)

    def write(self, page: str | Path, markdown: str | Path, latex: str | Path | None = None) -> None:
        """Write the document.

        Args:
            page: path of the HTML page.
            markdown: path of the Markdown file.
            latex: path of the LaTeX file, if it is needed.
        """
        contents = {page: self.html(), markdown: self.markdown()} | ({latex: self.latex()} if latex is not None else {})
        for path, content in contents.items():
            with sealed_write(path) as temporary:
                temporary.write_text(content, encoding="utf-8")

    def markdown(self) -> str:
        """Return the document as Markdown with pipe tables."""
        blocks = [f"# {self.title}", f"**{self.caption_note}**", *(f"**Remark:** {remark}" for remark in self.remarks)]
        for part in self.parts:
            delimiters = ["---" if alignment == "left" else "---:" for alignment in part.alignments()]
            lines = [list(part.table.columns), delimiters, *part.lines()]
            body = ["| " + " | ".join(_markdown(cell) for cell in line) + " |" for line in lines]
            blocks += [f"## {part.heading}", "\n".join(body), *part.notes]
        return "\n\n".join(blocks) + "\n"

    def html(self) -> str:
        """Return the document as a whole web page."""
        return web_page(self.title, f"<h1>{html.escape(self.title)}</h1>\n{self.body()}")

    def body(self) -> str:
        """Return the document as HTML without title and page."""
        remarks = "".join(f"<p><strong>Remark:</strong> {html.escape(remark)}</p>\n" for remark in self.remarks)
        note = f"<p><strong>{html.escape(self.caption_note)}</strong></p>\n"
        return note + remarks + "".join(part.html() for part in self.parts)

    def latex(self) -> str:
        r"""Return one table environment per part, with the notes below it and the remarks below the first.

        The preamble needs \usepackage{booktabs}.
        """
        remarks = [f"Remark: {remark}" for remark in self.remarks]
        parts = (_latex_part(part, [self.caption_note, *(() if index else remarks)]) for index, part in enumerate(self.parts))
        return f"% {self.title}. Needs \\usepackage{{booktabs}}.\n" + "\n".join(parts)


def web_page(title: str, body: str, style: str = STYLE) -> str:
    """Return a whole web page.

    Args:
        title: title as text.
        body: content as HTML.
        style: CSS.
    """
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{style}</style></head>\n<body>{body}</body></html>\n"
    )


def _latex_part(part: Part, first_notes: Sequence[str]) -> str:
    columns = "".join(alignment[0] for alignment in part.alignments())
    lines = [" & ".join(_latex(cell) for cell in line) + r" \\" for line in [list(part.table.columns), *part.lines()]]
    notes = " ".join(_latex(note) for note in (*first_notes, *part.notes))
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering\small",
            rf"\caption{{{_latex(part.heading)}}}",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            lines[0],
            r"\midrule",
            *lines[1:],
            r"\bottomrule",
            r"\end{tabular}",
            rf"\par\smallskip\footnotesize {notes}",
            r"\end{table}",
            "",
        ]
    )


def _markdown(text: str) -> str:
    """Return the text of a cell without column separators and HTML elements."""
    return re.sub(r"<(?=[A-Za-z/!?])", r"\\<", text.replace("|", r"\|"))


def _latex(text: str) -> str:
    return text.translate(LATEX_CHARACTERS)
