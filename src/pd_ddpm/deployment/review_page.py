"""One web page about one segmented scan, for the person who has to judge it; it needs no other file and no network."""

import base64
import html
import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from pd_ddpm.data.check.report import Finding
from pd_ddpm.data.scan import Scan
from pd_ddpm.deployment.model_card import INTENDED_USE, facts_part, model_card
from pd_ddpm.evaluation.lesion_table import num_minority_lesions, total_volume_ml
from pd_ddpm.exhibits.document import STYLE, Part, web_page
from pd_ddpm.exhibits.figures.scan_slices import registration_figure, slices_figure
from pd_ddpm.inference.ensemble import Segmentation

LISTED_LESIONS = 40
PAGE_STYLE = STYLE + (
    "img{max-width:100%;background:black}.banner{background:#fdf1d0;border-left:.4em solid #E69F00;padding:.6em 1em}"
    ".volume{font-size:1.3em}details{margin:1em 0}summary{cursor:pointer;font-weight:bold}"
)


def quality_page(
    name: str,
    scan: Scan,
    segmentation: Segmentation,
    lesions: pd.DataFrame,
    findings: Sequence[Finding],
    about: Mapping[str, Any],
    made: Mapping[str, str],
) -> str:
    """The page as HTML.

    lesions: see `lesion_table`; findings: what is doubtful about the scan; about: the content
    of the bundle's bundle.json; made: label -> value, how the prediction was made.
    """
    channels = about["preparation"]["channels"]
    blocks = [
        f"<h1>Lesions of {html.escape(name)}</h1>",
        f'<p class="banner"><strong>{html.escape(_warning(about))}</strong></p>',
        _summary(scan, segmentation, lesions),
        _findings(findings),
        "<h2>Slices</h2>",
        _picture(slices_figure(scan, segmentation), "Slices with the contours of the masks and the maps of uncertainty"),
        f"<p>{html.escape(_legend(segmentation))}</p>",
        _lesions(lesions).html(),
    ]
    if len(channels) > 1:
        blocks += [
            "<h2>Do the channels lie on each other?</h2>",
            _picture(registration_figure(scan, channels), "All channels with the outline of the brain"),
            "<p>The outline is that of the brain in the first channel. Where a channel does not fit it, the masks are worth "
            "nothing: check its header or its transform.</p>",
        ]
    card = model_card(about)
    blocks += [
        facts_part("How this was made", made).html(),
        f"<details><summary>{html.escape(card.title)}</summary>\n{card.body()}</details>",
    ]
    return web_page(f"Lesions of {name}", "\n".join(["", *blocks, ""]), PAGE_STYLE)


def _warning(about: Mapping[str, Any]) -> str:
    simulated = " The networks were trained on simulated scans: nothing here says anything of a patient."
    return INTENDED_USE + (simulated if about["training"]["simulated"] else "")


def _summary(scan: Scan, segmentation: Segmentation, lesions: pd.DataFrame) -> str:
    volume, low, high = total_volume_ml(segmentation, scan.spacing_mm)
    count = segmentation.num_members
    text = f"{len(lesions)} lesion{'' if len(lesions) == 1 else 's'}, {volume:.2f} ml in all"
    if count == 1:
        return f'<p class="volume">{text}</p>\n<p>One member: no interval and no map of uncertainty.</p>'
    further = num_minority_lesions(segmentation, scan.spacing_mm)
    outside = "" if low <= volume <= high else " The mask is cut from their mean, and may hold less or more than each of them."
    return (
        f'<p class="volume">{text} ({low:.2f} to {high:.2f} ml over {count} members)</p>\n'
        f"<p>{further} further place{' is' if further == 1 else 's are'} marked by at least one member, but not by the mean of "
        f"all. The interval holds the members' own masks; it tells how much they differ, not how wrong they are.{outside}</p>"
    )


def _findings(findings: Sequence[Finding]) -> str:
    if not findings:
        return "<p>The scan has passed all checks of its files, and is like those that the networks were trained on.</p>"
    lines = [f"<li>{html.escape(f'{one.finding}. {one.remedy}.')}</li>" for one in findings]
    return f"<h2>What is doubtful about the scan</h2>\n<ul>{''.join(lines)}</ul>"


def _legend(segmentation: Segmentation) -> str:
    text = (
        "Radiological convention: the patient's right is on the left of the picture, anterior is up. Yellow: the mask. Slices "
        "are numbered from 0 along the file's third axis and spread evenly over those with lesions."
    )
    if segmentation.num_members > 1:
        text += " Blue: what at least one member marks. The map's colours follow the square root of the variance."
    return text


def _lesions(lesions: pd.DataFrame) -> Part:
    shown = lesions.head(LISTED_LESIONS)
    single = bool(lesions["volume_low_ml"].isna().all()) if len(lesions) else True
    table = pd.DataFrame(
        {
            "Lesion": shown["lesion"].astype(str),
            "Volume [ml]": [f"{value:.3f}" for value in shown["volume_ml"]],
            "Over members [ml]": [
                "" if single else f"{low:.3f} to {high:.3f}"
                for low, high in zip(shown["volume_low_ml"], shown["volume_high_ml"], strict=True)
            ],
            "Probability": [f"{value:.2f}" for value in shown["mean_probability"]],
            "Found by": [f"{found} of {of}" for found, of in zip(shown["members_finding"], shown["members"], strict=True)],
            "Side": shown["side"],
            "Slices": [
                f"{first}" if first == last else f"{first} to {last}"
                for first, last in zip(shown["first_k"], shown["last_k"], strict=True)
            ],
            "Voxel": [f"{i}, {j}, {k}" for i, j, k in zip(shown["voxel_i"], shown["voxel_j"], shown["voxel_k"], strict=True)],
            "Position [mm]": [
                f"{x:.1f}, {y:.1f}, {z:.1f}" for x, y, z in zip(shown["x_mm"], shown["y_mm"], shown["z_mm"], strict=True)
            ],
        }
    )
    notes = [
        "Lesions are connected voxels (corners count). Position: the lesion's middle, to the right, anterior and superior in "
        "the scanner's frame. Side: right or left of the middle of the brain mask, roughly. All columns: lesions.csv."
    ]
    if len(lesions) > LISTED_LESIONS:
        notes.insert(0, f"The {LISTED_LESIONS} largest of {len(lesions)} lesions.")
    return Part("Lesions", table, notes, left=["Side"])


def _picture(figure: Figure, alternative: str) -> str:
    """A figure as part of the page; JPEG, since noise takes several times as much as PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="jpeg", dpi=130, pil_kwargs={"quality": 88})
    plt.close(figure)
    encoded = base64.b64encode(buffer.getvalue()).decode("ascii")
    return f'<img src="data:image/jpeg;base64,{encoded}" alt="{html.escape(alternative)}">'
