"""Browser of all test cases: the masks and the uncertainty of each method next to the ground truth."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pd_ddpm.config.run import Run
from pd_ddpm.data.nifti.read import read_array
from pd_ddpm.data.prepared import read_ground_truth, read_scan
from pd_ddpm.evaluation.metrics import LESION, OTHER_PATHOLOGY
from pd_ddpm.evaluation.scores import read_scores
from pd_ddpm.exhibits.pages.browser import (
    MASK_COLOUR,
    OTHER_COLOUR,
    SECOND_COLOUR,
    BrowserScan,
    Panel,
    Toggle,
    browser_data,
    class_toggles,
    files_in,
)
from pd_ddpm.exhibits.tables.cells import best_rows
from pd_ddpm.inference.prediction_store import read_predictions
from pd_ddpm.runtime.progress import progress

PANEL_PIXELS = 220


@dataclass(frozen=True)
class CaseSource:
    """Where the scans and results of the test cases are.

    Attributes:
        prepared: folder of the prepared cases.
        channel: name of their first channel.
        manifests: table of the predictions of each run.
        labels: method -> label, in the order of the panels.
        max_slices: largest number of slices of a case.
        classes: label -> name of each class; empty if masks hold lesions.
    """

    prepared: Path
    channel: str
    manifests: Sequence[str]
    labels: Mapping[str, str]
    max_slices: int
    classes: Mapping[int, str] = field(default_factory=dict)


def case_rows(scores: Sequence[str]) -> pd.DataFrame:
    """Return the scores of each method and case, from the first run that has the case, ordered by site and case."""
    rows = read_scores(scores).sort_values(["split", "seed"]).drop_duplicates(["method", "case"])
    return rows.sort_values(["site", "case"], kind="stable")


def case_table(rows: pd.DataFrame, labels: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return one row per case: its name, site, lesion load in ml, and the Dice of each method, the best of which are marked.

    Args:
        rows: rows of `case_rows`.
        labels: method -> label, in the order of the columns.
    """
    table = []
    for case, case_scores in rows.groupby("case", sort=False):
        dice = case_scores.set_index("method")["dice"].reindex(labels)
        best = best_rows(dice)
        cells = [(f"{value:.3f}" if np.isfinite(value) else "", index in best) for index, value in enumerate(dice)]
        first = case_scores.iloc[0]
        table.append({"case": case, "site": first["site"], "load_ml": f"{first['reference_volume_ml']:.1f}", "dice": cells})
    return table


def case_browser(source: CaseSource, rows: pd.DataFrame, folder: Path) -> dict[str, Any]:
    """Write the images of all test cases into a folder, and return the data of their browser.

    Args:
        source: the results of the cases.
        rows: rows of `case_rows`.
        folder: folder for the images, next to the page.
    """
    manifests = {
        (run.name, run.split, run.seed): path
        for run, path in zip(map(Run.parse, source.manifests), source.manifests, strict=True)
    }
    contents, kinds = [], {"mask", "truth"}
    for case, case_scores in progress(list(rows.groupby("case", sort=False)), "cases of the page"):
        case_manifests = {row.method: manifests[row.method, row.split, row.seed] for row in case_scores.itertuples()}
        scan = _browser_scan(source, str(case), case_scores.set_index("method"), case_manifests)
        kinds |= {"other"} & set(scan.masks) | ({"map"} if scan.maps else set())
        contents.append(scan.content(["axial"], source.max_slices, files_in(folder, str(case))))
    uncertainty = Toggle("map", "Uncertainty", "U", None, is_on=False)
    if source.classes:
        panels, toggles = _class_panels(source), [*class_toggles(source.classes), uncertainty]
        kinds |= {toggle.kind for toggle in toggles} - {"map"}
    else:
        panels, toggles = _lesion_panels(source), [*_LESION_TOGGLES, uncertainty]
    shown = [_with_kinds(panel, kinds) for panel in panels]
    return browser_data(shown, [toggle for toggle in toggles if toggle.kind in kinds], contents, PANEL_PIXELS)


_LESION_TOGGLES = (
    Toggle("mask", "Mask of the method", "M", MASK_COLOUR),
    Toggle("truth", "Ground truth", "G", SECOND_COLOUR, width=2),
    Toggle("other", "Other pathology, not scored", "O", OTHER_COLOUR, width=2),
)


def _lesion_panels(source: CaseSource) -> list[Panel]:
    """Return a panel with the ground truth, and one for each method with its mask over it."""
    reference = {"truth": "truth", "other": "other"}
    methods = {method: {f"{method}-map": "map", **reference, f"{method}-mask": "mask"} for method in source.labels}
    panels = [Panel(method, label, "scan", methods[method]) for method, label in source.labels.items()]
    return [Panel("scan", source.channel, "scan", reference), *panels]


def _class_panels(source: CaseSource) -> list[Panel]:
    """Return a panel with the classes of the ground truth, and one for each method with its own."""

    def layers(owner: str) -> dict[str, str]:
        return {f"{owner}-class-{label}": f"class-{label}" for label in source.classes}

    panels = [
        Panel(method, label, "scan", {f"{method}-map": "map", **layers(method)}) for method, label in source.labels.items()
    ]
    return [Panel("scan", f"{source.channel}, ground truth", "scan", layers("truth")), *panels]


def _with_kinds(panel: Panel, kinds: set[str]) -> Panel:
    """Return a panel without the layers of kinds that no case has."""
    return replace(panel, layers={key: kind for key, kind in panel.layers.items() if kind in kinds})


def _browser_scan(source: CaseSource, case: str, rows: pd.DataFrame, manifests: Mapping[str, str]) -> BrowserScan:
    """Read a case with its ground truth and the results of all methods.

    Args:
        source: the results of the cases.
        case: name of the case.
        rows: its scores, indexed by method.
        manifests: method -> table of its predictions.
    """
    labels = read_ground_truth(source.prepared, case, tuple(source.classes))
    if source.classes:
        masks, marked = {f"truth-class-{label}": labels == label for label in source.classes}, labels > 0
    else:
        masks, marked = {"truth": labels == LESION}, labels == LESION
        masks |= {"other": labels == OTHER_PATHOLOGY} if (labels == OTHER_PATHOLOGY).any() else {}
    first = rows.iloc[0]
    marks = "ml in all classes" if source.classes else "ml of lesions"
    maps, notes = {}, {"scan": f"{first['reference_volume_ml']:.1f} {marks}"}
    for method, manifest in manifests.items():
        predictions = Path(manifest).parent
        mask = read_array(predictions / f"{case}_mask.nii.gz", mask=True)
        if source.classes:
            masks |= {f"{method}-class-{label}": mask == label for label in source.classes}
        else:
            masks[f"{method}-mask"] = mask > 0
        if read_predictions(manifest).loc[case, "samples"] > 1:
            maps[f"{method}-map"] = read_array(predictions / f"{case}_uncertainty.nii.gz", mask=True)
        notes[method] = f"Dice {rows.loc[method, 'dice']:.3f}"
    description = f"site {first['site']}, {first['reference_volume_ml']:.1f} ml"
    return BrowserScan(
        scan=read_scan(source.prepared, case),
        description=description,
        channels={"scan": 0},
        masks=masks,
        maps=maps,
        notes=notes,
        marked=marked if marked.any() else np.logical_or.reduce(list(masks.values())),
    )
