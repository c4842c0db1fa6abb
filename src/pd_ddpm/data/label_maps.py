"""Label maps with several classes: their labels and names, and the mask of each class.

Label 0 is background. A dataset without named classes has lesions (1) and other pathology (2) instead.
"""

from collections.abc import Mapping, Sequence

import numpy as np

CLASSES_COLUMN = "classes"  # of the table of cases; empty or missing if the dataset names no classes
BACKGROUND_NAME = "background"


def classes_to_text(classes: Mapping[int, str]) -> str:
    """Return labels and names of classes as the cell of a table, such as "1=CSF;2=grey matter"."""
    return ";".join(f"{label}={name}" for label, name in classes.items())


def parse_classes(text: str) -> dict[int, str]:
    """Return label -> name of the text of `classes_to_text`; empty for an empty text."""
    pairs = (part.partition("=") for part in text.split(";") if part)
    return {int(label): name for label, _, name in pairs}


def class_index(labels: np.ndarray, values: Sequence[int]) -> np.ndarray:
    """Return the number of each voxel's class.

    Args:
        labels: (X, Y, Z) uint8, the label map.
        values: labels of the classes, without background.

    Returns:
        (X, Y, Z) uint8: 0 is background, 1 the first of `values`, and so on.
    """
    numbers = np.zeros(256, dtype=np.uint8)
    numbers[list(values)] = np.arange(1, len(values) + 1)
    return numbers[labels]


def one_hot(index: np.ndarray, num_channels: int) -> np.ndarray:
    """Return the masks of all classes.

    Args:
        index: (...) number of the class, from 0.
        num_channels: number of classes with background, C.

    Returns:
        (..., C) bool.
    """
    return index[..., None] == np.arange(num_channels)
