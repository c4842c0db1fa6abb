"""Every file of a data set read and judged before anything is trained on it: all that is wrong, each with its remedy."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from shutil import disk_usage
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

from pd_ddpm import settings
from pd_ddpm.cohort import OBSERVERS, ROLES, CohortError, find_cases
from pd_ddpm.images import check_same_grid, read_image, read_labels, spacing_mm
from pd_ddpm.preparation import brain_mask, check_coverage, cohort_problems, read_transform, resample_to, voxel_hash
from pd_ddpm.processes import in_processes
from pd_ddpm.splits import make_splits

SEVERITIES = ("error", "warning", "note")

# Brain and coverage are judged on every n-th voxel, some 3 mm apart, which takes a small part of the time.
_COARSE_MM = 3.0
_BRAIN_ML = (400, 2500)
_LARGEST_SHARE_OUTSIDE_BRAIN = 0.5
_FEWEST_LESION_VOXELS = 10
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
    def of_config(cls, config: settings.Config, dataset: str) -> Requirements:
        """Those for one of the configuration's data sets."""
        crops = [settings.network(config, name)["crop"] for name in config["networks"]]
        return cls(
            channels=tuple(config["datasets"][dataset]["channels"]),
            orientation=config["preparation"]["orientation"],
            grid_spacing_mm=config["grid"]["spacing_mm"],
            crop=(max(crop[0] for crop in crops), max(crop[1] for crop in crops)),
            folds=config["folds"] if settings.networks_from(config, dataset) == dataset else None,
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


def check_dataset(
    config: settings.Config, dataset: str, target: str | Path, splits: Sequence[int] | None = None, processes: int = 1
) -> Report:
    """Check a data set of the configuration from its folder or table of cases on; see `check_cases`."""
    requirements = Requirements.of_config(config, dataset)
    chosen = config["datasets"][dataset]
    source = chosen.get("table", chosen["folder"])
    if "simulate" in chosen and not (Path(source) / "simulated.json").is_file():
        text = "the workflow simulates these scans and has not done so yet; run snakemake, which checks them too."
        return Report(requirements.channels, [Finding.of_text("warning", "", source, text)])
    try:
        table, problems = find_cases(dataset, chosen), []
    except CohortError as error:
        table, problems = error.table, [Finding.of_text("error", "", source, text) for text in error.problems]
    except ValueError as error:
        table, problems = None, [Finding.of_text("error", "", source, str(error))]
    if table is None:
        return Report(requirements.channels, problems)
    report = check_cases(table, requirements, target, splits, processes)
    report.findings[:0] = problems
    return report


def check_cases(
    table: pd.DataFrame,
    requirements: Requirements,
    target: str | Path,
    splits: Sequence[int] | None = None,
    processes: int = 1,
) -> Report:
    """Read every image of a table of cases whole and return all findings.

    Each case by itself: every byte, the geometry and the values of its files, one grid for image and masks, labels,
    a rough brain mask, and whether the channels cover the brain. Beside each other: equal scans under two names, voxel
    axes, lesions at all, folds and roles (all splits, or those of `splits`). Last, whether `target`, where results go,
    can be written and has the room. Files with an empty path are passed over.
    """
    began = time.monotonic()
    cases = table.to_dict("records")
    outcomes = in_processes(partial(examine_case, requirements=requirements), cases, processes, "checking")
    rows = pd.DataFrame([row for _, row, _ in outcomes if row is not None])
    report = Report(requirements.channels, [one for findings, *_ in outcomes for one in findings], rows, len(cases))
    report.files = sum(files for *_, files in outcomes)
    report.findings += [*_beside_each_other(rows), *_splits(table, requirements.folds, splits)]
    report.findings += _target(Path(target), rows, len(requirements.channels))
    report.seconds = time.monotonic() - began
    return report


def examine_case(case: Mapping[str, Any], requirements: Requirements) -> tuple[list[Finding], dict[str, Any] | None, int]:
    """Findings of one case (a row of the case table), what its scan is like, and how many files were read.

    The second is None if the first channel cannot be read.
    """
    examination = _Examination(case, requirements)
    examination.read()
    row = None if examination.first is None else examination.compare()
    return examination.findings, row, examination.files


class _Examination:
    """The files of one case and what is found out about them."""

    def __init__(self, case: Mapping[str, Any], requirements: Requirements):
        self.case, self.requirements = case, requirements
        self.findings: list[Finding] = []
        self.images: dict[str, nib.Nifti1Image] = {}
        self.masks: dict[str, tuple[np.ndarray, nib.Nifti1Image]] = {}
        self.wrong_transforms: set[str] = set()
        self.files = 0

    @property
    def first(self) -> nib.Nifti1Image | None:
        """The channel that defines the grid."""
        return self.images.get(self.requirements.channels[0])

    def say(self, severity: str, column: str, text: str) -> None:
        self.findings.append(Finding.of_text(severity, self.case["case"], self.case[column], text))

    def attempt(self, column: str, function: Callable, *arguments: Any) -> Any:
        """What the function returns; an error becomes a finding about the file in this column, and None is returned."""
        try:
            return function(*arguments)
        except (ValueError, OSError, RuntimeError) as error:
            self.say("error", column, str(error))
        # What a damaged file leads to that nobody has foreseen must not hide what is wrong with the others.
        except Exception as error:
            self.say("error", column, f"cannot be read ({type(error).__name__}: {error}); fetch or convert it again.")
        return None

    def read(self) -> None:
        """Every file by itself."""
        transforms = [f"{channel}_transform" for channel in self.requirements.channels]
        for columns, function, kept in (
            (self.requirements.channels, read_image, self.images),
            (("mask", *OBSERVERS), read_labels, self.masks),
            (transforms, read_transform, {}),
        ):
            for column in (column for column in columns if self.case[column]):
                self.files += 1
                read = self.attempt(column, function, self.case[column])
                if read is not None:
                    kept[column] = read
                elif function is read_transform:
                    self.wrong_transforms.add(column)

    def compare(self) -> dict[str, Any]:
        """The files with each other and with what the networks need; what the scan is like."""
        first, *others = self.requirements.channels
        for column, (_, image) in list(self.masks.items()):
            if not self.attempt(column, _on_grid, self.first, image, (self.case[first], self.case[column])):
                del self.masks[column]
        labels = self.masks["mask"][0] if "mask" in self.masks else None
        brain_ml = self._look_at_the_brain(labels)
        shape, spacing, codes = _turned(self.first, self.requirements.orientation)
        self._compare_with_networks(shape, spacing, codes)
        hashes = {channel: voxel_hash(np.asarray(image.dataobj)) for channel, image in self.images.items()}
        for channel in others:
            if hashes.get(channel) == hashes[first]:
                self.say("error", channel, f"holds the same voxels as {first}; enter the file of {channel}.")
        ml = float(np.prod(spacing)) / 1000
        return {
            "case": self.case["case"],
            "site": self.case["site"],
            "orientation": codes,
            "size": "x".join(map(str, shape)),
            "spacing_mm": "x".join(f"{size:g}" for size in np.round(spacing, 2)),
            "voxels": int(np.prod(shape)),
            "lesion_ml": None if labels is None else int((labels == 1).sum()) * ml,
            "ignored_ml": None if labels is None else int((labels == 2).sum()) * ml,
            "brain_ml": brain_ml,
            "sha256": hashes[first],
            **{f"sha256 of {channel}": hashes.get(channel) for channel in others},
            "sha256 of mask": voxel_hash(labels) if labels is not None and (labels == 1).any() else None,
        }

    def _look_at_the_brain(self, labels: np.ndarray | None) -> float | None:
        """Its volume in ml, after looking whether lesions lie in it and all channels cover it."""
        if labels is not None and not (labels == 1).any():
            text = "no voxel is lesion (label 1); right if the patient has none: HD95 is then not defined, and Dice is 1 for "
            self.say("warning", "mask", f"{text}a prediction without lesion, else 0.")
        first = self.requirements.channels[0]
        every = tuple(slice(None, None, max(1, int(_COARSE_MM // size))) for size in spacing_mm(self.first))
        coarse = self.first.slicer[every]
        volume = np.asarray(coarse.dataobj).astype(np.float32)
        brain = self.attempt(first, brain_mask, volume, spacing_mm(coarse))
        if brain is None:
            return None
        brain_ml = int(brain.sum()) * float(np.prod(spacing_mm(coarse))) / 1000
        if not _BRAIN_ML[0] <= brain_ml <= _BRAIN_ML[1]:
            text = f"what is taken for the brain holds {brain_ml:.0f} ml, and intensities are normalised over it"
            self.say("warning", first, f"{text}; look whether this is a whole head, and its voxel size.")
        if labels is not None:
            lesion = labels[every] == 1
            outside = (lesion & ~brain).sum() / max(1, lesion.sum())
            if lesion.sum() >= _FEWEST_LESION_VOXELS and outside > _LARGEST_SHARE_OUTSIDE_BRAIN:
                text = f"{outside:.0%} of the lesion lies outside the brain"
                self.say("warning", "mask", f"{text}; look whether the mask is of this scan and not mirrored.")
        for channel, image in self.images.items():
            transform = f"{channel}_transform"
            if transform not in self.wrong_transforms:
                # On the grid already the image is returned as it is, so that this serves the first channel too.
                image = coarse if channel == first else image
                resampled = self.attempt(channel, resample_to, coarse, image, self.case[transform] or None)
                if resampled is not None:
                    self.attempt(channel, check_coverage, self.case, channel, resampled, brain)
        return brain_ml

    def _compare_with_networks(self, shape: Sequence[int], spacing: Sequence[float], codes: str) -> None:
        first = self.requirements.channels[0]
        if codes[2] not in "IS":
            text = f"its third axis points to {codes[2]}, but the networks see slices across this axis, which should be axial"
            self.say("warning", first, f"{text}; set preparation.orientation, to LPS for instance.")
        pixel, crop = self.requirements.grid_spacing_mm, self.requirements.crop
        size = [n if pixel is None else round(n * mm / pixel) for n, mm in zip(shape[:2], spacing[:2], strict=True)]
        if size[0] < crop[0] or size[1] < crop[1]:
            text = f"its slices of {size[0]}x{size[1]} pixels are smaller than the networks' crop of {crop[0]}x{crop[1]}"
            self.say("note", first, f"{text}; nothing is to be done, patches are widened evenly by repeating the edge.")


def _on_grid(flair: nib.Nifti1Image, mask: nib.Nifti1Image, names: tuple[str, str]) -> bool:
    check_same_grid(flair, mask, names)
    return True


def _turned(image: nib.Nifti1Image, orientation: str | None) -> tuple[tuple[int, ...], tuple[float, ...], str]:
    """Shape, spacing in mm and axis codes of a scan after it has been turned to the orientation."""
    if orientation is None:
        return image.shape, spacing_mm(image), "".join(nib.aff2axcodes(image.affine))
    axes = ornt_transform(io_orientation(image.affine), axcodes2ornt(orientation))[:, 0]
    order = np.argsort(axes)
    return tuple(image.shape[axis] for axis in order), tuple(spacing_mm(image)[axis] for axis in order), orientation


def _beside_each_other(rows: pd.DataFrame) -> list[Finding]:
    if rows.empty:
        return []
    findings = [Finding.of_text("error", "", "", text) for text in cohort_problems(rows)]
    known = set(map(tuple, rows.groupby("sha256")["case"].agg(list)))
    for column in (column for column in rows if column.startswith("sha256 of ")):
        for cases in rows.groupby(column)["case"].agg(tuple):
            if len(cases) > 1 and cases not in known:
                text = f"cases {', '.join(cases)} have the same {column.removeprefix('sha256 of ')}; give each its own file."
                severity = "warning" if column.endswith(" mask") else "error"
                findings.append(Finding.of_text(severity, "", "", text))
    if rows["lesion_ml"].notna().any() and not rows["lesion_ml"].fillna(0).any():
        text = "no mask has a voxel of lesion (label 1), so nothing can be learnt; recode the masks to 1 for lesion."
        findings.append(Finding.of_text("error", "", "", text))
    return findings


def _splits(table: pd.DataFrame, folds: Mapping[str, Any] | None, splits: Sequence[int] | None) -> list[Finding]:
    """Whether folds or roles can be dealt out; left alone where the table itself is contradictory, which has been said."""
    roles, given = table["role"], {int(table["role"].ne("").sum()), int(table["fold"].notna().sum())}
    if folds is None or not given <= {0, len(table)} or not set(roles) <= {*ROLES, ""}:
        return []
    wanted = splits if splits is not None else [0] if roles.ne("").any() else range(folds["count"])
    try:
        make_splits(table.drop_duplicates("case"), folds["count"], folds["seed"], folds["stratify_by_site"], wanted)
    except ValueError as error:
        return [Finding.of_text("error", "", "", str(error))]
    return []


def _target(target: Path, rows: pd.DataFrame, channels: int) -> list[Finding]:
    """Whether results can be written and the prepared cases fit: float32 for each channel, uint8 for mask and brain."""
    existing = next(folder for folder in (target.absolute(), *target.absolute().parents) if folder.exists())
    try:
        with tempfile.TemporaryFile(dir=existing) as probe:
            probe.write(bytes(1 << 16))
            probe.flush()
    except OSError as error:
        text = (
            f"results cannot be written there ({error.strerror}); make it a folder that is writable and has room, or another."
        )
        return [Finding.of_text("error", "", target, text)]
    needed = 0 if rows.empty else int(rows["voxels"].sum()) * (4 * channels + 2)
    free = disk_usage(existing).free
    if free >= 2 * needed:
        return []
    # They are compressed, to half or so; samples of the methods come on top.
    severity = "error" if free < needed / 2 else "warning"
    text = (
        f"{free / 1e9:.1f} GB are free, and the prepared cases hold {needed / 1e9:.1f} GB before compression; free some room."
    )
    return [Finding.of_text(severity, "", target, text)]


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
