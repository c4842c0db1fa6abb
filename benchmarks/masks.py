"""HD95 and lesion F1 against MedPy and plain scipy: equal answers on random cases, and how much sooner they are there.

Two cases are timed, 240 x 240 x 48 voxels (0.96 x 0.96 x 3 mm) with about 40 lesions: a prediction near the truth, and the
same with false positives in the eight far corners, which defeats a crop to the bounding box. The truth is prepared
beforehand, as it is when many predictions of a case are scored, unless the row says otherwise; every prediction starts from
its bare mask. MedPy is called as its users call it, scipy labels both whole volumes.
"""

import warnings
from itertools import product

import numpy as np
from scipy import ndimage

from benchmarks.rows import Row, compared
from benchmarks.timing import Contestant, take_turns
from pd_ddpm.evaluation.mask_geometry import MaskGeometry
from pd_ddpm.evaluation.metrics import ReferenceMask, hd95_medpy_mm, hd95_mm, lesion_detection, score

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from medpy.metric import binary

SHAPE, SPACING_MM = (240, 240, 48), (0.96, 0.96, 3.0)
CALLS = 5
TOLERANCE_MM = 1e-9
RANDOM_CASES = 40
EVERYWHERE = np.ones((3, 3, 3))

Mask = np.ndarray


def lesions(random: np.random.Generator, count: int, shape: tuple[int, ...] = SHAPE) -> Mask:
    """Ellipsoids of 1.5 to 7 voxels radius (0.4 of that across slices) in the middle of the volume."""
    grid = np.ogrid[tuple(slice(0, size) for size in shape)]
    mask = np.zeros(shape, dtype=bool)
    for _ in range(count):
        centre = random.uniform(np.multiply(shape, (0.25, 0.17, 0.25)), np.multiply(shape, (0.75, 0.83, 0.8)))
        radii = random.uniform(1.5, 7.0, 3) * (1, 1, 0.4)
        mask |= sum(((grid[axis] - centre[axis]) / radii[axis]) ** 2 for axis in range(3)) <= 1
    return mask


def with_far_positives(mask: Mask) -> Mask:
    """The mask with a small block in each of the eight corners of its volume."""
    far = mask.copy()
    for corner in product(*((2, size - 5) for size in mask.shape[:2]), (1, mask.shape[2] - 3)):
        far[tuple(slice(first, first + length) for first, length in zip(corner, (3, 3, 2), strict=True))] = True
    return far


def plain_lesion_detection(truth: Mask, prediction: Mask) -> tuple[float, float, float]:
    """Lesion recall, precision and F1 by labelling both whole volumes."""
    truth_labels, truth_count = ndimage.label(truth, EVERYWHERE)
    predicted_labels, predicted_count = ndimage.label(prediction, EVERYWHERE)
    both = prediction & truth
    recall, precision = (
        np.unique(truth_labels[both]).size / truth_count,
        np.unique(predicted_labels[both]).size / predicted_count,
    )
    return recall, precision, 2 * recall * precision / (recall + precision) if recall + precision else 0.0


def disagreements(cases: int = RANDOM_CASES) -> list[str]:
    """What differs from MedPy's HD95 and from scipy's lesions on random cases of random spacing; nothing if all is equal."""
    random = np.random.default_rng(5)
    found = []
    for number in range(cases):
        shape = tuple(int(size) for size in random.integers((24, 24, 6), (64, 64, 20)))
        spacing = tuple(float(length) for length in random.uniform((0.5, 0.5, 1.0), (2.0, 2.0, 6.0)))
        truth, prediction = lesions(random, 6, shape), lesions(random, 4, shape)
        prediction |= np.roll(truth, random.integers(-2, 3, 3), (0, 1, 2)) & (random.random(shape) < 0.9)
        if not truth.any() or not prediction.any():
            found.append(f"random case {number}: a mask is empty; draw larger lesions")
            continue
        ours, theirs = MaskGeometry(truth, spacing), MaskGeometry(prediction, spacing)
        difference_mm = abs(hd95_medpy_mm(ours, theirs) - binary.hd95(prediction, truth, spacing))
        if not difference_mm <= TOLERANCE_MM:
            found.append(f"random case {number}: HD95 is {difference_mm:g} mm from MedPy's")
        if lesion_detection(ours, theirs) != plain_lesion_detection(truth, prediction):
            found.append(f"random case {number}: lesion recall, precision or F1 is not scipy's")
    return found


def scored_masks(rounds: int) -> list[Row]:
    """The rows of both timed cases."""
    random = np.random.default_rng(0)
    truth = lesions(random, 45)
    near = ndimage.binary_erosion(truth, np.ones((2, 2, 1))) | lesions(random, 8)
    reference = ReferenceMask.from_labels(truth.astype(np.uint8), SPACING_MM)
    cases = {"near the truth": near, "with far false positives": with_far_positives(near)}
    return [row for title, prediction in cases.items() for row in _rows(title, reference, prediction, rounds)]


def _rows(title: str, reference: ReferenceMask, prediction: Mask, rounds: int) -> list[Row]:
    truth = reference.geometry

    def fresh() -> MaskGeometry:
        return MaskGeometry(reference.scored_part(prediction), SPACING_MM)

    def unprepared() -> MaskGeometry:
        return MaskGeometry(truth.mask, SPACING_MM)

    times = take_turns(
        {
            "medpy": Contestant(lambda: binary.hd95(prediction, truth.mask, SPACING_MM)),
            "hd95": Contestant(lambda: hd95_medpy_mm(truth, fresh()), CALLS),
            "hd95 again": Contestant(lambda: hd95_medpy_mm(truth, fresh()), CALLS),
            "hd95 of bare masks": Contestant(lambda: hd95_medpy_mm(unprepared(), fresh()), CALLS),
            "challenge's hd95": Contestant(lambda: hd95_mm(truth, fresh()), CALLS),
            "all metrics": Contestant(lambda: score(reference, prediction), CALLS),
            "scipy": Contestant(lambda: plain_lesion_detection(truth.mask, prediction)),
            "lesions": Contestant(lambda: lesion_detection(truth, fresh()), CALLS),
            "lesions again": Contestant(lambda: lesion_detection(truth, fresh()), CALLS),
            "lesions of bare masks": Contestant(lambda: lesion_detection(unprepared(), fresh()), CALLS),
        },
        rounds,
    )
    medpy, scipy = "medpy hd95", "scipy.ndimage.label, whole volumes"
    hd95, found = ("hd95", "hd95 again"), ("lesions", "lesions again")
    return [
        compared(times, f"HD95, MedPy's definition ({title})", medpy, "medpy", "hd95", hd95, 15.0),
        compared(times, "the same, truth not prepared", medpy, "medpy", "hd95 of bare masks", hd95),
        compared(times, "HD95, the challenge's definition", medpy, "medpy", "challenge's hd95", hd95),
        compared(times, "all metrics of a prediction", "medpy hd95 alone", "medpy", "all metrics", hd95),
        compared(times, f"lesion F1 ({title})", scipy, "scipy", "lesions", found, 5.0),
        compared(times, "the same, truth not prepared", scipy, "scipy", "lesions of bare masks", found),
    ]
