"""The files of one scan that is segmented: what goes in, and the folder of what comes out."""

import json
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
from pd_ddpm.data.nifti.write import PROBABILITY_SLOPE, write_image
from pd_ddpm.data.preparation.normalise import read_normalised
from pd_ddpm.data.scan import Scan
from pd_ddpm.deployment.bundle import Bundle, Stage
from pd_ddpm.deployment.model_card import chain_row
from pd_ddpm.deployment.review_page import quality_page
from pd_ddpm.deployment.scan_checks import examine_scan
from pd_ddpm.evaluation.lesion_table import lesion_table, total_volume_ml
from pd_ddpm.inference.cost import Cost
from pd_ddpm.inference.ensemble import Segmentation
from pd_ddpm.runtime.files import (
    atomic_write,
    file_sha256,
    fingerprint,
    lock_folder,
    read_completion_record,
    remove_partial_files,
    write_completion_record,
)

RECORD = "prediction.json"
FILES = ("mask.nii.gz", "probability.nii.gz", "uncertainty.nii.gz", "lesions.csv", "quality.html")


def scan_of_arguments(
    images: Mapping[str, Path], transforms: Mapping[str, Path], channels: Sequence[str], name: str | None
) -> dict[str, str]:
    """A row of a case table for a scan without truth.

    Raises ValueError where a channel that the bundle needs is missing, or one is given that it has no use for.
    """
    missing = [channel for channel in channels if channel not in images]
    if missing:
        options = {"FLAIR": "--flair FILE", "T1": "--t1 FILE"}
        asked = ", ".join(options.get(channel, f"--image {channel}=FILE") for channel in missing)
        raise ValueError(f"the bundle's networks see {', '.join(channels)}; give {asked} besides.")
    for what, given in (("image", images), ("transform", transforms)):
        if useless := [channel for channel in given if channel not in channels]:
            raise ValueError(
                f"{what} {', '.join(useless)}: the bundle's networks see {', '.join(channels)} only; leave it out, or use "
                "another bundle."
            )
    if channels[0] in transforms:
        raise ValueError(f"transform of {channels[0]}: it defines the grid and takes none; give it to the others.")
    row = dict.fromkeys(table_columns(channels), "")
    row |= {channel: str(images[channel]) for channel in channels}
    row |= {f"{channel}_transform": str(path) for channel, path in transforms.items()}
    first = images[channels[0]].name.removesuffix(".gz").removesuffix(".nii")
    return row | {"case": clean_name(name or first) or "scan", "site": "unknown"}


@dataclass(frozen=True)
class ScanFolder:
    """A folder for the results of one scan. `case`: a row of a case table; `depends_on`: what they depend on besides."""

    path: Path
    case: dict[str, str]
    depends_on: Any

    @property
    def name(self) -> str:
        return self.case["case"]

    @property
    def unfinished(self) -> Path:
        """Where members outlive a killed process."""
        return self.path / "unfinished"

    @cached_property
    def hashes(self) -> dict[str, str]:
        """Column of the case table -> hash of the file there, empty if there is no such file, which the check will say."""
        files = {key: Path(path) for key, path in self.case.items() if key not in ("case", "site") and path}
        return {key: file_sha256(path) if path.is_file() else "" for key, path in files.items()}

    @property
    def stamp(self) -> str:
        """A hash of the scan's files and of all else that the results depend on."""
        return fingerprint([self.name, self.hashes, self.depends_on])

    def finished(self) -> bool:
        """Whether the same prediction is there, whole."""
        return (self.path / RECORD).is_file() and read_completion_record(self.path / RECORD, self.stamp) is not None

    @contextmanager
    def opened(self, overwrite: bool) -> Iterator[None]:
        """Keep the folder for this process. Raises ValueError if it holds files that would be lost, unless `overwrite`."""
        there = [name for name in (RECORD, *FILES) if (self.path / name).exists()]
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"{self.path}: is no folder; name another --output.")
        if there and not overwrite:
            raise ValueError(
                f"{self.path}: holds {', '.join(there)} of another prediction (scan, bundle or options differ); name another "
                "--output, or give --overwrite to replace them."
            )
        with lock_folder(self.path):
            remove_partial_files(self.path)
            yield
        shutil.rmtree(self.unfinished, ignore_errors=True)
        (self.path / "lock").unlink(missing_ok=True)

    def examine(self, bundle: Bundle) -> list[Finding]:
        """What is wrong with or doubtful about the scan."""
        return examine_scan(self.case, bundle)

    def read(self, bundle: Bundle) -> Scan:
        """The scan as the bundle's networks are given it."""
        preparation = bundle.description["preparation"]
        return read_normalised(self.case, bundle.channels, preparation["normalisation"], preparation["interpolator"])

    def write(
        self,
        scan: Scan,
        members: np.ndarray,
        findings: Sequence[Finding],
        bundle: Bundle,
        stages: Sequence[Stage],
        cost: Cost,
        how: Mapping[str, Any],
        record: Mapping[str, Any],
    ) -> str:
        """Write all results of the members (X, Y, Z, K), the record last, and return them as a sentence.

        cost: of drawing them; how: seed, device, precision and threads, for the page; record: `run_record`'s.
        """
        (self.path / RECORD).unlink(missing_ok=True)
        segmentation = Segmentation.from_members(members)
        mean = np.minimum(segmentation.mean, 255 * PROBABILITY_SLOPE)
        write_image(self.path / "mask.nii.gz", segmentation.mask, scan.reference, np.uint8)
        write_image(self.path / "probability.nii.gz", mean, scan.reference)
        write_image(self.path / "uncertainty.nii.gz", segmentation.variance, scan.reference)
        lesions = lesion_table(segmentation, scan.brain, scan.reference.affine, scan.spacing_mm)
        with atomic_write(self.path / "lesions.csv") as temporary:
            lesions.round(4).to_csv(temporary, index=False, lineterminator="\n")
        count = segmentation.num_members
        spent = cost.total(count)
        made = {
            "Bundle": "{name}, SHA-256 {version}…, made by {made_by}".format(
                version=bundle.version()[:16], **bundle.description
            ),
            "Methods": " → ".join(stage.method for stage in stages),
            "Members": str(count),
            **chain_row(stages[-1].settings),
            "Network evaluations of a slice": str(spent["network_evaluations"]),
            "Time of the networks": f"{spent['seconds']:.1f} s",
            **{key.replace("_", " ").capitalize(): str(value) for key, value in how.items()},
            "Software": f"pd-ddpm {version('pd-ddpm')}, torch {version('torch')}",
            **{f"SHA-256 of {channel}": self.hashes[channel][:16] + "…" for channel in bundle.channels},
        }
        page = quality_page(self.name, scan, segmentation, lesions, findings, bundle.description, made)
        with atomic_write(self.path / "quality.html") as temporary:
            temporary.write_text(page, encoding="utf-8")
        volume, low, high = total_volume_ml(segmentation, scan.spacing_mm)
        row = {
            "name": self.name,
            "lesions": len(lesions),
            "volume_ml": round(volume, 4),
            "volume_low_ml": round(low, 4) if count > 1 else None,
            "volume_high_ml": round(high, 4) if count > 1 else None,
            "warnings": [f"{one.finding}. {one.remedy}." for one in findings],
            "images": {channel: Path(self.case[channel]).name for channel in bundle.channels},
            "settings": json.loads(json.dumps(self.depends_on)),
            "made": made,
            **record,
        }
        write_completion_record(self.path / RECORD, self.stamp, FILES, row)
        interval = f" ({low:.2f} to {high:.2f} over {count} members)" if count > 1 else ""
        doubts = f"; {len(findings)} doubt(s) about the scan, see the page" if findings else ""
        return f"{self.path}: {len(lesions)} lesions, {volume:.2f} ml{interval}{doubts}; look at {self.path / 'quality.html'}"
