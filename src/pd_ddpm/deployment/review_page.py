"""Web page for reviewing one segmented scan. It needs no other files and no network."""

import base64
import html
import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from pd_ddpm.deployment.model_card import facts_part, model_card, warning
from pd_ddpm.deployment.scan_result import ScanResult
from pd_ddpm.evaluation.lesion_table import num_minority_lesions
from pd_ddpm.exhibits.document import STYLE, Part, web_page
from pd_ddpm.exhibits.figures.scan_slices import registration_figure, slices_figure

MAX_LISTED_LESIONS = 40
PAGE_STYLE = STYLE + (
    "img{max-width:100%;background:black}.banner{background:#fdf1d0;border-left:.4em solid #E69F00;padding:.6em 1em}"
    ".volume{font-size:1.3em}details{margin:1em 0}summary{cursor:pointer;font-weight:bold}"
)


def review_page(result: ScanResult, description: Mapping[str, Any], facts: Mapping[str, str]) -> str:
    """Return the page as HTML.

    Args:
        result: the segmented scan.
        description: content of the bundle's bundle.json.
        facts: how the prediction was made, as labels and values.
    """
    title = f"Lesions of {result.scan.case}"
    channels = description["preparation"]["channels"]
    slices = slices_figure(result.scan, result.segmentation)
    blocks = [
        f"<h1>{html.escape(title)}</h1>",
        f'<p class="banner"><strong>{html.escape(warning(description))}</strong></p>',
        _summary(result),
        _warnings(result.warnings),
        "<h2>Slices</h2>",
        _picture(slices, "Slices with the contours of the masks and the uncertainty maps"),
        f"<p>{html.escape(_legend(result.segmentation.num_members))}</p>",
        _lesions_part(result.lesions).html(),
    ]
    if len(channels) > 1:
        blocks += [
            "<h2>Alignment of the channels</h2>",
            _picture(registration_figure(result.scan, channels), "All channels with the outline of the brain"),
            "<p>The outline is the brain in the first channel. If another channel does not match it, the masks are not valid. "
            "Check the header or the transform of that channel.</p>",
        ]
    card = model_card(description)
    blocks += [
        facts_part("How this prediction was made", facts).html(),
        f"<details><summary>{html.escape(card.title)}</summary>\n{card.body()}</details>",
    ]
    return web_page(title, "\n".join(["", *blocks, ""]), PAGE_STYLE)


def _summary(result: ScanResult) -> str:
    """Return the number of lesions and the lesion volume with its range over members, as HTML."""
    volume, low, high = result.volumes_ml
    num_members, num_lesions = result.segmentation.num_members, len(result.lesions)
    text = f"{num_lesions} lesion{'' if num_lesions == 1 else 's'}, {volume:.2f} ml in total"
    if num_members == 1:
        return f'<p class="volume">{text}</p>\n<p>One member: no range and no uncertainty map.</p>'
    num_minority = num_minority_lesions(result.segmentation, result.scan.spacing_mm)
    minority = f"{num_minority} further location{' is' if num_minority == 1 else 's are'}"
    outside = (
        ""
        if low <= volume <= high
        else " The mask is the thresholded mean of the members, so its volume may lie outside the range."
    )
    return (
        f'<p class="volume">{text} ({low:.2f} to {high:.2f} ml over {num_members} members)</p>\n'
        f"<p>{minority} marked by at least one member, but not by the mean of all members. The range covers the members' own "
        f"masks. It measures their disagreement, not their error.{outside}</p>"
    )


def _warnings(warnings: Sequence[str]) -> str:
    if not warnings:
        return "<p>The scan has passed all checks, and its properties are within the range of the training scans.</p>"
    items = "".join(f"<li>{html.escape(text)}</li>" for text in warnings)
    return f"<h2>Warnings about the scan</h2>\n<ul>{items}</ul>"


def _legend(num_members: int) -> str:
    text = (
        "Radiological convention: the patient's right is on the left of the picture, anterior is up. Yellow: the mask. Slices "
        "are numbered from 0 along the file's third axis and spread evenly over those with lesions."
    )
    if num_members > 1:
        text += " Blue: voxels that at least one member marks. Colours of the map follow the square root of the variance."
    return text


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
        "Lesions are connected voxels (26-connectivity). Position: centre of the lesion in scanner coordinates, towards the "
        "right, anterior and superior. Side: approximate, relative to the middle of the brain mask. All columns are in "
        "lesions.csv."
    ]
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


def _picture(figure: Figure, alternative: str) -> str:
    """Return a figure as an HTML image. Its format is JPEG, because PNG files of noisy scans are several times larger."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="jpeg", dpi=130, pil_kwargs={"quality": 88})
    plt.close(figure)
    encoded = base64.b64encode(buffer.getvalue()).decode("ascii")
    return f'<img src="data:image/jpeg;base64,{encoded}" alt="{html.escape(alternative)}">'
