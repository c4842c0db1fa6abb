"""Read text files as people and programs write them: with a byte order mark, in UTF-16, with semicolons or tabs."""

from __future__ import annotations

import codecs
import csv
from pathlib import Path

from pd_ddpm.runtime.missing_file import pointer_problem
from pd_ddpm.runtime.problem import Problem, ProblemError

SEPARATORS = (",", ";", "\t")

# The longer marks come first, because that of UTF-32 begins like that of UTF-16.
_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


class TextError(ProblemError):
    """Raised for a file that is not readable text."""


def read_text(path: Path) -> str:
    """Return the text of a file in UTF-8, or in the encoding that its byte order mark names, without that mark.

    Raises:
        TextError: the file holds something else.
    """
    content = path.read_bytes()
    if problem := pointer_problem(path, content[:1000]):
        raise TextError(problem)
    if content.startswith(b"PK\x03\x04"):
        raise TextError(Problem(path, "is a workbook or an archive, not text", "Save it as UTF-8 text"))
    encoding = next((name for mark, name in _MARKS.items() if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        raise TextError(Problem(path, f"cannot be read as text ({error})", "Save it as UTF-8 text")) from error
    if "\0" in text:
        raise TextError(Problem(path, "holds zero bytes, so it is not UTF-8 text", "Save it as UTF-8 text"))
    return text


def separator_of(text: str) -> str:
    """Return the separator of a table's cells: the one of `SEPARATORS` that gives its first line the most cells."""
    header = next((line for line in text.splitlines() if line.strip()), "")
    try:
        counts = {separator: len(next(csv.reader([header], delimiter=separator), [])) for separator in SEPARATORS}
    except csv.Error:
        return SEPARATORS[0]
    return max(SEPARATORS, key=counts.__getitem__)
