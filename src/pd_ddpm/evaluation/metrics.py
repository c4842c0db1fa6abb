"""Segmentation metrics of one whole 3D case in millimetres, as the WMH Segmentation Challenge defines them.

Source: Kuijf et al., "Standardized assessment of automatic segmentation of white matter hyperintensities", IEEE
Transactions on Medical Imaging 38(11), 2019, and the evaluation that the challenge publishes with it.

* Masking: voxels that the reference labels 2 (other pathology) leave the prediction before anything is counted.
* Dice and Jaccard on voxels. AVD = 100 |V_prediction - V_reference| / V_reference, in percent.
* HD95 (`hd95_mm`): a surface voxel has background among its eight neighbours in the slice (full 3 x 3 x 1 box, outside
  the image is foreground). The larger of the two directed 95th percentiles of the distance to the other surface.
* HD95 as MedPy defines it (`hd95_medpy_mm`): six neighbours in space, outside the image is background, and one 95th
  percentile of both directions pooled. It is usually the smaller number: never compare the two.
* Lesions are 26-connected components. Recall: share of reference lesions that the prediction touches in at least one
  voxel. Precision: share of predicted lesions that touch the reference. F1: their harmonic mean. Lesions need not match
  one to one, and there is no smallest size.

Percentiles interpolate linearly. Distances need the spacing only: an affine without shear moves both masks alike.

Empty masks (after masking) raise no error and no warning:

=================  ====  =======  ======  =========  ==  ===  ====
which is empty     Dice  Jaccard  recall  precision  F1  AVD  HD95
=================  ====  =======  ======  =========  ==  ===  ====
both               1     1        1       1          1   0    NaN
prediction only    0     0        0       1          0   100  NaN
reference only     0     0        1       0          0   NaN  NaN
=================  ====  =======  ======  =========  ==  ===  ====

NaN means undefined and is to be counted as missing. `hd95_mm` is undefined, too, where a mask has no in-plane surface
because it fills every slice that it enters.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from pd_ddpm.evaluation.mask_geometry import MaskGeometry

BACKGROUND, LESION, OTHER_PATHOLOGY = 0, 1, 2

# A mask that was resampled or stored as scaled integers may be off by rounding, not by more.
LABEL_TOLERANCE = 1e-3

EMPTY_MASK_POLICY = (
    "Empty masks: where both are empty, Dice, Jaccard, lesion recall, precision and F1 are 1 and AVD is 0 %. "
    "Where only the prediction is empty, Dice, Jaccard, recall and F1 are 0, precision is 1 and AVD is 100 %. "
    "Where only the reference is empty, Dice, Jaccard, precision and F1 are 0, recall is 1 and AVD is undefined. "
    "HD95 is undefined where either mask is empty. Undefined values are left out of means and counted as missing."
)


@dataclass(frozen=True, eq=False)
class ReferenceMask:
    """The truth of one case, prepared once for any number of predictions; build it with `from_labels`.

    `geometry` is the lesion mask (label 1), `counted` (X, Y, Z) is False where the label is 2, `name` is for errors.
    """

    geometry: MaskGeometry
    counted: np.ndarray
    name: str

    @classmethod
    def from_labels(cls, labels: np.ndarray, spacing_mm: Sequence[float], name: str = "reference") -> "ReferenceMask":
        """Prepare a label map (X, Y, Z) with the values 0, 1, 2 in any numeric type; the spacing is in mm, same order.

        Raises ValueError naming `name` if the map is not three-dimensional, holds NaN or another value, or if the
        spacing is not three positive numbers.
        """
        spacing = _checked_spacing(spacing_mm, name)
        labels = _checked_labels(np.asarray(labels), name)
        lesion = np.ascontiguousarray(labels == LESION)
        return cls(MaskGeometry(lesion, spacing), np.ascontiguousarray(labels != OTHER_PATHOLOGY), name)

    def scored_part(self, prediction: np.ndarray) -> np.ndarray:
        """The boolean prediction (X, Y, Z) where the reference is not 2; ValueError if its type or shape is wrong."""
        prediction = np.asarray(prediction)
        if prediction.dtype != bool:
            unusable = " with NaN" if prediction.dtype.kind == "f" and np.isnan(prediction).any() else ""
            raise ValueError(
                f"{self.name}: the prediction must be a boolean mask, not {prediction.dtype}{unusable}; "
                "threshold it first, for instance probability >= 0.5"
            )
        if prediction.shape != self.counted.shape:
            raise ValueError(
                f"{self.name}: the prediction has shape {prediction.shape}, the reference {self.counted.shape}; "
                "bring the prediction onto the grid of the reference first"
            )
        return np.logical_and(prediction, self.counted, order="C")


def score(reference: ReferenceMask, prediction: np.ndarray) -> dict[str, float]:
    """All metrics of one boolean prediction (X, Y, Z), defined as in the module docstring.

    Keys carry their units: _mm, _ml, _percent, _voxels, _lesions; the others are fractions. Raises ValueError on a
    prediction of the wrong type or shape.
    """
    truth = reference.geometry
    predicted = MaskGeometry(reference.scored_part(prediction), truth.spacing_mm)
    shared = np.count_nonzero(truth.mask.ravel()[predicted.voxels])
    total = truth.voxels.size + predicted.voxels.size
    difference = abs(predicted.voxels.size - truth.voxels.size)
    recall, precision, f1 = lesion_detection(truth, predicted)
    return {
        "dice": _fraction(2 * shared, total, if_nothing=1.0),
        "jaccard": _fraction(shared, total - shared, if_nothing=1.0),
        "hd95_mm": hd95_mm(truth, predicted),
        "hd95_medpy_mm": hd95_medpy_mm(truth, predicted),
        "avd_percent": 100.0 * _fraction(difference, truth.voxels.size, if_nothing=math.nan if total else 0.0),
        "lesion_recall": recall,
        "lesion_precision": precision,
        "lesion_f1": f1,
        "reference_volume_ml": truth.volume_ml,
        "predicted_volume_ml": predicted.volume_ml,
        "reference_voxels": float(truth.voxels.size),
        "predicted_voxels": float(predicted.voxels.size),
        "ignored_voxels": float(np.count_nonzero(~reference.counted)),
        "reference_lesions": float(truth.lesions.count),
        "predicted_lesions": float(predicted.lesions.count),
    }


def dice(first: np.ndarray, second: np.ndarray) -> float:
    """Dice coefficient of two boolean arrays of one shape, 1 if both are empty; ValueError if the shapes differ."""
    if first.shape != second.shape:
        raise ValueError(f"the masks have shapes {first.shape} and {second.shape}; bring them onto one grid first")
    total = np.count_nonzero(first) + np.count_nonzero(second)
    return _fraction(2 * np.count_nonzero(first & second), total, if_nothing=1.0)


def hd95_mm(first: MaskGeometry, second: MaskGeometry) -> float:
    """The challenge's HD95 in mm: in-plane surfaces, the larger directed percentile; NaN if a surface is empty."""
    directed = _directed_distances(first.in_plane_surface, second.in_plane_surface)
    return max(float(np.percentile(distances, 95)) for distances in directed) if directed else math.nan


def hd95_medpy_mm(first: MaskGeometry, second: MaskGeometry) -> float:
    """HD95 in mm as `medpy.metric.binary.hd95` defines it: the pooled percentile; NaN if a mask is empty."""
    directed = _directed_distances(first.surface, second.surface)
    return float(np.percentile(np.concatenate(directed), 95)) if directed else math.nan


def lesion_detection(truth: MaskGeometry, predicted: MaskGeometry) -> tuple[float, float, float]:
    """Lesion-wise recall, precision and F1 by any overlap of 26-connected components; a share of no lesions is 1."""
    recall = _fraction(_touched_lesions(truth, predicted.mask), truth.lesions.count, if_nothing=1.0)
    precision = _fraction(_touched_lesions(predicted, truth.mask), predicted.lesions.count, if_nothing=1.0)
    return recall, precision, _fraction(2 * recall * precision, recall + precision, if_nothing=0.0)


def _touched_lesions(geometry: MaskGeometry, mask: np.ndarray) -> int:
    return np.unique(geometry.lesions.labels[mask.ravel()[geometry.voxels]]).size


def _directed_distances(first: cKDTree, second: cKDTree) -> tuple[np.ndarray, ...]:
    """Distance in mm from each point of one surface to the other, both ways; nothing if a surface is empty."""
    if not first.n or not second.n:
        return ()
    return second.query(first.data)[0], first.query(second.data)[0]


def _fraction(part: float, whole: float, if_nothing: float) -> float:
    return float(part / whole) if whole else if_nothing


def _checked_spacing(spacing_mm: Sequence[float], name: str) -> tuple[float, float, float]:
    spacing = np.asarray(spacing_mm)
    if spacing.shape != (3,) or spacing.dtype.kind not in "iuf" or not np.all(np.isfinite(spacing) & (spacing > 0)):
        raise ValueError(f"{name}: the spacing must be three positive numbers in mm (X, Y, Z), not {spacing_mm}")
    return tuple(spacing.tolist())


def _checked_labels(labels: np.ndarray, name: str) -> np.ndarray:
    """Labels as whole numbers 0, 1, 2."""
    if labels.ndim != 3:
        raise ValueError(f"{name}: labels must be a volume (X, Y, Z), not an array of shape {labels.shape}")
    if labels.dtype.kind not in "biuf":
        raise ValueError(f"{name}: labels must be numbers, not {labels.dtype}")
    if labels.dtype.kind == "f":
        unusable = ~np.isfinite(labels)
        if unusable.any():
            where = tuple(int(index) for index in np.argwhere(unusable)[0])
            raise ValueError(f"{name}: labels hold {np.count_nonzero(unusable)} NaN or infinite voxels, the first at {where}")
    whole = np.rint(labels) if labels.dtype.kind == "f" else labels
    wrong = (whole < BACKGROUND) | (whole > OTHER_PATHOLOGY)
    if labels.dtype.kind == "f":
        wrong |= np.abs(labels - whole) > LABEL_TOLERANCE
    if wrong.any():
        found = np.unique(labels[wrong])
        listed = ", ".join(f"{value:g}" for value in found[:5]) + (", ..." if found.size > 5 else "")
        raise ValueError(
            f"{name}: labels must be 0 (background), 1 (lesion) or 2 (other pathology), but {np.count_nonzero(wrong)} "
            f"voxels hold {listed}; recode the file"
        )
    return whole
