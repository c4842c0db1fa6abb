"""Colours of classes in figures and on pages."""

from collections.abc import Iterable

# Okabe & Ito 2008 without black, then colours that differ from these in hue or brightness.
COLOURS = (
    *("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7", "#FFFFFF"),
    *("#882211", "#99BB66", "#7766FF", "#00FFFF", "#FF66FF", "#996633", "#66FFAA", "#FFB3B3"),
)

BRAIN_COLOUR = "#A6A6A6"  # of the brain mask next to classes; no class has it

# Without the keys of other functions of the browser of slices.
_KEYS = "123456789ACDEFGHIJKLMOQRSTWXYZ"


def class_keys(count: int) -> list[str]:
    """Return a key of the keyboard for each of this many classes; an empty one beyond 30."""
    return [*_KEYS[:count], *[""] * (count - len(_KEYS))]


def class_colours(classes: Iterable[int]) -> dict[int, str]:
    """Return a colour for each label, in the order of the labels. More than 16 classes share colours."""
    return {label: COLOURS[number % len(COLOURS)] for number, label in enumerate(classes)}
