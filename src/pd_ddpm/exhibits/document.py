"""Write tables of text with notes as a web page, Markdown and LaTeX."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

import pandas as pd

from pd_ddpm.exhibits.pages.template import fill_template
from pd_ddpm.runtime.problem import Problem, ProblemError
from pd_ddpm.runtime.sealed import read_sealed, sealed_write

BEST_NOTE = "Bold: the best value of a column. It need not differ from the others by more than chance."

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
        best: column -> positions of the rows with its best value, which are bold.
    """

    heading: str
    table: pd.DataFrame
    notes: Sequence[str] = ()
    left: Collection[str] = ()
    best: Mapping[str, Collection[int]] = field(default_factory=dict)

    def alignments(self) -> list[str]:
        """Return "left" or "right" for each column."""
        return ["left" if index == 0 or name in self.left else "right" for index, name in enumerate(self.table.columns)]

    def lines(self) -> list[list[str]]:
        """Return the text of the cells, row by row."""
        return self.table.astype(str).to_numpy().tolist()

    def is_best(self, row: int, column: int) -> bool:
        """Return whether the cell at this position has the best value of its column."""
        return row in self.best.get(self.table.columns[column], ())

    def all_notes(self) -> list[str]:
        """Return the notes, with one on bold cells if there are any."""
        return [*self.notes, *([BEST_NOTE] if any(self.best.values()) else [])]


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

    def write(
        self, page: str | Path, markdown: str | Path, latex: str | Path | None = None, *, data: Sequence[str | Path] = ()
    ) -> None:
        """Write the document.

        Args:
            page: path of the HTML page.
            markdown: path of the Markdown file.
            latex: path of the LaTeX file, if it is needed.
            data: files with the numbers and their record. The page links to them, so they lie in its folder.
        """
        contents = {markdown: self.markdown()} | ({latex: self.latex()} if latex is not None else {})
        contents[page] = self.html([Path(file).name for file in (*data, *contents)])
        for path, content in contents.items():
            with sealed_write(path) as temporary:
                temporary.write_text(content, encoding="utf-8")

    def html(self, files: Sequence[str] = ()) -> str:
        """Return the document as a whole web page, with links to files in its folder."""
        return fill_template("document.html.j2", title=self.title, document=self, files=files)

    def markdown(self) -> str:
        """Return the document as Markdown with pipe tables."""
        blocks = [f"# {self.title}", f"**{self.caption_note}**", *(f"**Remark:** {remark}" for remark in self.remarks)]
        for part in self.parts:
            delimiters = ["---" if alignment == "left" else "---:" for alignment in part.alignments()]
            cells = [
                [f"**{_markdown(cell)}**" if part.is_best(row, column) else _markdown(cell) for column, cell in enumerate(line)]
                for row, line in enumerate(part.lines())
            ]
            lines = [[_markdown(name) for name in part.table.columns], delimiters, *cells]
            body = ["| " + " | ".join(line) + " |" for line in lines]
            blocks += [f"## {part.heading}", "\n".join(body), *part.all_notes()]
        return "\n\n".join(blocks) + "\n"

    def latex(self) -> str:
        r"""Return one table environment per part, with the notes below it and the remarks below the first.

        The preamble needs \usepackage{booktabs}.
        """
        remarks = [f"Remark: {remark}" for remark in self.remarks]
        parts = (_latex_part(part, [self.caption_note, *(() if index else remarks)]) for index, part in enumerate(self.parts))
        return f"% {self.title}. Needs \\usepackage{{booktabs}}.\n" + "\n".join(parts)


def read_document(page: str | Path, heading_levels: int) -> str:
    """Return the content of a page that `Document.write` has written, as HTML without title, links and page.

    Args:
        page: path of the page.
        heading_levels: by how many levels headings are lowered, for use within another page.

    Raises:
        DamagedFileError: the page differs from its seal.
        ProblemError: another version has written the page.
    """
    text = read_sealed(page).decode("utf-8")
    _, mark, rest = text.partition('<div class="document">')
    content, end, _ = rest.partition("</div><!-- document -->")
    if not (mark and end):
        problem = "it was written by another version of this package"
        raise ProblemError(Problem(page, problem, "Delete it and run `snakemake` again, which writes it again"))
    return re.sub(r"(</?h)([2-6])>", lambda match: f"{match[1]}{min(int(match[2]) + heading_levels, 6)}>", content)


def _latex_part(part: Part, first_notes: Sequence[str]) -> str:
    columns = "".join(alignment[0] for alignment in part.alignments())
    cells = [
        [rf"\textbf{{{_latex(cell)}}}" if part.is_best(row, column) else _latex(cell) for column, cell in enumerate(line)]
        for row, line in enumerate(part.lines())
    ]
    lines = [" & ".join(line) + r" \\" for line in [[_latex(name) for name in part.table.columns], *cells]]
    notes = " ".join(_latex(note) for note in (*first_notes, *part.all_notes()))
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
