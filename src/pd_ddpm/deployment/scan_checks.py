"""Check whether a bundle can segment a new scan, and how the scan differs from the training scans."""

from collections.abc import Iterator, Mapping
from typing import Any

from pd_ddpm.data.check.case import examine_case
from pd_ddpm.data.check.report import Finding, Requirements
from pd_ddpm.data.foreign_masks import empty_mask_problem, read_foreign_classes, read_foreign_mask
from pd_ddpm.data.nifti.geometry import ImageError
from pd_ddpm.data.nifti.read import read_image
from pd_ddpm.data.scan import Scan
from pd_ddpm.data.skull_stripping import is_skull_stripped
from pd_ddpm.deployment.bundle import Bundle

FEW_TRAINING_CASES = 10

# Relative distance outside the range of the training scans that is accepted without a warning.
TOLERANCE = 0.1


def check_scan(case: Mapping[str, str], bundle: Bundle) -> list[Finding]:
    """Return all errors, warnings and notes about the images of a scan, a row of the case table.

    Its column `presegmentation`, if there is one, names a mask that must lie on the grid of the first channel.
    """
    is_head = bundle.description["preparation"].get("region", "brain") == "brain"
    requirements = Requirements(tuple(bundle.channels), bundle.description["orientation"], None, (1, 1), {}, is_head=is_head)
    examination = examine_case(case, requirements)
    if examination.row is None:
        return examination.findings
    differences = _differences(case[bundle.channels[0]], examination.row, bundle.description["training"])
    return [*examination.findings, *differences, *_presegmentation_findings(case, bundle)]


def _presegmentation_findings(case: Mapping[str, str], bundle: Bundle) -> Iterator[Finding]:
    """Yield what is wrong or doubtful with the mask that the chain starts from."""
    if not (path := case.get("presegmentation")):
        return
    first = case[bundle.channels[0]]
    try:
        if bundle.classes:
            read_foreign_classes(path, read_image(first), first, list(bundle.classes))
            return
        mask = read_foreign_mask(path, read_image(first), first)
    except ImageError as error:
        yield from (Finding.from_problem("error", problem, case["case"], path) for problem in error.problems)
        return
    if doubt := empty_mask_problem(path, mask):
        yield Finding.from_problem("warning", doubt, case["case"])


def appearance_findings(file: str, scan: Scan, training: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield a warning if a scan is skull-stripped and no training scan was, or the other way round.

    Args:
        file: path of the first channel.
        scan: the scan as the networks receive it.
        training: training data of the bundle. Bundles without `skull_stripped` are older than this check.
    """
    stripped_cases, is_stripped = (
        training.get("skull_stripped"),
        is_skull_stripped(scan.image[..., 0], scan.brain, scan.spacing_mm),
    )
    if stripped_cases is None or is_stripped is None:
        return
    if is_stripped and stripped_cases == 0:
        problem, remedy = "it is skull-stripped, but no training scan was", "Use the scan with its skull"
    elif not is_stripped and stripped_cases == training["cases"]:
        problem, remedy = "it shows the skull, but all training scans were skull-stripped", "Remove the skull first"
    else:
        return
    yield Finding("warning", "", file, problem, f"{remedy}, or check the masks with particular care")


def _differences(file: str, row: Mapping[str, Any], training: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield a warning for each property of a scan that is outside the range of the training scans."""
    if training["cases"] < FEW_TRAINING_CASES:
        count = f"{training['cases']} case{'' if training['cases'] == 1 else 's'}"
        problem = f"the networks were trained on {count} only, too few for reliable masks"
        yield Finding("warning", "", file, problem, "Use a bundle that was trained on more cases")
    spacing_mm = [float(size) for size in row["spacing_mm"].split("x")]
    properties = {
        "in_plane_mm": ("pixel size", "mm", spacing_mm[:2]),
        "slice_distance_mm": ("slice distance", "mm", spacing_mm[2:]),
        "brain_ml": ("brain volume", "ml", [row["brain_ml"]] if row["brain_ml"] is not None else []),
    }
    for key, (name, unit, values) in properties.items():
        low, high = training[key]
        outside = [value for value in values if not low * (1 - TOLERANCE) <= value <= high * (1 + TOLERANCE)]
        if outside:
            training_range = f"({low:.4g} to {high:.4g} {unit})"
            problem = f"its {name} of {outside[0]:.4g} {unit} is outside the range of the training scans {training_range}"
            yield Finding("warning", "", file, problem, "Check the masks with particular care")
