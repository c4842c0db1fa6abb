"""Text that spreadsheets would execute."""

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


def is_formula(text: str) -> bool:
    """Return whether spreadsheets execute a cell of a csv with this text as a formula."""
    return text.startswith(FORMULA_STARTS)
