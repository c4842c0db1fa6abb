"""Findings of a dataset check, and the report that lists them with their remedies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from pd_ddpm.config import methods, resolve

SEVERITIES = ("error", "warning", "note")

_LISTED = 8


@dataclass(frozen=True)
class Finding:
    """What is wrong (error), doubtful (warning) or good to know (note) about a file, a case, or the data set (no case)."""

    severity: str
    case: str
    file: str
    finding: str
    remedy: str

    @classmethod
    def of_text(cls, severity: str, case: str, file: str | Path, text: str) -> Finding:
        """From a sentence of the form "file: finding; remedy", as errors have it throughout this package."""
        text = text.removeprefix(f"{file}: ").strip()
        for separator in ("; ", ". "):
            finding, found, remedy = text.rpartition("; ") if separator == "; " else text.partition(". ")
            if found:
                return cls(severity, case, str(file), finding, remedy)
        return cls(severity, case, str(file), text, "")


@dataclass(frozen=True)
class Requirements:
    """What the configuration asks of the scans.

    crop: the largest (height, width) of the networks' training patches, along X and Y, in pixels of grid_spacing_mm;
    None is the scan's own pixel. orientation: axis codes that all scans are turned to; None keeps each scan's own.
    folds: how they are dealt out; None where all cases are only tested.
    """

    channels: tuple[str, ...]
    orientation: str | None
    grid_spacing_mm: float | None
    crop: tuple[int, int]
    folds: Mapping[str, Any] | None

    @classmethod
    def from_config(cls, config: resolve.Config, dataset: str) -> Requirements:
        """Those for one of the configuration's data sets."""
        crops = [resolve.network(config, name)["crop"] for name in config["networks"]]
        return cls(
            channels=tuple(config["datasets"][dataset]["channels"]),
            orientation=config["preparation"]["orientation"],
            grid_spacing_mm=config["grid"]["spacing_mm"],
            crop=(max(crop[0] for crop in crops), max(crop[1] for crop in crops)),
            folds=config["folds"] if methods.networks_from(config, dataset) == dataset else None,
        )


@dataclass
class Report:
    """All findings, a row for every case whose first channel can be read, and how much was looked at."""

    channels: tuple[str, ...] = ()
    findings: list[Finding] = field(default_factory=list)
    cases: pd.DataFrame = field(default_factory=pd.DataFrame)
    listed: int = 0
    files: int = 0
    seconds: float = 0.0

    def count(self, severity: str) -> int:
        """Findings of this severity."""
        return sum(finding.severity == severity for finding in self.findings)

    def table(self) -> pd.DataFrame:
        """One row per finding, errors first."""
        rows = [asdict(finding) for finding in sorted(self.findings, key=lambda one: SEVERITIES.index(one.severity))]
        return pd.DataFrame(rows, columns=["severity", "case", "file", "finding", "remedy"])

    def text(self) -> str:
        """Findings by severity, what the scans of each site are like, and a line of summary."""
        blocks = [_block(severity, self.table()) for severity in SEVERITIES if self.count(severity)]
        if len(self.cases):
            blocks.append(_sites(self.cases).to_string(index=False))
        counts = ", ".join(f"{self.count(severity)} {severity}(s)" for severity in SEVERITIES)
        verdict = "ready" if self.listed else "nothing was checked"
        verdict = "mend the errors before training" if self.count("error") else verdict
        blocks.append(
            f"{self.listed} cases, channels {', '.join(self.channels)}, {self.files} files read in {self.seconds:.0f} s: "
            f"{counts}; {verdict}."
        )
        return "\n\n".join(blocks)


def _block(severity: str, table: pd.DataFrame) -> str:
    """All findings of a severity; the same one of several cases is said once."""
    lines = [f"{severity.upper()}S"]
    chosen = table[table["severity"] == severity]
    for (finding, remedy), group in chosen.groupby(["finding", "remedy"], sort=False):
        if severity == "error" or len(group) == 1:
            places = [
                ", ".join(filter(None, [case and f"case {case}", file]))
                for case, file in zip(group["case"], group["file"], strict=True)
            ]
        else:
            further = f" and {len(group) - _LISTED} more" if len(group) > _LISTED else ""
            places = [f"cases {', '.join(group['case'][:_LISTED])}{further}"]
        lines += [f"  {place}" for place in places if place]
        lines.append(f"    {finding}")
        if remedy:
            lines.append(f"    -> {remedy}")
    return "\n".join(lines)


def _sites(cases: pd.DataFrame) -> pd.DataFrame:
    """One row per site: cases, sizes, spacings, axes, lesion load."""

    def different(values: pd.Series) -> str:
        found = values.value_counts().index.tolist()
        return ", ".join(found[:2]) + (f", {len(found) - 2} more" if len(found) > 2 else "")

    rows = []
    for site, group in cases.groupby("site"):
        loads = group["lesion_ml"].dropna().astype(float)
        load = f"{loads.median():.1f} ({loads.min():.1f} to {loads.max():.1f})" if len(loads) else "unknown"
        rows.append(
            {
                "site": site,
                "cases": len(group),
                "size": different(group["size"]),
                "spacing in mm": different(group["spacing_mm"]),
                "axes": different(group["orientation"]),
                "lesion in ml: median (range)": load,
                "without lesion": int((loads == 0).sum()),
                "label 2 in ml": f"{group['ignored_ml'].fillna(0).astype(float).sum():.1f}",
            }
        )
    return pd.DataFrame(rows)
