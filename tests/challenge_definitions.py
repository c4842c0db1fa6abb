"""Reference implementation of the WMH challenge's metrics by their published definitions, with SimpleITK."""

import math

import numpy as np
import SimpleITK as sitk
from scipy.spatial.distance import cdist


def scores_on_simpleitk(labels: sitk.Image, prediction: sitk.Image) -> dict[str, float]:
    """Return the scores of a prediction (0, 1) for labels (0, 1, 2) on the same grid. Neither may be empty."""
    truth = labels == 1
    result = sitk.Mask(prediction, labels != 2)
    overlap = sitk.LabelOverlapMeasuresImageFilter()
    overlap.Execute(truth, result)
    distances = cdist(_surface(truth), _surface(result))
    truth_lesions, detected = _lesions(truth, result)
    result_lesions, correct = _lesions(result, truth)
    recall, precision = detected / truth_lesions, correct / result_lesions
    ml = math.prod(labels.GetSpacing()) / 1000
    volumes = [int(sitk.GetArrayViewFromImage(image).sum()) * ml for image in (truth, result)]
    return {
        "dice": overlap.GetDiceCoefficient(),
        "jaccard": overlap.GetJaccardCoefficient(),
        "hd95_mm": max(np.percentile(distances.min(axis=0), 95), np.percentile(distances.min(axis=1), 95)),
        "avd_percent": 100 * abs(volumes[1] - volumes[0]) / volumes[0],
        "lesion_recall": recall,
        "lesion_precision": precision,
        "lesion_f1": 2 * precision * recall / (precision + recall) if precision + recall else 0.0,
        "reference_volume_ml": volumes[0],
        "predicted_volume_ml": volumes[1],
        "reference_lesions": truth_lesions,
        "predicted_lesions": result_lesions,
    }


def _surface(image: sitk.Image) -> np.ndarray:
    border = sitk.Subtract(image, sitk.BinaryErode(image, (1, 1, 0)))
    return np.array(
        [image.TransformIndexToPhysicalPoint(index.tolist()) for index in np.argwhere(sitk.GetArrayFromImage(border).T)]
    ).reshape(-1, 3)


def _lesions(image: sitk.Image, other: sitk.Image) -> tuple[int, int]:
    """Return the number of lesions in an image, and how many of them overlap the other image."""
    components = sitk.ConnectedComponent(image, True)
    statistics = sitk.LabelShapeStatisticsImageFilter()
    statistics.Execute(components)
    overlapping = sitk.LabelShapeStatisticsImageFilter()
    overlapping.Execute(sitk.Mask(components, other))
    return len(statistics.GetLabels()), len(overlapping.GetLabels())
