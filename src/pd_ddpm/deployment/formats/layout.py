"""Layout of a format: the files it consists of."""

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple


class ClassProbability(NamedTuple):
    """The probability of a class.

    Attributes:
        number: number of the class, from 1 in the order of the labels.
    """

    number: int


Part = Literal["mask", "probability", "uncertainty"] | ClassProbability


@dataclass(frozen=True)
class Layout:
    """The files of a conversion. File names are relative to its folder, with slashes.

    Attributes:
        images: case -> file name -> part of the prediction that the image holds.
        documents: file name -> JSON content.
        tables: file name -> text of a table.
    """

    images: dict[str, dict[str, Part]]
    documents: dict[str, Any] = field(default_factory=dict)
    tables: dict[str, str] = field(default_factory=dict)

    def files(self) -> set[str]:
        """Return the names of all files."""
        return {name for images in self.images.values() for name in images} | set(self.documents) | set(self.tables)
