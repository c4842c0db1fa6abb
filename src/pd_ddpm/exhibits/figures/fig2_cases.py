"""Cases and pixels of Figure 2: which test cases it shows, and the values of every pixel in their slices.

Slices are in radiological convention: the patient's left is on the right of the picture, anterior is up.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from nibabel.affines import voxel_sizes
from nibabel.orientations import apply_orientation, io_orientation, ornt_transform

from pd_ddpm.data.nifti.read import read_array
from pd_ddpm.data.prepared import read_ground_truth, read_scan
from pd_ddpm.data.scan import Scan
from pd_ddpm.evaluation.metrics import LESION
from pd_ddpm.exhibits.figures.radiological import VIEW, bounding_box
from pd_ddpm.inference.prediction_store import read_predictions


@dataclass(frozen=True, eq=False)
class MethodResult:
    """Result of one method for one case.

    Attributes:
        mask: (X, Y, Z) uint8, 1 is lesion; with classes a label map.
        variance: (X, Y, Z) over the ensemble members; None for a single member.
        dice: Dice of the whole case.
    """

    mask: np.ndarray
    variance: np.ndarray | None
    dice: float


@dataclass(frozen=True, eq=False)
class FigureCase:
    """One case of the figure.

    Attributes:
        scan: prepared scan.
        labels: (X, Y, Z) ground truth; 0 background, 1 lesion, 2 other pathology, or a label map of classes.
        site: site of the scanner.
        load_ml: lesion volume of the ground truth, or that of all classes.
        methods: name of a method -> its result.
        has_classes: whether the masks are label maps of classes.
    """

    scan: Scan
    labels: np.ndarray
    site: str
    load_ml: float
    methods: Mapping[str, MethodResult]
    has_classes: bool = False


def choose_cases(scores: pd.DataFrame, num_cases: int = 3) -> list[str]:
    """Return cases spread evenly over the lesion load; of three, those with the lowest, the median and the highest load.

    Cases without lesions are left out if any other case exists. Equal loads are ordered by the name of the case.

    Args:
        scores: score rows of any methods.
        num_cases: number of cases; all cases if there are fewer.
    """
    loads = scores.groupby("case")["reference_volume_ml"].mean()
    loads = loads[loads > 0] if (loads > 0).any() else loads
    cases = loads.reset_index().sort_values(["reference_volume_ml", "case"])["case"].tolist()
    num_cases = min(num_cases, len(cases))
    if num_cases == 1:
        return [cases[(len(cases) - 1) // 2]]
    return [cases[(len(cases) - 1) * position // (num_cases - 1)] for position in range(num_cases)]


def read_figure_cases(
    scores: pd.DataFrame,
    prepared: Path,
    manifests: Mapping[str, str],
    labels: Mapping[str, str],
    num_cases: int,
    classes: Iterable[int] = (),
) -> Iterator[FigureCase]:
    """Read the chosen cases one after another, so that only one is in memory.

    Args:
        scores: score rows of all methods, for one split and seed.
        prepared: folder of prepared cases.
        manifests: method -> table of its predictions.
        labels: method -> name in the figure.
        num_cases: number of cases to choose.
        classes: labels of the dataset's classes; empty if masks hold lesions.
    """
    classes = tuple(classes)
    rows = scores.set_index(["method", "case"])
    predictions = {method: read_predictions(manifest) for method, manifest in manifests.items()}
    for case in choose_cases(scores, num_cases):
        methods = {}
        for method, label in labels.items():
            folder = Path(manifests[method]).parent
            mask = read_array(folder / f"{case}_mask.nii.gz", mask=True, dtype=np.uint8)
            is_single = predictions[method].loc[case, "samples"] == 1
            variance = None if is_single else read_array(folder / f"{case}_uncertainty.nii.gz", mask=True)
            methods[label] = MethodResult(mask, variance, rows.loc[(method, case), "dice"])
        row = rows.xs(case, level="case").iloc[0]
        scan, truth = read_scan(prepared, case), read_ground_truth(prepared, case, classes)
        yield FigureCase(scan, truth, row["site"], row["reference_volume_ml"], methods, bool(classes))


def fig2_numbers(cases: Iterable[FigureCase], margin_mm: float = 4.0) -> pd.DataFrame:
    """Return the pixels of Figure 2 (PD-DDPM): one row per pixel, row by row of each case's picture.

    A picture is the axial slice with the largest lesion area, or with the most brain if the case has no lesion. It is cropped
    to brain and lesions plus a margin.

    Args:
        cases: cases in the order of the figure.
        margin_mm: width of the margin.

    Returns:
        Columns `case`, `site`, `load_ml`, `slice` (0-based, along the file's own axis), `x_mm` to the patient's left and
        `y_mm` to posterior from the first pixel, `flair` (the first channel), `brain` (0, 1), `reference` (0, 1, 2), and for
        each method `{label}_mask` (0, 1), `{label}_variance` (empty for a single member), `{label}_dice` (whole case). With
        classes, reference and masks hold their labels.

    Raises:
        ValueError: the cases have different methods.
    """
    tables = []
    for case in cases:
        table = _pixels(case, margin_mm)
        if tables and list(table.columns) != list(tables[0].columns):
            raise ValueError(f"{case.scan.case}: its methods differ from the other cases'. Give all cases the same methods.")
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def _pixels(case: FigureCase, margin_mm: float) -> pd.DataFrame:
    affine = case.scan.reference.affine
    turn = ornt_transform(io_orientation(affine), VIEW)
    width, height, _ = voxel_sizes(affine)[np.argsort(turn[:, 0])]
    labels, brain = apply_orientation(case.labels, turn), apply_orientation(case.scan.brain, turn)
    marked = labels > 0 if case.has_classes else labels == LESION
    areas = [(np.count_nonzero(marked[..., z]), np.count_nonzero(brain[..., z])) for z in range(labels.shape[2])]
    best_slice = areas.index(max(areas))
    file_axis = np.flatnonzero(turn[:, 0] == 2).item()
    tissue = (brain[..., best_slice] > 0) | (labels[..., best_slice] > 0)
    region = bounding_box(tissue, (margin_mm / width, margin_mm / height))

    def picture(volume: np.ndarray) -> np.ndarray:
        return apply_orientation(volume, turn)[..., best_slice][region].T.ravel()

    columns, rows = (extent.stop - extent.start for extent in region)
    table = {
        "case": case.scan.case,
        "site": case.site,
        "load_ml": case.load_ml,
        "slice": best_slice if turn[file_axis, 1] > 0 else labels.shape[2] - 1 - best_slice,
        "x_mm": np.tile(np.arange(columns) * width, rows),
        "y_mm": np.repeat(np.arange(rows) * height, columns),
        "flair": picture(case.scan.image[..., 0]),
        "brain": picture(case.scan.brain).astype(np.uint8),
        "reference": picture(case.labels),
    }
    for label, method in case.methods.items():
        table[f"{label}_mask"] = picture(method.mask).astype(np.uint8)
        table[f"{label}_variance"] = np.nan if method.variance is None else picture(method.variance)
        table[f"{label}_dice"] = method.dice
    return pd.DataFrame(table)
