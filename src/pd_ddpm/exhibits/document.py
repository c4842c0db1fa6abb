"""Tables of text with their notes, as a web page, as Markdown and as LaTeX."""

import html
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

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
    """A heading, a table of text, and what its reader must know; columns are right-aligned but the first and `left`."""

    heading: str
    table: pd.DataFrame
    notes: Sequence[str] = ()
    left: Collection[str] = ()

    def sides(self) -> list[str]:
        """Left or right, for each column."""
        return ["left" if place == 0 or name in self.left else "right" for place, name in enumerate(self.table.columns)]

    def lines(self) -> list[list[str]]:
        """The cells, row by row."""
        return self.table.astype(str).to_numpy().tolist()

    def html(self) -> str:
        """The part as a piece of a web page."""
        classes = [f' class="{side}"' if side == "left" else "" for side in self.sides()]

        def row(tag: str, cells: Sequence[str]) -> str:
            marked = (f"<{tag}{kind}>{html.escape(cell)}</{tag}>" for kind, cell in zip(classes, cells, strict=True))
            return f"<tr>{''.join(marked)}</tr>\n"

        head = row("th", list(self.table.columns))
        body = "".join(row("td", line) for line in self.lines())
        notes = "".join(f"<p>{html.escape(note)}</p>\n" for note in self.notes)
        return f"<h2>{html.escape(self.heading)}</h2>\n<table>\n{head}{body}</table>\n{notes}"


@dataclass(frozen=True)
class Document:
    """An exhibit for reading. remark: of what data and scale all of its numbers are."""

    title: str
    remark: str
    parts: Sequence[Part]

    def write(self, page: str | Path, markdown: str | Path, latex: str | Path | None = None) -> None:
        """Write the document as an HTML page, as Markdown, and as LaTeX if a path is given."""
        Path(page).write_text(self.html(), encoding="utf-8")
        Path(markdown).write_text(self.markdown(), encoding="utf-8")
        if latex is not None:
            Path(latex).write_text(self.latex(), encoding="utf-8")

    def markdown(self) -> str:
        """The document as Markdown with pipe tables."""
        blocks = [f"# {self.title}", f"**{self.remark}**"]
        for part in self.parts:
            rule = ["---" if side == "left" else "---:" for side in part.sides()]
            lines = [list(part.table.columns), rule, *part.lines()]
            body = ["| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines]
            blocks += [f"## {part.heading}", "\n".join(body), *part.notes]
        return "\n\n".join(blocks) + "\n"

    def html(self) -> str:
        """The document as a page of its own."""
        return web_page(self.title, f"<h1>{html.escape(self.title)}</h1>\n{self.body()}")

    def body(self) -> str:
        """The document without its title, as a piece of a web page."""
        return f"<p><strong>{html.escape(self.remark)}</strong></p>\n" + "".join(part.html() for part in self.parts)

    def latex(self) -> str:
        r"""A table environment for each part, remark and notes below it; the reader's preamble needs \usepackage{booktabs}."""
        parts = (_latex_part(part, self.remark) for part in self.parts)
        return f"% {self.title}. Needs \\usepackage{{booktabs}}.\n" + "\n".join(parts)


def web_page(title: str, body: str, style: str = STYLE) -> str:
    """A whole page; title is text, body HTML, style CSS."""
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{style}</style></head>\n<body>{body}</body></html>\n"
    )


def _latex_part(part: Part, remark: str) -> str:
    columns = "".join(side[0] for side in part.sides())
    lines = [" & ".join(_latex(cell) for cell in line) + r" \\" for line in [list(part.table.columns), *part.lines()]]
    notes = " ".join(_latex(note) for note in (remark, *part.notes))
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


def _latex(text: str) -> str:
    return text.translate(LATEX_CHARACTERS)
