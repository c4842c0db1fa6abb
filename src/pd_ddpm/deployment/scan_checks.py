"""Whether a new scan can be segmented by a bundle, and in what it differs from those that its networks have seen."""

from collections.abc import Iterator, Mapping
from typing import Any

from pd_ddpm.data.check.case import examine_case
from pd_ddpm.data.check.report import Finding, Requirements
from pd_ddpm.deployment.bundle import Bundle

FEW_TRAINING_CASES = 10

# A scan may lie so far outside the range of the training scans before it is worth a word.
TOLERANCE = 0.1


def examine_scan(case: Mapping[str, str], bundle: Bundle) -> list[Finding]:
    """All that is wrong (errors), doubtful or good to know about the images of a scan; case: see `read_normalised`."""
    grid = bundle.description["training"]
    requirements = Requirements(tuple(bundle.channels), bundle.description["orientation"], None, (1, 1), {})
    examination = examine_case(case, requirements)
    if examination.row is None:
        return examination.findings
    return [*examination.findings, *_differences(case[bundle.channels[0]], examination.row, grid)]


def _differences(file: str, row: Mapping[str, Any], training: Mapping[str, Any]) -> Iterator[Finding]:
    if training["cases"] < FEW_TRAINING_CASES:
        count = f"{training['cases']} case{'' if training['cases'] == 1 else 's'}"
        text = f"the networks were trained on {count} only, too few for masks that can be relied on"
        yield Finding("warning", "", file, text, "Use a bundle that was trained on more cases")
    in_plane = [float(size) for size in row["spacing_mm"].split("x")]
    values = {
        "in_plane_mm": ("pixel size", "mm", in_plane[:2]),
        "slice_distance_mm": ("distance of slices", "mm", in_plane[2:]),
        "brain_ml": ("brain mask", "ml", [row["brain_ml"]] if row["brain_ml"] is not None else []),
    }
    for key, (what, unit, found) in values.items():
        low, high = training[key]
        outside = [value for value in found if not low * (1 - TOLERANCE) <= value <= high * (1 + TOLERANCE)]
        if outside:
            yield Finding(
                "warning",
                "",
                file,
                f"its {what} of {outside[0]:.4g} {unit} lies outside the {low:.4g} to {high:.4g} {unit} of the training scans",
                "Check the masks with particular care",
            )
