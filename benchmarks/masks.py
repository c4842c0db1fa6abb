"""Compare HD95 and lesion F1 with MedPy and plain scipy: equal results on random cases, and time.

Two cases of 240 x 240 x 48 voxels (0.96 x 0.96 x 3 mm) with about 40 lesions are timed. In the first case the prediction is
near the ground truth. The second adds false positives in the eight corners, so that cropping to the bounding box does not help.
The geometry of the ground truth is computed once, as in scoring many predictions of a case, unless the row says otherwise. The
geometry of the prediction is computed in each call. MedPy is called as its users call it; scipy labels both whole volumes.
"""

import warnings
from itertools import product

import numpy as np
from scipy import ndimage

from benchmarks.rows import Row, comparison
from benchmarks.timing import Implementation, time_in_rounds
from pd_ddpm.evaluation.mask_geometry import MaskGeometry
from pd_ddpm.evaluation.metrics import ReferenceMask, hd95_medpy_mm, hd95_mm, lesion_detection, score

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from medpy.metric import binary

SHAPE, SPACING_MM = (240, 240, 48), (0.96, 0.96, 3.0)
CALLS = 5
TOLERANCE_MM = 1e-9
RANDOM_CASES = 40
NEIGHBOURS_26 = np.ones((3, 3, 3))

Mask = np.ndarray


def lesions(random: np.random.Generator, count: int, shape: tuple[int, ...] = SHAPE) -> Mask:
    """Return a mask of ellipsoids in the middle of a volume, with radii of 1.5 to 7 voxels (times 0.4 across slices)."""
    grid = np.ogrid[tuple(slice(0, size) for size in shape)]
    mask = np.zeros(shape, dtype=bool)
    for _ in range(count):
        centre = random.uniform(np.multiply(shape, (0.25, 0.17, 0.25)), np.multiply(shape, (0.75, 0.83, 0.8)))
        radii = random.uniform(1.5, 7.0, 3) * (1, 1, 0.4)
        mask |= sum(((grid[axis] - centre[axis]) / radii[axis]) ** 2 for axis in range(3)) <= 1
    return mask


def with_far_positives(mask: Mask) -> Mask:
    """Return the mask with an additional small block in each of the eight corners of the volume."""
    far = mask.copy()
    for corner in product(*((2, size - 5) for size in mask.shape[:2]), (1, mask.shape[2] - 3)):
        far[tuple(slice(first, first + length) for first, length in zip(corner, (3, 3, 2), strict=True))] = True
    return far


def plain_lesion_detection(truth: Mask, prediction: Mask) -> tuple[float, float, float]:
    """Return lesion recall, precision and F1, computed by labelling both whole volumes with scipy."""
    truth_labels, truth_count = ndimage.label(truth, NEIGHBOURS_26)
    predicted_labels, predicted_count = ndimage.label(prediction, NEIGHBOURS_26)
    both = prediction & truth
    recall, precision = (
        np.unique(truth_labels[both]).size / truth_count,
        np.unique(predicted_labels[both]).size / predicted_count,
    )
    return recall, precision, 2 * recall * precision / (recall + precision) if recall + precision else 0.0


def disagreements(cases: int = RANDOM_CASES) -> list[str]:
    """Return the differences from MedPy's HD95 and scipy's lesion scores on random cases with random spacing."""
    random = np.random.default_rng(5)
    differences = []
    for number in range(cases):
        shape = tuple(int(size) for size in random.integers((24, 24, 6), (64, 64, 20)))
        spacing = tuple(float(length) for length in random.uniform((0.5, 0.5, 1.0), (2.0, 2.0, 6.0)))
        truth, prediction = lesions(random, 6, shape), lesions(random, 4, shape)
        prediction |= np.roll(truth, random.integers(-2, 3, 3), (0, 1, 2)) & (random.random(shape) < 0.9)
        if not truth.any() or not prediction.any():
            differences.append(f"random case {number}: a mask is empty; use larger lesions")
            continue
        ours, theirs = MaskGeometry(truth, spacing), MaskGeometry(prediction, spacing)
        difference_mm = abs(hd95_medpy_mm(ours, theirs) - binary.hd95(prediction, truth, spacing))
        if not difference_mm <= TOLERANCE_MM:
            differences.append(f"random case {number}: HD95 is {difference_mm:g} mm from MedPy's")
        if lesion_detection(ours, theirs) != plain_lesion_detection(truth, prediction):
            differences.append(f"random case {number}: lesion recall, precision or F1 is not scipy's")
    return differences


def metric_rows(rounds: int) -> list[Row]:
    """Time the metrics on both cases and return the rows."""
    random = np.random.default_rng(0)
    truth = lesions(random, 45)
    near = ndimage.binary_erosion(truth, np.ones((2, 2, 1))) | lesions(random, 8)
    reference = ReferenceMask.from_labels(truth.astype(np.uint8), SPACING_MM)
    cases = {"near the ground truth": near, "with far false positives": with_far_positives(near)}
    return [row for title, prediction in cases.items() for row in _rows(title, reference, prediction, rounds)]


def _rows(title: str, reference: ReferenceMask, prediction: Mask, rounds: int) -> list[Row]:
    truth = reference.geometry

    def predicted() -> MaskGeometry:
        return MaskGeometry(reference.scored_part(prediction), SPACING_MM)

    def new_truth() -> MaskGeometry:
        return MaskGeometry(truth.mask, SPACING_MM)

    times = time_in_rounds(
        {
            "medpy": Implementation(lambda: binary.hd95(prediction, truth.mask, SPACING_MM)),
            "hd95": Implementation(lambda: hd95_medpy_mm(truth, predicted()), CALLS),
            "hd95 again": Implementation(lambda: hd95_medpy_mm(truth, predicted()), CALLS),
            "hd95 of bare masks": Implementation(lambda: hd95_medpy_mm(new_truth(), predicted()), CALLS),
            "challenge's hd95": Implementation(lambda: hd95_mm(truth, predicted()), CALLS),
            "all metrics": Implementation(lambda: score(reference, prediction), CALLS),
            "scipy": Implementation(lambda: plain_lesion_detection(truth.mask, prediction)),
            "lesions": Implementation(lambda: lesion_detection(truth, predicted()), CALLS),
            "lesions again": Implementation(lambda: lesion_detection(truth, predicted()), CALLS),
            "lesions of bare masks": Implementation(lambda: lesion_detection(new_truth(), predicted()), CALLS),
        },
        rounds,
    )
    medpy, scipy = "medpy hd95", "scipy.ndimage.label, whole volumes"
    hd95, lesion_f1 = ("hd95", "hd95 again"), ("lesions", "lesions again")
    return [
        comparison(times, f"HD95, MedPy's definition ({title})", medpy, "medpy", "hd95", hd95, 15.0),
        comparison(times, "the same, including the geometry of the ground truth", medpy, "medpy", "hd95 of bare masks", hd95),
        comparison(times, "HD95, the challenge's definition", medpy, "medpy", "challenge's hd95", hd95),
        comparison(times, "all metrics of a prediction", "medpy hd95 alone", "medpy", "all metrics", hd95),
        comparison(times, f"lesion F1 ({title})", scipy, "scipy", "lesions", lesion_f1, 5.0),
        comparison(
            times, "the same, including the geometry of the ground truth", scipy, "scipy", "lesions of bare masks", lesion_f1
        ),
    ]
