"""Findings of a dataset check, and the report that lists them with their remedies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from pd_ddpm.config import methods, resolve
from pd_ddpm.data.nifti.geometry import GRID_TOLERANCE_VOXELS
from pd_ddpm.runtime.problem import Problem

SEVERITIES = ("error", "warning", "note")

_MAX_LISTED_CASES = 8


@dataclass(frozen=True)
class Finding:
    """One row of a dataset check.

    Attributes:
        severity: "error", "warning" (doubtful) or "note" (good to know).
        case: name of the case; empty for the whole dataset.
        file: file or folder; empty for the whole dataset.
        finding: what is wrong, in lower case and without a full stop.
        remedy: what to do, without a full stop.
    """

    severity: str
    case: str
    file: str
    finding: str
    remedy: str

    @classmethod
    def from_problem(cls, severity: str, problem: Problem, case: str = "", file: str | Path | None = None) -> Finding:
        """Return the finding that reports a problem.

        Args:
            severity: see `Finding`.
            problem: what is wrong.
            case: name of the case that the file belongs to.
            file: file under which the finding is listed; None is the location of the problem. If the two differ, the text
                of the finding begins with the location.
        """
        file = problem.location if file is None else str(file)
        text = problem.problem if problem.location in ("", file) else f"{problem.location}: {problem.problem}"
        return cls(severity, case, file, text, problem.remedy)


@dataclass(frozen=True)
class Requirements:
    """What the configuration requires of the scans of a dataset.

    Attributes:
        channels: names of the channels; the first defines the grid.
        orientation: axis codes that all scans are reoriented to; None keeps each scan's own.
        grid_spacing_mm: in-plane pixel size of the networks; None is the scan's own pixel.
        crop: the largest (height, width) of training patches, along X and Y, in pixels of the networks. Networks with a grid
            of their own do not count.
        folds: settings of the folds; None if all cases are only tested.
        source: the dataset's entry in the configuration; empty for a single scan.
        grid_tolerance_voxels: see `check_same_grid`.
        is_head: whether the scans should show a head. Other scans are not compared with what is known of heads.
    """

    channels: tuple[str, ...]
    orientation: str | None
    grid_spacing_mm: float | None
    crop: tuple[int, int]
    folds: Mapping[str, Any] | None
    source: Mapping[str, Any] = field(default_factory=dict)
    grid_tolerance_voxels: float = GRID_TOLERANCE_VOXELS
    is_head: bool = True

    @classmethod
    def from_config(cls, config: resolve.Config, dataset: str) -> Requirements:
        """Return the requirements for one dataset of the configuration."""
        preparation = methods.preparation(config, dataset)
        names = [name for name in config["networks"] if methods.grid_owner(config, name) is None]
        crops = [(1, 1), *(resolve.network(config, name)["crop"] for name in names)]
        return cls(
            channels=tuple(config["datasets"][dataset]["channels"]),
            orientation=preparation["orientation"],
            grid_spacing_mm=config["grid"]["spacing_mm"],
            crop=(max(crop[0] for crop in crops), max(crop[1] for crop in crops)),
            folds=config["folds"] if methods.networks_from(config, dataset) == dataset else None,
            source=config["datasets"][dataset],
            grid_tolerance_voxels=preparation["grid_tolerance_voxels"],
            is_head=preparation["region"] == "brain",
        )


@dataclass
class Report:
    """The result of a dataset check.

    Attributes:
        channels: names of the channels.
        findings: all findings.
        cases: one row per case whose first channel could be read.
        listed: number of cases in the case table.
        files: number of files that were read.
        seconds: wall time.
        image_versions: see `pd_ddpm.data.cases.wmh.image_versions`.
    """

    channels: tuple[str, ...] = ()
    findings: list[Finding] = field(default_factory=list)
    cases: pd.DataFrame = field(default_factory=pd.DataFrame)
    listed: int = 0
    files: int = 0
    seconds: float = 0.0
    image_versions: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    def count(self, severity: str) -> int:
        """Return the number of findings of this severity."""
        return sum(finding.severity == severity for finding in self.findings)

    def table(self) -> pd.DataFrame:
        """Return one row per finding, errors first."""
        rows = [asdict(finding) for finding in sorted(self.findings, key=lambda finding: SEVERITIES.index(finding.severity))]
        return pd.DataFrame(rows, columns=["severity", "case", "file", "finding", "remedy"])

    def text(self) -> str:
        """Return the findings by severity, a table of the sites, and a line of summary."""
        blocks = [_block(severity, self.table()) for severity in SEVERITIES if self.count(severity)]
        if len(self.cases):
            blocks.append(_sites(self.cases).to_string(index=False))
        if self.image_versions:
            versions = [f"{channel} is {', '.join(names)}" for channel, names in self.image_versions.items()]
            blocks.append(f"Images: {'; '.join(versions)}.")
        counts = ", ".join(f"{self.count(severity)} {severity}(s)" for severity in SEVERITIES)
        verdict = "ready" if self.listed else "nothing was checked"
        verdict = "fix the errors before training" if self.count("error") else verdict
        blocks.append(
            f"{self.listed} cases, channels {', '.join(self.channels)}, {self.files} files read in {self.seconds:.0f} s: "
            f"{counts}; {verdict}."
        )
        return "\n\n".join(blocks)


def _block(severity: str, table: pd.DataFrame) -> str:
    """Return all findings of a severity. Warnings and notes that several cases share are listed once."""
    lines = [f"{severity.upper()}S"]
    chosen = table[table["severity"] == severity]
    for (finding, remedy), group in chosen.groupby(["finding", "remedy"], sort=False):
        if severity == "error" or len(group) == 1:
            places = [
                ", ".join(filter(None, [case and f"case {case}", file]))
                for case, file in zip(group["case"], group["file"], strict=True)
            ]
        else:
            further = f" and {len(group) - _MAX_LISTED_CASES} more" if len(group) > _MAX_LISTED_CASES else ""
            places = [f"cases {', '.join(group['case'][:_MAX_LISTED_CASES])}{further}"]
        lines += [f"  {place}" for place in places if place]
        lines += [f"    {finding}.", f"    -> {remedy}."]
    return "\n".join(lines)


def _sites(cases: pd.DataFrame) -> pd.DataFrame:
    """Return one row per site: cases, sizes, spacings, axes, lesion load."""

    def distinct(values: pd.Series) -> str:
        by_frequency = values.value_counts().index.tolist()
        return ", ".join(by_frequency[:2]) + (f", {len(by_frequency) - 2} more" if len(by_frequency) > 2 else "")

    rows = []
    for site, group in cases.groupby("site"):
        rows.append(
            {
                "site": site,
                "cases": len(group),
                "size": distinct(group["size"]),
                "spacing in mm": distinct(group["spacing_mm"]),
                "axes": distinct(group["orientation"]),
                **_mask_columns(group),
            }
        )
    return pd.DataFrame(rows)


def _mask_columns(group: pd.DataFrame) -> dict[str, Any]:
    """Return what the table of sites says about the masks of a site: lesion load and label 2, or the volume of each class."""

    def volume(column: str) -> str:
        values = group[column].dropna().astype(float)
        return f"{values.median():.1f} ({values.min():.1f} to {values.max():.1f})" if len(values) else "unknown"

    if "lesion_ml" not in group:
        return {f"{column}: median (range)": volume(column) for column in group if column.endswith(" in ml")}
    return {
        "lesion in ml: median (range)": volume("lesion_ml"),
        "without lesion": int((group["lesion_ml"].dropna().astype(float) == 0).sum()),
        "label 2 in ml": f"{group['ignored_ml'].fillna(0).astype(float).sum():.1f}",
    }
