"""Segmentation metrics of one 3D case in millimetres, as the WMH Segmentation Challenge defines them.

* Masking: voxels with reference label 2 (other pathology) are removed from the prediction first.
* Dice and Jaccard are computed on voxels. AVD = 100 |V_prediction - V_reference| / V_reference, in percent.
* HD95 (`hd95_mm`): the larger of the two directed 95th percentiles of the distance to the other surface. A surface voxel
  has background among its eight neighbours in the slice (3 x 3 x 1 box). Outside the image counts as foreground.
* HD95 as MedPy defines it (`hd95_medpy_mm`): one 95th percentile of the distances of both directions together. A surface
  voxel has background among its six neighbours in space. Outside the image counts as background. This number is usually
  smaller, and the two must not be compared.
* Lesions are 26-connected components. Recall is the fraction of reference lesions that the prediction overlaps in at least
  one voxel. Precision is the fraction of predicted lesions that overlap the reference. F1 is their harmonic mean. Lesions
  need not match one to one, and have no minimum size.

Percentiles are interpolated linearly. Distances depend on the voxel size only, since an affine without shear moves both
masks equally.

Empty masks (after masking) cause no error and no warning:

=================  ====  =======  ======  =========  ==  ===  ====
empty mask         Dice  Jaccard  recall  precision  F1  AVD  HD95
=================  ====  =======  ======  =========  ==  ===  ====
both               1     1        1       1          1   0    NaN
prediction only    0     0        0       1          0   100  NaN
reference only     0     0        1       0          0   NaN  NaN
=================  ====  =======  ======  =========  ==  ===  ====

NaN means undefined, and counts as missing. `hd95_mm` is also undefined if a mask has no in-plane surface, because it fills
every slice that it enters.

Reference: Kuijf et al. 2019, "Standardized assessment of automatic segmentation of white matter hyperintensities", IEEE
Transactions on Medical Imaging 38(11), and the challenge's published evaluation script.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from pd_ddpm.evaluation.mask_geometry import MaskGeometry

BACKGROUND, LESION, OTHER_PATHOLOGY = 0, 1, 2

# Resampling, or storage as scaled integers, leaves rounding errors in labels; larger deviations are errors.
LABEL_TOLERANCE = 1e-3

EMPTY_MASK_POLICY = (
    "Empty masks: where both are empty, Dice, Jaccard, lesion recall, precision and F1 are 1 and AVD is 0 %. "
    "Where only the prediction is empty, Dice, Jaccard, recall and F1 are 0, precision is 1 and AVD is 100 %. "
    "Where only the reference is empty, Dice, Jaccard, precision and F1 are 0, recall is 1 and AVD is undefined. "
    "HD95 is undefined where either mask is empty. Undefined values are left out of means and counted as missing."
)


@dataclass(frozen=True, eq=False)
class ReferenceMask:
    """The ground truth of one case, prepared once for any number of predictions; create it with `from_labels`.

    Attributes:
        geometry: the lesion mask (label 1).
        scored: (X, Y, Z) bool, False for voxels with label 2.
        name: name of the case in error messages.
    """

    geometry: MaskGeometry
    scored: np.ndarray
    name: str

    @classmethod
    def from_labels(cls, labels: np.ndarray, spacing_mm: Sequence[float], name: str = "reference") -> "ReferenceMask":
        """Prepare a label map.

        Args:
            labels: (X, Y, Z) with the values 0, 1, 2, of any numeric type.
            spacing_mm: voxel size along X, Y, Z.
            name: name of the case in error messages.

        Returns:
            The ground truth.

        Raises:
            ValueError: the map is not three-dimensional or has other values, or the spacing is not three positive numbers.
        """
        spacing = _check_spacing(spacing_mm, name)
        labels = _check_labels(np.asarray(labels), name)
        lesion = np.ascontiguousarray(labels == LESION)
        return cls(MaskGeometry(lesion, spacing), np.ascontiguousarray(labels != OTHER_PATHOLOGY), name)

    def scored_part(self, prediction: np.ndarray) -> np.ndarray:
        """Return the prediction (X, Y, Z) without voxels of reference label 2.

        Raises:
            ValueError: the prediction is not boolean or has another shape.
        """
        prediction = np.asarray(prediction)
        if prediction.dtype != bool:
            unusable = " with NaN" if prediction.dtype.kind == "f" and np.isnan(prediction).any() else ""
            raise ValueError(
                f"{self.name}: the prediction must be a boolean mask, not {prediction.dtype}{unusable}. "
                "Threshold it first, for instance with probability >= 0.5."
            )
        if prediction.shape != self.scored.shape:
            raise ValueError(
                f"{self.name}: the prediction has shape {prediction.shape}, the reference {self.scored.shape}. "
                "Resample the prediction to the grid of the reference first."
            )
        return np.logical_and(prediction, self.scored, order="C")


def score(reference: ReferenceMask, prediction: np.ndarray) -> dict[str, float]:
    """Return all metrics of a prediction (X, Y, Z) bool; the module docstring defines them.

    Keys end with their unit: _mm, _ml, _percent, _voxels, _lesions. The others are fractions.

    Raises:
        ValueError: the prediction is not boolean or has another shape than the reference.
    """
    truth = reference.geometry
    predicted = MaskGeometry(reference.scored_part(prediction), truth.spacing_mm)
    shared = np.count_nonzero(truth.mask.ravel()[predicted.voxels])
    total = truth.voxels.size + predicted.voxels.size
    difference = abs(predicted.voxels.size - truth.voxels.size)
    recall, precision, f1 = lesion_detection(truth, predicted)
    return {
        "dice": _fraction(2 * shared, total, if_empty=1.0),
        "jaccard": _fraction(shared, total - shared, if_empty=1.0),
        "hd95_mm": hd95_mm(truth, predicted),
        "hd95_medpy_mm": hd95_medpy_mm(truth, predicted),
        "avd_percent": 100.0 * _fraction(difference, truth.voxels.size, if_empty=math.nan if total else 0.0),
        "lesion_recall": recall,
        "lesion_precision": precision,
        "lesion_f1": f1,
        "reference_volume_ml": truth.volume_ml,
        "predicted_volume_ml": predicted.volume_ml,
        "reference_voxels": float(truth.voxels.size),
        "predicted_voxels": float(predicted.voxels.size),
        "ignored_voxels": float(np.count_nonzero(~reference.scored)),
        "reference_lesions": float(truth.lesions.count),
        "predicted_lesions": float(predicted.lesions.count),
    }


def dice(first: np.ndarray, second: np.ndarray) -> float:
    """Return the Dice coefficient of two boolean arrays; 1 if both are empty.

    Raises:
        ValueError: the shapes differ.
    """
    if first.shape != second.shape:
        raise ValueError(f"the masks have shapes {first.shape} and {second.shape}. Resample them to one grid first.")
    total = np.count_nonzero(first) + np.count_nonzero(second)
    return _fraction(2 * np.count_nonzero(first & second), total, if_empty=1.0)


def hd95_mm(first: MaskGeometry, second: MaskGeometry) -> float:
    """Return the challenge's HD95 in mm: in-plane surfaces, larger directed percentile; NaN if a surface is empty."""
    return _larger_percentile(_directed_distances(first.in_plane_surface, second.in_plane_surface))


def hd95_medpy_mm(first: MaskGeometry, second: MaskGeometry) -> float:
    """Return HD95 in mm as `medpy.metric.binary.hd95` defines it: pooled percentile; NaN if a mask is empty."""
    directed = _directed_distances(first.surface, second.surface)
    return float(np.percentile(np.concatenate(directed), 95)) if directed else math.nan


def hd95_largest_mm(first: MaskGeometry, second: MaskGeometry) -> float:
    """Return HD95 in mm as Fu et al. 2024 and MONAI define it: larger directed percentile; NaN if a mask is empty.

    A surface voxel has background among its six neighbours in space, and outside the image counts as background.
    """
    return _larger_percentile(_directed_distances(first.boundary, second.boundary))


def lesion_detection(truth: MaskGeometry, predicted: MaskGeometry) -> tuple[float, float, float]:
    """Return lesion-wise recall, precision and F1 by any overlap of 26-connected components; a fraction of none is 1."""
    recall = _fraction(_num_overlapping_lesions(truth, predicted.mask), truth.lesions.count, if_empty=1.0)
    precision = _fraction(_num_overlapping_lesions(predicted, truth.mask), predicted.lesions.count, if_empty=1.0)
    return recall, precision, _fraction(2 * recall * precision, recall + precision, if_empty=0.0)


def _num_overlapping_lesions(geometry: MaskGeometry, mask: np.ndarray) -> int:
    """Count the lesions that overlap another mask."""
    return np.unique(geometry.lesions.labels[mask.ravel()[geometry.voxels]]).size


def _directed_distances(first: cKDTree, second: cKDTree) -> tuple[np.ndarray, ...]:
    """Return the distances in mm from each surface to the other, one array per direction; none if a surface is empty."""
    if not first.n or not second.n:
        return ()
    return second.query(first.data)[0], first.query(second.data)[0]


def _larger_percentile(directed: tuple[np.ndarray, ...]) -> float:
    """Return the larger 95th percentile of the distances of both directions; NaN without distances."""
    return max(float(np.percentile(distances, 95)) for distances in directed) if directed else math.nan


def _fraction(part: float, whole: float, if_empty: float) -> float:
    """Return part / whole, or another value if the whole is 0."""
    return float(part / whole) if whole else if_empty


def _check_spacing(spacing_mm: Sequence[float], name: str) -> tuple[float, float, float]:
    """Return the spacing as three floats; raise ValueError if it is not three positive numbers."""
    spacing = np.asarray(spacing_mm)
    if spacing.shape != (3,) or spacing.dtype.kind not in "iuf" or not np.all(np.isfinite(spacing) & (spacing > 0)):
        raise ValueError(
            f"{name}: the spacing must be three positive numbers in mm (X, Y, Z), not {spacing_mm}. Correct the header."
        )
    return tuple(spacing.tolist())


def _check_labels(labels: np.ndarray, name: str) -> np.ndarray:
    """Return labels rounded to 0, 1, 2; raise ValueError if they have other values or another number of axes."""
    if labels.ndim != 3:
        raise ValueError(f"{name}: labels must be a volume (X, Y, Z), not an array of shape {labels.shape}. Correct the file.")
    if labels.dtype.kind not in "biuf":
        raise ValueError(f"{name}: labels must be numbers, not {labels.dtype}. Correct the file.")
    if labels.dtype.kind == "f":
        unusable = ~np.isfinite(labels)
        if unusable.any():
            first = tuple(int(index) for index in np.argwhere(unusable)[0])
            raise ValueError(
                f"{name}: labels have {np.count_nonzero(unusable)} NaN or infinite voxels, the first at {first}. "
                "Correct the file."
            )
    whole = np.rint(labels) if labels.dtype.kind == "f" else labels
    wrong = (whole < BACKGROUND) | (whole > OTHER_PATHOLOGY)
    if labels.dtype.kind == "f":
        wrong |= np.abs(labels - whole) > LABEL_TOLERANCE
    if wrong.any():
        values = np.unique(labels[wrong])
        listed = ", ".join(f"{value:g}" for value in values[:5]) + (", ..." if values.size > 5 else "")
        raise ValueError(
            f"{name}: labels must be 0 (background), 1 (lesion) or 2 (other pathology), but {np.count_nonzero(wrong)} "
            f"voxels have {listed}. Recode the file."
        )
    return whole
