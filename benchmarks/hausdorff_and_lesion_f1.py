"""How much faster HD95 and lesion F1 are than MedPy and plain scipy, on one thread, in one process, run in turns.

    python benchmarks/hausdorff_and_lesion_f1.py

Two cases of 240 x 240 x 48 voxels (0.96 x 0.96 x 3 mm) with about 40 lesions: a prediction near the truth, and the same
with false positives in the eight far corners, which defeats a crop to the bounding box. The truth is prepared
beforehand, as it is when many predictions of a case are scored, unless the row says otherwise; every prediction starts
from its bare mask. Nothing here starts threads; times are CPU time. Each round runs all contestants in a new random
order, each after one untimed call, and a ratio is formed within a round, so that a slow moment of the machine falls on
both sides. The A/A rows compare our code with itself and show how much of a ratio is noise.
"""

import time
import warnings
from collections.abc import Callable
from itertools import product

import numpy as np
from scipy import ndimage

from pd_ddpm.mask_geometry import MaskGeometry
from pd_ddpm.metrics import ReferenceMask, dice_only, hd95_medpy_mm, hd95_mm, lesion_detection, score

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from medpy.metric import binary

SHAPE, SPACING_MM = (240, 240, 48), (0.96, 0.96, 3.0)
ROUNDS, REPEATS = 15, 5
EIGHT_CORNERS = tuple(product((2, 235), (2, 235), (1, 45)))


def lesions(generator: np.random.Generator, count: int) -> np.ndarray:
    """Ellipsoids of 1.5 to 7 voxels radius (0.4 of that across slices) in the middle of the volume."""
    grid = np.ogrid[tuple(slice(0, size) for size in SHAPE)]
    mask = np.zeros(SHAPE, dtype=bool)
    for _ in range(count):
        centre = generator.uniform((60, 40, 12), (180, 200, 38))
        radii = generator.uniform(1.5, 7.0, 3) * (1, 1, 0.4)
        mask |= sum(((grid[axis] - centre[axis]) / radii[axis]) ** 2 for axis in range(3)) <= 1
    return mask


def plain_lesion_detection(truth: np.ndarray, prediction: np.ndarray) -> tuple[float, float, float]:
    """Lesion recall, precision and F1 by labelling both whole volumes."""
    everywhere = np.ones((3, 3, 3))
    truth_labels, truth_count = ndimage.label(truth, everywhere)
    predicted_labels, predicted_count = ndimage.label(prediction, everywhere)
    recall = np.unique(truth_labels[prediction & truth]).size / truth_count
    precision = np.unique(predicted_labels[prediction & truth]).size / predicted_count
    return recall, precision, 2 * recall * precision / (recall + precision)


def run_in_turns(contestants: dict[str, tuple[Callable[[], object], int]]) -> dict[str, np.ndarray]:
    """CPU milliseconds (ROUNDS,) per call of each contestant, all contestants once per round in random order."""
    generator = np.random.default_rng(1)
    milliseconds = {name: np.empty(ROUNDS) for name in contestants}
    for round_number in range(ROUNDS):
        for name in generator.permutation(list(contestants)).tolist():
            call, repeats = contestants[name]
            call()
            start = time.process_time()
            for _ in range(repeats):
                call()
            milliseconds[name][round_number] = (time.process_time() - start) / repeats * 1e3
    return milliseconds


def compare(title: str, reference: ReferenceMask, prediction: np.ndarray) -> None:
    """Print the check that the answers are equal, the times, and the ratios of one case."""
    truth = reference.geometry

    def fresh() -> MaskGeometry:
        return MaskGeometry(reference.scored_part(prediction), SPACING_MM)

    contestants = {
        "medpy hd95": (lambda: binary.hd95(prediction, truth.mask, SPACING_MM), 1),
        "our hd95, medpy's definition": (lambda: hd95_medpy_mm(truth, fresh()), REPEATS),
        "our hd95 (A/A)": (lambda: hd95_medpy_mm(truth, fresh()), REPEATS),
        "our hd95, nothing prepared": (
            lambda: hd95_medpy_mm(MaskGeometry(truth.mask, SPACING_MM), fresh()),
            REPEATS,
        ),
        "our hd95, challenge's definition": (lambda: hd95_mm(truth, fresh()), REPEATS),
        "scipy label, both whole volumes": (lambda: plain_lesion_detection(truth.mask, prediction), 1),
        "scipy label, prediction only": (lambda: ndimage.label(prediction, np.ones((3, 3, 3))), 1),
        "our lesion F1": (lambda: lesion_detection(truth, fresh()), REPEATS),
        "our lesion F1 (A/A)": (lambda: lesion_detection(truth, fresh()), REPEATS),
        "our lesion F1, nothing prepared": (
            lambda: lesion_detection(MaskGeometry(truth.mask, SPACING_MM), fresh()),
            REPEATS,
        ),
        "our score: all metrics": (lambda: score(reference, prediction), REPEATS),
        "our dice only": (lambda: dice_only(reference, prediction), REPEATS),
    }
    pairs = (
        ("medpy hd95", "our hd95, medpy's definition"),
        ("medpy hd95", "our hd95, nothing prepared"),
        ("medpy hd95", "our hd95, challenge's definition"),
        ("medpy hd95", "our score: all metrics"),
        ("our hd95, medpy's definition", "our hd95 (A/A)"),
        ("scipy label, both whole volumes", "our lesion F1"),
        ("scipy label, both whole volumes", "our lesion F1, nothing prepared"),
        ("scipy label, prediction only", "our lesion F1"),
        ("our lesion F1", "our lesion F1 (A/A)"),
    )
    result = score(reference, prediction)
    difference_mm = abs(result["hd95_medpy_mm"] - binary.hd95(prediction, truth.mask, SPACING_MM))
    same_lesions = lesion_detection(truth, fresh()) == plain_lesion_detection(truth.mask, prediction)
    print(f"\n{title}: {truth.lesions.count} lesions, {truth.voxels.size} voxels, Dice {result['dice']:.3f}")
    if difference_mm > 1e-9 or not same_lesions:
        raise SystemExit(f"{title}: {difference_mm} mm from medpy, lesion F1 equal to scipy's: {same_lesions}")
    print(f"  {difference_mm:.0e} mm from medpy, lesion recall, precision and F1 equal to scipy's")
    times = run_in_turns(contestants)
    for name, milliseconds in times.items():
        print(f"  {name:34s} {np.median(milliseconds):8.2f} ms")
    print("  ratios: median [quartiles]")
    for slow, fast in pairs:
        low, middle, high = np.percentile(times[slow] / times[fast], (25, 50, 75))
        print(f"  {slow:31s} / {fast:34s} {middle:6.2f} [{low:.2f}, {high:.2f}]")


def main() -> None:
    """Build the two cases and compare on each."""
    generator = np.random.default_rng(0)
    truth = lesions(generator, 45)
    prediction = ndimage.binary_erosion(truth, np.ones((2, 2, 1))) | lesions(generator, 8)
    far = prediction.copy()
    for x, y, z in EIGHT_CORNERS:
        far[x : x + 3, y : y + 3, z : z + 2] = True
    reference = ReferenceMask.from_labels(truth.astype(np.uint8), SPACING_MM)
    compare("prediction near the truth", reference, prediction)
    compare("with false positives in the far corners", reference, far)


if __name__ == "__main__":
    main()
