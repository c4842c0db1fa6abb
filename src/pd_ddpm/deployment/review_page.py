"""Web page for reviewing one segmented scan. It needs no other files and no network."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from pd_ddpm.deployment.model_card import facts_part, model_card, warning
from pd_ddpm.deployment.scan_result import ScanResult
from pd_ddpm.evaluation.lesion_table import num_minority_lesions
from pd_ddpm.exhibits.class_colours import BRAIN_COLOUR
from pd_ddpm.exhibits.document import Part
from pd_ddpm.exhibits.pages.browser import (
    MASK_COLOUR,
    OTHER_COLOUR,
    SECOND_COLOUR,
    BrowserScan,
    Panel,
    Toggle,
    browser_data,
    class_toggles,
    embedded,
)
from pd_ddpm.exhibits.pages.sheets import ORIENTATIONS
from pd_ddpm.exhibits.pages.template import fill_template

MAX_LISTED_LESIONS = 40
MAX_SLICES = 256  # of an orientation; more than any usual scan has
PANEL_PIXELS = 300  # four panels in a row of a usual window
OUTSIDE_THE_RANGE = "The mask is the thresholded mean of the members. No member has the same mask"


def review_page(title: str, result: ScanResult, description: Mapping[str, Any], facts: Mapping[str, str]) -> str:
    """Return the page as HTML.

    Args:
        title: name of the scan.
        result: the segmented scan.
        description: content of the bundle's bundle.json.
        facts: how the prediction was made, as labels and values.
    """
    listed = None if result.classes else result.lesions.head(MAX_LISTED_LESIONS)
    return fill_template(
        "review.html.j2",
        title=f"Classes of {title}" if result.classes else f"Lesions of {title}",
        warning=warning(description),
        volume=_class_volumes(result) if result.classes else _volume(result),
        remarks=_class_remarks(result) if result.classes else _remarks(result),
        doubts=result.warnings,
        browser=(_class_browser if result.classes else _browser)(result, description["preparation"]["channels"]),
        num_channels=len(description["preparation"]["channels"]),
        lesions=_classes_part(result.class_volumes) if result.classes else _lesions_part(result.lesions),
        voxels=[] if result.classes else [[row.voxel_i, row.voxel_j, row.voxel_k] for row in listed.itertuples()],
        facts=facts_part("How this prediction was made", facts),
        card=model_card(description),
    )


def _browser(result: ScanResult, channels: Sequence[str]) -> dict[str, Any]:
    """Return the data of the browser: all channels, the outlines of mask and members, and the uncertainty."""
    segmentation, scan = result.segmentation, result.scan
    keys = {f"channel-{index}": index for index in range(len(channels))}
    panels = [Panel(key, channels[index], key, {"brain": "brain"}) for key, index in keys.items()]
    masks, maps = {"brain": scan.brain, "mask": segmentation.mask}, {}
    toggles = [Toggle("mask", "Mask of the ensemble", "M", MASK_COLOUR)]
    outlines = {"mask": "mask"}
    if segmentation.num_members > 1:
        masks["union"], maps["map"] = segmentation.union, segmentation.variance
        toggles += [
            Toggle("union", "Marked by at least one member", "A", SECOND_COLOUR, width=2),
            Toggle("map", "Uncertainty", "U", None),
        ]
        outlines = {"union": "union", "mask": "mask"}
    panels.insert(1, Panel("masks", f"{channels[0]} with masks", "channel-0", outlines | {"brain": "brain"}))
    if maps:
        panels.insert(2, Panel("map", "Uncertainty", "channel-0", {"map": "map"}))
    toggles.append(Toggle("brain", "Brain", "B", OTHER_COLOUR, is_on=False))
    # If the ensemble marks nothing, the browser begins where single members mark something.
    marked = segmentation.mask if segmentation.mask.any() else segmentation.union
    content = BrowserScan(scan, "", keys, masks, maps, {}, marked)
    return browser_data(panels, toggles, [content.content(ORIENTATIONS, MAX_SLICES, embedded)], PANEL_PIXELS)


def _class_browser(result: ScanResult, channels: Sequence[str]) -> dict[str, Any]:
    """Return the data of the browser: all channels, the outlines of the classes, and the uncertainty over all classes."""
    segmentation, scan, toggles = result.segmentation, result.scan, class_toggles(result.classes)
    keys = {f"channel-{index}": index for index in range(len(channels))}
    panels = [Panel(key, channels[index], key, {"brain": "brain"}) for key, index in keys.items()]
    masks = {"brain": scan.brain} | {f"class-{label}": result.mask == label for label in result.classes}
    layers = {toggle.kind: toggle.kind for toggle in toggles}
    panels.insert(1, Panel("masks", f"{channels[0]} with classes", "channel-0", layers))
    maps = {}
    if segmentation.num_members > 1:
        maps["map"] = segmentation.variance
        toggles.append(Toggle("map", "Uncertainty", "U", None))
        panels.insert(2, Panel("map", "Uncertainty", "channel-0", {"map": "map"}))
    toggles.append(Toggle("brain", "Brain", "B", BRAIN_COLOUR, is_on=False))
    content = BrowserScan(scan, "", keys, masks, maps, {}, segmentation.index > 0)
    return browser_data(panels, toggles, [content.content(ORIENTATIONS, MAX_SLICES, embedded)], PANEL_PIXELS)


def _class_volumes(result: ScanResult) -> str:
    """Return the volume of each class."""
    volumes = result.class_volumes
    return ", ".join(f"{name} {volume:.2f} ml" for name, volume in zip(volumes["class"], volumes["volume_ml"], strict=True))


def _class_remarks(result: ScanResult) -> list[str]:
    """Return what the uncertainty of classes means."""
    if result.segmentation.num_members == 1:
        return ["One member: no range and no uncertainty map."]
    return [
        "The label map shows the class with the largest mean probability over the members. The uncertainty is half the sum of "
        "the variances of all classes over the members. It measures their disagreement, not their error."
    ]


def _classes_part(volumes: pd.DataFrame) -> Part:
    """Return a section with a table of the classes."""
    table = pd.DataFrame(
        {
            "Class": volumes["class"],
            "Label": volumes["label"].astype(str),
            "Volume [ml]": [f"{value:.3f}" for value in volumes["volume_ml"]],
            "Over members [ml]": _ranges(volumes, "volume_low_ml", "volume_high_ml", ".3f")
            if volumes["volume_low_ml"].notna().any()
            else "",
            "Probability": ["" if pd.isna(value) else f"{value:.2f}" for value in volumes["mean_probability"]],
        }
    )
    notes = [
        "Over members: the smallest and the largest volume in the members' own label maps. Probability: mean over the voxels "
        "of the class. All columns are in classes.csv."
    ]
    return Part("Classes", table, notes)


def _volume(result: ScanResult) -> str:
    """Return the number of lesions and the lesion volume with its range over members."""
    volume, low, high = result.volumes_ml
    num_members, num_lesions = result.segmentation.num_members, len(result.lesions)
    text = f"{num_lesions} lesion{'' if num_lesions == 1 else 's'}, {volume:.2f} ml in total"
    return text if num_members == 1 else f"{text} (own masks of the {num_members} members: {low:.2f} to {high:.2f} ml)"


def _remarks(result: ScanResult) -> list[str]:
    """Return what the volume means: sentences on the members, their range, and a volume outside of it."""
    volume, low, high = result.volumes_ml
    if result.segmentation.num_members == 1:
        return ["One member: no range and no uncertainty map."]
    count = num_minority_lesions(result.segmentation, result.scan.spacing_mm)
    minority = f"{count} further location{' is' if count == 1 else 's are'}"
    remarks = [
        f"{minority} marked by at least one member, but not by the mean of all members. The range covers the members' own "
        "masks. It measures their disagreement, not their error."
    ]
    if not low <= volume <= high:
        remarks.append(
            f"{OUTSIDE_THE_RANGE}: here it has a {'smaller' if volume < low else 'larger'} volume than each of them."
        )
    return remarks


def _lesions_part(lesions: pd.DataFrame) -> Part:
    """Return a section with a table of the largest lesions."""
    listed = lesions.head(MAX_LISTED_LESIONS)
    has_range = len(lesions) > 0 and lesions["volume_low_ml"].notna().any()
    table = pd.DataFrame(
        {
            "Lesion": listed["lesion"].astype(str),
            "Volume [ml]": [f"{value:.3f}" for value in listed["volume_ml"]],
            "Over members [ml]": _ranges(listed, "volume_low_ml", "volume_high_ml", ".3f") if has_range else "",
            "Probability": [f"{value:.2f}" for value in listed["mean_probability"]],
            "Marked by": [
                f"{count} of {members}" for count, members in zip(listed["members_finding"], listed["members"], strict=True)
            ],
            "Side": listed["side"],
            "Slices": _ranges(listed, "first_k", "last_k", ""),
            "Voxel": _positions(listed, ("voxel_i", "voxel_j", "voxel_k"), ""),
            "Position [mm]": _positions(listed, ("x_mm", "y_mm", "z_mm"), ".1f"),
        }
    )
    notes = [
        "Lesions are connected voxels (26-connectivity). A lesion's number shows its slices in the browser above. Position: "
        "centre of the lesion in scanner coordinates, towards the right, anterior and superior. Side: approximate, relative to "
        "the middle of the brain mask. All columns are in lesions.csv."
    ]
    is_outside = (listed["volume_ml"] < listed["volume_low_ml"]) | (listed["volume_ml"] > listed["volume_high_ml"])
    if is_outside.any():
        names = ", ".join(listed.loc[is_outside, "lesion"].astype(str))
        notes.append(f"{OUTSIDE_THE_RANGE}, so the volume of a lesion may lie outside of their range (here: {names}).")
    if len(lesions) > MAX_LISTED_LESIONS:
        notes.insert(0, f"The {MAX_LISTED_LESIONS} largest of {len(lesions)} lesions.")
    return Part("Lesions", table, notes, left=["Side"])


def _ranges(table: pd.DataFrame, low: str, high: str, number_format: str) -> list[str]:
    """Return "low to high" for each row, or one number if both are equal."""
    texts = []
    for first, last in zip(table[low], table[high], strict=True):
        first_text, last_text = format(first, number_format), format(last, number_format)
        texts.append(first_text if first == last else f"{first_text} to {last_text}")
    return texts


def _positions(table: pd.DataFrame, columns: Sequence[str], number_format: str) -> list[str]:
    return [", ".join(format(value, number_format) for value in row) for row in zip(*(table[c] for c in columns), strict=True)]
