"""Which files a format consists of."""

from dataclasses import dataclass, field
from typing import Any, Literal

Part = Literal["mask", "probability", "uncertainty"]


@dataclass(frozen=True)
class Layout:
    """images: case -> name of the file -> what it shows; documents: name of the file -> what it says, in JSON.

    Names are relative to the folder of the conversion, with slashes.
    """

    images: dict[str, dict[str, Part]]
    documents: dict[str, Any] = field(default_factory=dict)

    def files(self) -> set[str]:
        """The names of all files."""
        return {name for images in self.images.values() for name in images} | set(self.documents)
