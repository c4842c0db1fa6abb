"""Input and output files of one segmented scan."""

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from pd_ddpm.data.cases.table import clean_name, table_columns
from pd_ddpm.data.check.report import Finding
from pd_ddpm.data.foreign_masks import read_foreign_classes, read_foreign_mask
from pd_ddpm.data.nifti.write import PROBABILITY_SLOPE, write_image
from pd_ddpm.data.preparation.frame import Frame
from pd_ddpm.data.preparation.normalise import read_normalised
from pd_ddpm.data.scan import Scan
from pd_ddpm.deployment.bundle import Bundle, Stage
from pd_ddpm.deployment.model_card import chain_row
from pd_ddpm.deployment.review_page import review_page
from pd_ddpm.deployment.scan_checks import check_scan
from pd_ddpm.deployment.scan_result import ScanResult
from pd_ddpm.runtime.files import (
    atomic_write,
    file_sha256,
    fingerprint,
    lock_folder,
    read_completion_record,
    remove_partial_files,
    write_completion_record,
)
from pd_ddpm.runtime.problem import Problem, ProblemError

RECORD = "prediction.json"
IMAGES = ("mask.nii.gz", "probability.nii.gz", "uncertainty.nii.gz")
FILES_OF_LESIONS = (*IMAGES, "lesions.csv", "quality.html")
FILES_OF_CLASSES = (*IMAGES, "class_uncertainty.nii.gz", "classes.csv", "quality.html")
OPTIONS = {"FLAIR": "--flair FILE", "T1": "--t1 FILE"}


class ScanError(ProblemError):
    """Raised for a scan or an output folder that cannot be used."""


def make_scan_row(
    images: Mapping[str, Path], transforms: Mapping[str, Path], channels: Sequence[str], name: str | None
) -> dict[str, str]:
    """Return a row of the case table for a scan without ground truth.

    Args:
        images: channel -> file.
        transforms: channel -> transform file.
        channels: channels of the bundle; the first defines the grid.
        name: name of the scan; None is the name of the first channel's file.

    Raises:
        ScanError: a channel is missing, or the bundle does not use an image or a transform.
    """
    inputs = f"the bundle's networks need {', '.join(channels)}"
    if missing := [channel for channel in channels if channel not in images]:
        options = ", ".join(OPTIONS.get(channel, f"--image {channel}=FILE") for channel in missing)
        raise ScanError(Problem("", f"{inputs}, but {', '.join(missing)} is missing", f"Add {options}"))
    for kind, files in (("image", images), ("transform", transforms)):
        if unused := [channel for channel in files if channel not in channels]:
            location = f"{kind} {', '.join(unused)}"
            raise ScanError(Problem(location, f"{inputs} only", "Omit it, or use another bundle"))
    if channels[0] in transforms:
        problem = "this channel defines the grid and cannot have a transform"
        raise ScanError(Problem(f"transform of {channels[0]}", problem, "Give transforms for other channels only"))
    row = dict.fromkeys(table_columns(channels), "")
    row |= {channel: str(images[channel]) for channel in channels}
    row |= {f"{channel}_transform": str(path) for channel, path in transforms.items()}
    first = re.sub(r"\.nii(\.gz)?$", "", images[channels[0]].name, flags=re.IGNORECASE)
    return row | {"case": clean_name(name or first) or "scan", "site": "unknown"}


@dataclass(frozen=True)
class ScanFolder:
    """A folder for the results of one scan.

    Attributes:
        path: the folder.
        case: the scan, as a row of the case table.
        fingerprint_inputs: everything that the results depend on, except the scan.
        title: name of the scan on its page; empty is that of the folder. It does not affect the results.
    """

    path: Path
    case: dict[str, str]
    fingerprint_inputs: Any
    title: str = ""

    @property
    def name(self) -> str:
        """Name of the scan."""
        return self.case["case"]

    @property
    def partial_dir(self) -> Path:
        """Folder for members that are already sampled, from which a killed process resumes."""
        return self.path / "unfinished"

    @cached_property
    def hashes(self) -> dict[str, str]:
        """Column of the case table -> SHA-256 of its file. It is empty for missing files, which the checks report."""
        files = {key: Path(path) for key, path in self.case.items() if key not in ("case", "patient", "site") and path}
        return {key: file_sha256(path) if path.is_file() else "" for key, path in files.items()}

    @property
    def fingerprint(self) -> str:
        """Hash of the scan's files and of everything else that the results depend on."""
        return fingerprint([self.name, self.hashes, self.fingerprint_inputs])

    def is_finished(self) -> bool:
        """Return whether the folder holds this prediction completely."""
        return (self.path / RECORD).is_file() and read_completion_record(self.path / RECORD, self.fingerprint) is not None

    @contextmanager
    def locked(self, overwrite: bool) -> Iterator[None]:
        """Lock the folder for this process.

        Raises:
            ScanError: the folder holds files that would be lost, and `overwrite` is not set.
        """
        names = dict.fromkeys((RECORD, *FILES_OF_LESIONS, *FILES_OF_CLASSES))
        existing = [name for name in names if (self.path / name).exists()]
        if self.path.exists() and not self.path.is_dir():
            raise ScanError(Problem(self.path, "it is not a folder", "Choose another `--output`"))
        if existing and not overwrite:
            problem = f"it holds {', '.join(existing)} of another prediction (other scan, bundle or options)"
            remedy = "Choose another `--output`, or replace these files with `--overwrite`"
            raise ScanError(Problem(self.path, problem, remedy))
        with lock_folder(self.path):
            remove_partial_files(self.path)
            yield
        shutil.rmtree(self.partial_dir, ignore_errors=True)
        (self.path / "lock").unlink(missing_ok=True)

    def check(self, bundle: Bundle) -> list[Finding]:
        """Return all errors, warnings and notes about the scan."""
        return check_scan(self.case, bundle)

    def read(self, bundle: Bundle) -> Scan:
        """Read the scan with the bundle's preprocessing, on the grid of its prepared cases.

        Bundles without some of the keys are older than these. A new scan has no label, so it is cropped around its centre.
        """
        preparation = bundle.description["preparation"]
        frame = Frame(
            **{key: preparation.get(key) for key in ("margins_voxels", "spacing_mm", "size")},
            orientation=bundle.description["orientation"],
        )
        scan = read_normalised(
            self.case,
            bundle.channels,
            preparation["normalisation"],
            preparation["interpolator"],
            preparation.get("bias_correction", "none"),
            preparation.get("region", "brain"),
            preparation.get("clip"),
            frame,
        )
        return frame.fit(scan)[0]

    def read_presegmentation(self, scan: Scan, classes: Mapping[int, str]) -> np.ndarray | None:
        """Read the mask that the chain starts from, if it is given as a file.

        Args:
            scan: the scan.
            classes: label -> name of each class; empty if masks hold lesions.

        Returns:
            (X, Y, Z) in [0, 1], or (X, Y, Z, C) of classes.
        """
        path = self.case.get("presegmentation")
        if path and classes:
            return read_foreign_classes(path, scan.reference, self.name, list(classes))
        return read_foreign_mask(path, scan.reference, self.name) if path else None

    def write(
        self,
        result: ScanResult,
        bundle: Bundle,
        stages: Sequence[Stage],
        execution: Mapping[str, Any],
        record: Mapping[str, Any],
    ) -> str:
        """Write all results of a scan, with the record of completion at the end.

        Args:
            result: the segmented scan.
            bundle: the bundle.
            stages: its stages, as they were sampled.
            execution: seed, device, precision and threads.
            record: provenance; see `run_record`.

        Returns:
            A summary in one line.
        """
        (self.path / RECORD).unlink(missing_ok=True)
        self._write_images(result)
        table, found = ("classes.csv", result.class_volumes) if result.classes else ("lesions.csv", result.lesions)
        with atomic_write(self.path / table) as temporary:
            found.round(4).to_csv(temporary, index=False, lineterminator="\n")
        facts = self._facts(result, bundle, stages, execution)
        page = review_page(self.title or self.path.resolve().name, result, bundle.description, facts)
        with atomic_write(self.path / "quality.html") as temporary:
            temporary.write_text(page, encoding="utf-8")
        num_members = result.segmentation.num_members
        row = {
            "name": self.name,
            **self._volumes(result),
            "warnings": result.warnings,
            "patient": self.case["patient"],
            "members": num_members,
            "channels": bundle.channels,
            "scan": os.path.relpath(self.case[bundle.channels[0]], self.path),
            "images": {key: Path(self.case[key]).name for key in self._inputs(bundle)},
            "settings": json.loads(json.dumps(self.fingerprint_inputs)),
            "made": facts,
            **record,
        }
        files = FILES_OF_CLASSES if result.classes else FILES_OF_LESIONS
        write_completion_record(self.path / RECORD, self.fingerprint, files, row)
        warnings = f", {len(result.findings)} warning(s) about the scan" if result.findings else ""
        return f"{self.path}: {_summary(result)}{warnings}. Review page: {self.path / 'quality.html'}"

    def _volumes(self, result: ScanResult) -> dict[str, Any]:
        """Return what the record says about the volumes of lesions or of classes."""
        if result.classes:
            volumes = result.class_volumes.round(4)
            pairs = zip(volumes["label"], volumes["class"], volumes["volume_ml"], strict=True)
            return {"classes": [{"label": label, "name": name, "volume_ml": volume} for label, name, volume in pairs]}
        volume, low, high = (round(value, 4) for value in result.volumes_ml)
        is_range = result.segmentation.num_members > 1
        return {
            "lesions": len(result.lesions),
            "volume_ml": volume,
            "volume_low_ml": low if is_range else None,
            "volume_high_ml": high if is_range else None,
        }

    def _inputs(self, bundle: Bundle) -> list[str]:
        """Return the columns of the scan's images and, if it is given as a file, its pre-segmentation."""
        return [*bundle.channels, *(["presegmentation"] if self.case.get("presegmentation") else [])]

    def _write_images(self, result: ScanResult) -> None:
        segmentation, reference = result.segmentation, result.scan.reference
        mean = np.minimum(segmentation.mean, 255 * PROBABILITY_SLOPE)
        write_image(self.path / "mask.nii.gz", result.mask, reference, np.uint8)
        write_image(self.path / "probability.nii.gz", mean, reference)
        write_image(self.path / "uncertainty.nii.gz", segmentation.variance, reference)
        if result.classes:
            write_image(self.path / "class_uncertainty.nii.gz", segmentation.class_variance, reference)

    def _facts(
        self, result: ScanResult, bundle: Bundle, stages: Sequence[Stage], execution: Mapping[str, Any]
    ) -> dict[str, str]:
        """Return labels and values that describe how the prediction was made."""
        num_members = result.segmentation.num_members
        total_cost = result.cost.total(num_members)
        description = bundle.description
        return {
            "Bundle": f"{description['name']}, SHA-256 {bundle.version()[:16]}…, made by {description['made_by']}",
            "Methods": " → ".join([*self._start(), *(stage.method for stage in stages)]),
            "Members": str(num_members),
            **chain_row(stages[-1].settings),
            "Network evaluations of a slice": str(total_cost["network_evaluations"]),
            "Time of the networks": f"{total_cost['seconds']:.1f} s",
            **{key.replace("_", " ").capitalize(): str(value) for key, value in execution.items()},
            "Software": f"pd-ddpm {version('pd-ddpm')}, torch {version('torch')}",
            **{f"SHA-256 of {key}": self.hashes[key][:16] + "…" for key in self._inputs(bundle)},
        }

    def _start(self) -> list[str]:
        """Return the name of the mask that the chain starts from, if it is given as a file."""
        path = self.case.get("presegmentation")
        return [f"mask of another program ({Path(path).name})"] if path else []


def _summary(result: ScanResult) -> str:
    """Return the volumes of lesions, with their range over members, or of the classes."""
    if result.classes:
        volumes = result.class_volumes
        return ", ".join(f"{name} {volume:.2f} ml" for name, volume in zip(volumes["class"], volumes["volume_ml"], strict=True))
    volume, low, high = result.volumes_ml
    num_members = result.segmentation.num_members
    volume_range = f" (own masks of the {num_members} members: {low:.2f} to {high:.2f} ml)" if num_members > 1 else ""
    return f"{len(result.lesions)} lesions, {volume:.2f} ml{volume_range}"
