"""Browser of slices: scans with masks and uncertainty in several panels, with a slider, toggles and keys.

The same component serves the index of all results, whose images are files next to the page, and the page of one scan, which
contains its images.
"""

import base64
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from pd_ddpm.data.scan import Scan
from pd_ddpm.exhibits.class_colours import class_colours, class_keys
from pd_ddpm.exhibits.pages.sheets import Slices, map_colours, map_sheet, mask_sheet, scan_sheet

# Okabe & Ito's yellow and sky blue; outlines have a dark rim.
MASK_COLOUR, SECOND_COLOUR, OTHER_COLOUR = "#F0E442", "#56B4E9", "#009E73"

MEDIA_TYPES = {"jpg": "image/jpeg", "png": "image/png"}

# Stores an image under a name with a suffix, and returns the address that the page has for it.
Store = Callable[[str, bytes], str]


@dataclass(frozen=True)
class Toggle:
    """A kind of layers that can be shown or hidden.

    Attributes:
        kind: name of the kind.
        label: text of the check box.
        key: letter that toggles it.
        colour: colour of outlines; None for maps of uncertainty.
        width: outer edge of an outline, in widths of a line. Equal masks stay visible if the lower one has a wider outline.
        is_on: whether it is shown at first.
    """

    kind: str
    label: str
    key: str
    colour: str | None
    width: int = 1
    is_on: bool = True


def class_toggles(classes: Mapping[int, str]) -> list[Toggle]:
    """Return one kind of layers per class, toggled by the digits 1 to 9 and then by letters."""
    colours, keys = class_colours(classes), class_keys(len(classes))
    return [Toggle(f"class-{label}", classes[label], key, colours[label]) for label, key in zip(classes, keys, strict=True)]


@dataclass(frozen=True)
class Panel:
    """A picture of the slice.

    Attributes:
        name: name of the panel.
        heading: title above it.
        scan: key of the image below all layers.
        layers: key of each layer -> its kind, from the lowest to the highest.
    """

    name: str
    heading: str
    scan: str
    layers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class BrowserScan:
    """A scan with its layers.

    Attributes:
        scan: the scan.
        description: what the page says about it, such as its site.
        channels: key -> channel of the image (0-based).
        masks: key -> (X, Y, Z) bool.
        maps: key -> (X, Y, Z) variance.
        notes: name of a panel -> text next to its heading.
        marked: (X, Y, Z) bool; the browser begins with the slice that has most of it.
    """

    scan: Scan
    description: str
    channels: Mapping[str, int]
    masks: Mapping[str, np.ndarray]
    maps: Mapping[str, np.ndarray]
    notes: Mapping[str, str]
    marked: np.ndarray

    def content(self, orientations: Iterable[str], max_slices: int, store: Store) -> dict[str, Any]:
        """Store the images of the scan, and return its part of `browser_data`.

        Args:
            orientations: keys of `ORIENTATIONS`.
            max_slices: largest number of slices in an orientation.
            store: stores an image.
        """
        extent = np.logical_or.reduce([self.marked, *self.masks.values()])
        views = []
        for orientation in orientations:
            slices = Slices.from_scan(self.scan, extent, orientation, max_slices)
            sheets = {}
            for key, channel in self.channels.items():
                sheets[key] = store(
                    f"{orientation}-{key}.jpg", scan_sheet(slices, self.scan.image[..., channel], self.scan.brain)
                )
            layers = {key: mask_sheet(slices, mask) for key, mask in self.masks.items()}
            layers |= {key: map_sheet(slices, variance) for key, variance in self.maps.items()}
            sheets |= {key: store(f"{orientation}-{key}.png", image) for key, image in layers.items() if image is not None}
            views.append(slices.description(self.marked) | {"sheets": sheets})
        return {"name": self.scan.case, "description": self.description, "notes": dict(self.notes), "views": views}


def browser_data(
    panels: Sequence[Panel], toggles: Sequence[Toggle], cases: Sequence[Mapping[str, Any]], panel_pixels: int
) -> dict[str, Any]:
    """Return the data of the component `browser.html.j2`.

    Args:
        panels: panels, from the left to the right.
        toggles: kinds of layers.
        cases: contents of the scans.
        panel_pixels: width of a panel at first, in pixels of CSS.
    """
    return {
        "panels": [asdict(panel) for panel in panels],
        "toggles": [asdict(toggle) for toggle in toggles],
        "cases": list(cases),
        "panel_pixels": panel_pixels,
        "map_colours": ["#{:02x}{:02x}{:02x}".format(*colour) for colour in map_colours()],
    }


def files_in(folder: Path, case: str) -> Store:
    """Return a store that writes the images of a case into a folder, whose parent holds the page."""

    def store(name: str, image: bytes) -> str:
        path = folder / case / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image)
        return quote(path.relative_to(folder.parent).as_posix())

    return store


def embedded(name: str, image: bytes) -> str:
    """Return an image as a data URL."""
    return f"data:{MEDIA_TYPES[name.rpartition('.')[2]]};base64,{base64.b64encode(image).decode('ascii')}"
