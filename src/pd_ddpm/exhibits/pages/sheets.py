"""Sheets: all slices of a volume as one image, in radiological convention.

A scan is a JPEG. A mask is a PNG of one bit per pixel that is transparent outside of the mask. A map of uncertainty is a PNG of
four bits. The browser of slices draws them on top of each other.
"""

import io
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from nibabel.orientations import apply_orientation, axcodes2ornt, io_orientation, ornt_transform
from PIL import Image

from pd_ddpm.data.scan import Scan
from pd_ddpm.exhibits.figures.radiological import MAP_COLOURS, bounding_box, grey_levels

MARGIN_MM = 6.0
JPEG_QUALITY = 82

# The largest variance of values in [0, 1]. The colours of maps follow the square root of the variance.
LARGEST_VARIANCE = 0.25
MAP_LEVELS = 16


@dataclass(frozen=True)
class Orientation:
    """An orientation of slices.

    Attributes:
        codes: directions of columns, rows and slices.
        marks: letters at the left, right, upper and lower edge of a slice.
    """

    codes: tuple[str, str, str]
    marks: tuple[str, str, str, str]


ORIENTATIONS = {
    "axial": Orientation(("L", "P", "S"), ("R", "L", "A", "P")),
    "coronal": Orientation(("L", "I", "A"), ("R", "L", "S", "I")),
    "sagittal": Orientation(("P", "I", "L"), ("A", "P", "S", "I")),
}


@dataclass(frozen=True, eq=False)
class Slices:
    """Slices of a scan in one orientation, cropped to the brain and everything that is marked.

    Attributes:
        orientation: name of the orientation.
        turn: transform of the file's axes to columns, rows and slices.
        box: region of columns and rows.
        chosen: indices of the slices along the turned third axis.
        file_axis: the file's axis along which the slices lie.
        file_slices: index of each slice along that axis, 0-based.
        pixel_mm: width and height of a pixel.
    """

    orientation: str
    turn: np.ndarray
    box: tuple[slice, slice]
    chosen: np.ndarray
    file_axis: int
    file_slices: tuple[int, ...]
    pixel_mm: tuple[float, float]

    @classmethod
    def from_scan(cls, scan: Scan, marked: np.ndarray, orientation: str, max_slices: int) -> Self:
        """Return the slices with brain or marked voxels.

        Args:
            scan: the scan.
            marked: (X, Y, Z) bool, voxels of any mask.
            orientation: a key of `ORIENTATIONS`.
            max_slices: largest number of slices. More are thinned out evenly, without losing the one with most marked voxels.
        """
        turn = ornt_transform(io_orientation(scan.reference.affine), axcodes2ornt(ORIENTATIONS[orientation].codes))
        order = np.argsort(turn[:, 0])
        width, height, _ = (scan.spacing_mm[axis] for axis in order)
        tissue = apply_orientation(scan.brain | marked, turn)
        box = bounding_box(tissue.any(axis=2), (MARGIN_MM / width, MARGIN_MM / height))
        candidates = np.flatnonzero(tissue.any(axis=(0, 1)))
        if not len(candidates):
            candidates = np.arange(tissue.shape[2])
        fullest = int(apply_orientation(marked, turn).sum(axis=(0, 1)).argmax())
        chosen = thin_out(candidates, max_slices, fullest)
        is_forward, depth = turn[order[2], 1] > 0, tissue.shape[2]
        file_slices = tuple(int(index if is_forward else depth - 1 - index) for index in chosen)
        return cls(orientation, turn, box, chosen, int(order[2]), file_slices, (width, height))

    def take(self, volume: np.ndarray) -> np.ndarray:
        """Return the slices (slice, row, column) of a volume (X, Y, Z) on the scan's grid."""
        return apply_orientation(volume, self.turn)[self.box][..., self.chosen].transpose(2, 1, 0)

    def description(self, marked: np.ndarray) -> dict[str, Any]:
        """Return what the browser needs to know of the slices, without their images.

        Args:
            marked: (X, Y, Z) bool. The browser begins with the slice that has most marked voxels, or with the middle one.
        """
        counts = self.take(marked).sum(axis=(1, 2))
        rows, columns = self.take(marked).shape[1:]
        return {
            "name": self.orientation,
            "size": [columns, rows],
            "pixel_mm": [float(length) for length in self.pixel_mm],
            "marks": ORIENTATIONS[self.orientation].marks,
            "per_row": sheet_columns(len(self.chosen), rows, columns),
            "file_axis": self.file_axis,
            "file_slices": self.file_slices,
            "first": int(counts.argmax()) if counts.any() else len(counts) // 2,
        }


def thin_out(candidates: np.ndarray, count: int, keep: int) -> np.ndarray:
    """Return at most `count` of the candidates, spread evenly. `keep` replaces its nearest neighbour if it is a candidate."""
    positions = np.linspace(0, len(candidates) - 1, min(count, len(candidates))).round().astype(int)
    chosen = candidates[positions]
    if keep in candidates and keep not in chosen:
        chosen[np.abs(chosen - keep).argmin()] = keep
    return chosen


def sheet_columns(num_slices: int, rows: int, columns: int) -> int:
    """Return the number of slices in a row of a sheet, so that the sheet is about square."""
    return max(round((num_slices * rows / columns) ** 0.5), 1)


def scan_sheet(slices: Slices, channel: np.ndarray, brain: np.ndarray) -> bytes:
    """Return the JPEG of a channel (X, Y, Z), windowed by the intensities in the brain (X, Y, Z)."""
    grey = grey_levels(slices.take(channel), slices.take(brain))
    return _encode(Image.fromarray(_tiled((grey * 255).round().astype(np.uint8))), "JPEG", quality=JPEG_QUALITY, optimize=True)


def mask_sheet(slices: Slices, mask: np.ndarray) -> bytes | None:
    """Return the PNG of a mask (X, Y, Z); None if the slices do not contain any of it."""
    tiles = slices.take(mask)
    if not tiles.any():
        return None
    image = Image.fromarray(_tiled(tiles.astype(np.uint8)), mode="P")
    image.putpalette([0, 0, 0, 255, 255, 255])
    return _encode(image, "PNG", bits=1, transparency=b"\x00\xff", optimize=True)


def map_sheet(slices: Slices, variance: np.ndarray) -> bytes | None:
    """Return the PNG of a variance (X, Y, Z) of values in [0, 1]; None if it is nearly 0 in all slices."""
    share = np.sqrt(np.clip(slices.take(variance) / LARGEST_VARIANCE, 0, 1))
    levels = np.round(share * (MAP_LEVELS - 1)).astype(np.uint8)
    if not levels.any():
        return None
    image = Image.fromarray(_tiled(levels), mode="P")
    image.putpalette([0, 0, 0, *(channel for colour in map_colours() for channel in colour)])
    return _encode(image, "PNG", bits=4, transparency=bytes([0] + [255] * (MAP_LEVELS - 1)), optimize=True)


def map_colours() -> list[tuple[int, int, int]]:
    """Return the colours of a map above 0, from the smallest to the largest variance."""
    colours = MAP_COLOURS(np.linspace(0, 1, MAP_LEVELS - 1), bytes=True)
    return [tuple(int(value) for value in colour[:3]) for colour in colours]


def _tiled(tiles: np.ndarray) -> np.ndarray:
    """Return slices (slice, row, column) as one picture, row by row, with zeros after the last."""
    count, rows, columns = tiles.shape
    per_row = sheet_columns(count, rows, columns)
    lines = -(-count // per_row)
    padded = np.zeros((lines * per_row, rows, columns), dtype=tiles.dtype)
    padded[:count] = tiles
    return padded.reshape(lines, per_row, rows, columns).transpose(0, 2, 1, 3).reshape(lines * rows, per_row * columns)


def _encode(image: Image.Image, image_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=image_format, **options)
    return buffer.getvalue()
